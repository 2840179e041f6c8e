"""`qwen-asr serve`, which is also `qwen-asr-serve-websocket` and `python app.py`: runs the server."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from qwen_asr.cli.common import check_language, load_config
from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import add_options

log = logging.getLogger(__name__)

HELP = "run the server: the page, WebSockets and the OpenAI audio API"
EXAMPLES = """examples:
  %(prog)s --generate-self-signed-cert
      HTTPS on all addresses of this machine; the server prints the URLs
  %(prog)s --asr-model-path Qwen/Qwen3-ASR-0.6B --device cpu
      use exactly this model; without --asr-model-path the server chooses one
  %(prog)s --default-language German --default-context "Grünau, Frau Özdemir"
      the language that is spoken, and names that will occur
  %(prog)s --chunk-size-sec 2 --silence-threshold 1.2
      for a slow machine, and a speaker who makes long pauses

Each option can also be set in the environment: QWEN_ASR_PORT=8443, QWEN_ASR_MODEL_PATH=demo,
QWEN_ASR_GENERATE_SELF_SIGNED_CERT=1. The command line takes precedence.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every option of `Config`."""
    add_options(parser, Config)


def run(options: dict[str, Any], ignored: Sequence[str] = ()) -> int:
    """Serves until the server is stopped; returns the exit code. Raises QwenASRError.

    `ignored` are further options that were given and have no effect.
    """
    config = load_config(options)
    check_language(config.default_language)
    if unneeded := [*ignored, *config.unneeded]:
        log.info("%s: accepted for compatibility; ignored.", ", ".join(unneeded))
    if config.on_zero_gpu:
        from qwen_asr.web.zero_gpu.server import serve  # imports Gradio and torch
    else:
        from qwen_asr.web.app import serve  # as that

    return serve(config)
