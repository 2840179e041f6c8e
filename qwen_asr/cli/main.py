"""The entry points: `main` runs the server, `run_subcommand` is `qwen-asr`, the others are Qwen's own commands.

To add a command, write a module with `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(options)`, and add it to
`COMMANDS`. A command imports what is slow to import (torch, Gradio, numpy) inside `run`, so that `--help` and mistyped
options respond immediately.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from qwen_asr import __version__
from qwen_asr.cli import cert, compatibility, engine, models, serve, stream, transcribe
from qwen_asr.cli.common import print_error
from qwen_asr.errors import BadConfig, QwenASRError, StartupError, missing_package

COMMANDS = {
    "serve": serve,
    "engine": engine,
    "transcribe": transcribe,
    "stream": stream,
    "models": models,
    "cert": cert,
}
BROKEN_PIPE = 141
"""The exit code of a program that SIGPIPE (13) ended, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr-serve-websocket` and `app.py`: runs the server; returns the exit code.

    `argv` are the arguments without the program's name.
    """
    parser = _Parser(description="Live speech recognition with Qwen3-ASR.", epilog=serve.EXAMPLES)
    serve.add_arguments(parser)
    return _parse_and_run(parser, argv, serve.run)


def demo(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr-demo`: runs the server with the options of Qwen's own command; returns the exit code."""
    return _run_compatible(compatibility.DEMO, _Parser, argv)


def demo_streaming(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr-demo-streaming`: runs the server with the options of Qwen's own command; returns the exit code."""
    return _run_compatible(compatibility.DEMO_STREAMING, _Parser, argv)


def serve_model(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr-serve`: runs the server with the options of vllm serve; returns the exit code."""
    return _run_compatible(compatibility.SERVE, _LenientParser, argv)


def run_subcommand(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr`: runs one of `COMMANDS`; returns the exit code."""
    parser = _Parser(prog="qwen-asr", description="Speech recognition with Qwen3-ASR.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        description = f"{command.HELP[0].upper()}{command.HELP[1:]}."
        subparser = subparsers.add_parser(name, help=command.HELP, description=description, epilog=command.EXAMPLES)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return _parse_and_run(parser, argv)


class _Parser(argparse.ArgumentParser):
    """The parser of every command and subcommand. Reports a mistake as BadConfig instead of printing the usage."""

    def __init__(self, **options: Any) -> None:
        # No abbreviations: with them, a new option could change the meaning of `--max`.
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.add_argument("--version", action="version", version=f"qwen-asr-live {__version__}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but a subcommand itself reports the options that it does not have, and similar ones."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(self._with_suggestion, unknown))}")
        return parsed, unknown

    def _with_suggestion(self, argument: str) -> str:
        """The argument, and the option that it is most like, if there is one."""
        name = argument.partition("=")[0] if argument.startswith("-") else ""
        similar = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"{argument} (did you mean {similar[0]}?)" if similar else argument

    def error(self, message: str) -> NoReturn:
        """Raises BadConfig with argparse's message as a sentence."""
        raise BadConfig(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")


class _LenientParser(_Parser):
    """Leaves out the options that it does not have, and keeps their names in `ignored`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's."""
        given = sys.argv[1:] if args is None else list(args)
        known, ignored = compatibility.without_unknown(given, self._option_string_actions)
        parsed, unknown = super().parse_known_args(known, namespace)
        parsed.ignored = ignored
        return parsed, unknown


def _run_compatible(command: compatibility.Command, kind: type[_Parser], argv: Sequence[str] | None) -> int:
    parser = kind(prog=command.program, description=command.description, epilog=command.examples)
    command.add_arguments(parser)
    return _parse_and_run(parser, argv, command.run)


def _parse_and_run(
    parser: _Parser, argv: Sequence[str] | None, run: Callable[[dict[str, Any]], int] | None = None
) -> int:
    """Runs the command with the parsed options; returns the exit code. The one place where errors become exit codes."""
    try:
        with _sigint_ends_process():
            options = vars(parser.parse_args(argv))
            run = run or options["run"]
            return int(run(options))
    except QwenASRError as error:
        print_error(parser.prog, error)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "qwen_asr":
            raise
        print_error(parser.prog, StartupError(missing_package(error.name)))
        return StartupError.exit_code
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed it. Without this, Python would complain when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


@contextlib.contextmanager
def _sigint_ends_process() -> Iterator[None]:
    """SIGINT ends the process immediately, like SIGTERM, until the server installs its own handlers for both.

    Python would raise KeyboardInterrupt instead, which turns into other errors inside an import, and waits until a step
    of the model is finished. A SIGINT that is ignored (a shell's `&`) stays ignored.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
