"""The options of `qwen-asr stream`. What is heavy comes when it runs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import os
from typing import Any

from qwen_asr.errors import BadConfig

DEFAULT_URL = "wss://localhost:8000/ws/asr"
KEY_VARIABLE = "QWEN_ASR_API_KEY"

EXAMPLES = """examples:
  %(prog)s --cafile certs/qwen_asr_cert.pem interview.m4a
      a file, as fast as the server takes it; --realtime as fast as it was spoken
  %(prog)s --url ws://localhost:8000 --language German --context "Grünau, Frau Özdemir" mic
      the microphone, until Ctrl-C; the last words are still waited for
  arecord -t raw -f S16_LE -r 16000 | %(prog)s --url wss://asr.example.com - --rate 16000
      raw samples of any program; without --rate, - is a whole file

On a terminal the text grows as it is spoken; elsewhere each line is the final text of an utterance. A connection that
is lost is taken up again where it broke off. An API key is better given in the environment, as QWEN_ASR_API_KEY, than
typed where others may read it.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    what = "audio or video file, or its http(s) URL; - is standard input, mic the microphone"
    parser.add_argument("source", metavar="FILE|-|mic", help=what)
    where = f"the server; wss://USER:PASSWORD@HOST where it wants a user and password (default: {DEFAULT_URL})"
    parser.add_argument("--url", default=DEFAULT_URL, help=where)
    parser.add_argument("--cafile", metavar="PEM", help="certificate to trust, a CA's or the server's own")
    parser.add_argument("--api-key", metavar="KEY", help=f"where the server wants one (default: ${KEY_VARIABLE})")
    parser.add_argument("--language", metavar="LANGUAGE", help="language that is spoken (default: the server's)")
    parser.add_argument("--context", default="", metavar="TEXT", help="names and terms that are spoken")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="instruction in front of the context")
    parser.add_argument("--rate", metavar="HZ", help="standard input is raw samples at this rate: s16le, mono")
    parser.add_argument("--realtime", action="store_true", help="send no faster than it was spoken")


def run(options: dict[str, Any]) -> int:
    """Streams; returns the exit code. Raises QwenASRError."""
    rate = _rate(options["rate"])
    from qwen_asr.cli.streaming import Streaming, stream  # heavy: numpy, av

    names = ("source", "url", "cafile", "language", "context", "prompt", "realtime")
    wanted = {name: options[name] for name in names}
    return stream(Streaming(**wanted, rate=rate, api_key=options["api_key"] or os.environ.get(KEY_VARIABLE)))


def _rate(typed: str | None) -> int | None:
    if typed is None:
        return None
    from qwen_asr.audio.samples import HIGHEST_RATE, LOWEST_RATE

    if not typed.isascii() or not typed.isdigit() or not LOWEST_RATE <= int(typed) <= HIGHEST_RATE:
        raise BadConfig(f"--rate was given {typed!r}, but expects a whole number from {LOWEST_RATE} to {HIGHEST_RATE}.")
    return int(typed)
