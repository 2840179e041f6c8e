"""Helpers shared by the commands: configuration with logging, the language check, and error output."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from qwen_asr import logs
from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import from_options, unknown_variables
from qwen_asr.errors import QwenASRError

if TYPE_CHECKING:
    from qwen_asr.audio.tracks import SoundChoice

log = logging.getLogger(__name__)


def load_config(options: dict[str, Any], log_level: str | None = None) -> Config:
    """The Config from the options and the environment; starts logging at `log_level` (default: the Config's level).

    Raises BadConfig.
    """
    config = from_options(Config, options, os.environ)
    logs.configure(log_level or config.log_level, config.log_format)
    if unknown := unknown_variables(Config, os.environ):
        log.warning("The environment has %s, which is not an option: check the spelling.", ", ".join(unknown))
    return config


def check_language(language: str | None) -> None:
    """Raises UnknownLanguage at startup instead of when the first session begins."""
    if language is not None:
        from qwen_asr.engine.languages import resolve_language

        resolve_language(language)


def add_sound_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose what to hear of a file."""
    what = "audio track of a file: its number, from 1, or its language (default: the first that speaks)"
    parser.add_argument("--track", metavar="N|LANGUAGE", help=what)
    what = "channel of the track: a number, from 1, left, right, center, or FFmpeg's name (default: all, mixed)"
    parser.add_argument("--channel", metavar="N|NAME", help=what)


def sound_choice(options: dict[str, Any]) -> SoundChoice:
    """The track and the channel that the options name. `--language` decides between tracks that are left open."""
    from qwen_asr.audio.tracks import parse_choice  # imports av
    from qwen_asr.engine.languages import language_tags

    return parse_choice(options["track"], options["channel"], options["language"], language_tags)


def print_message(sentence: str) -> None:
    """Prints a line for people on stderr."""
    print(sentence, file=sys.stderr)  # noqa: T201 - stdout is for the results


def print_error(program: str, error: QwenASRError) -> None:
    """Prints the error as one line on stderr."""
    print(f"{program}: error: {error}", file=sys.stderr)  # noqa: T201 - errors of a command line go to stderr
