"""The command line: `qwen-asr-serve-websocket` (and app.py) serve; `qwen-asr` does single jobs.

Every foreseen failure becomes one sentence on stderr and an exit code, here and nowhere else. What is heavy (torch,
Gradio) is imported where it is used, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from qwen_asr import __version__, logs
from qwen_asr.cli import stream as stream_command
from qwen_asr.config.config import Config
from qwen_asr.config.options import add_options, from_options, unknown_variables
from qwen_asr.errors import AudioError, BadConfig, QwenASRError

if TYPE_CHECKING:
    from qwen_asr.cli.progress import Progress
    from qwen_asr.live.events import Final

log = logging.getLogger(__name__)

FORMATS = ("txt", "srt", "vtt", "json")
_OF_FILES = (
    "asr_model_path",
    "device",
    "dtype",
    "vad_threshold",
    "silence_threshold",
    "min_speech_duration",
    "max_utterance_seconds",
    "max_new_tokens",
)

_SERVE_EXAMPLES = """examples:
  %(prog)s --generate-self-signed-cert
      HTTPS on all addresses of this machine; the log lists them
  %(prog)s --asr-model-path Qwen/Qwen3-ASR-0.6B --device cpu
      a model of your choice; it is never replaced by another
  %(prog)s --default-language German --default-context "Grünau, Frau Özdemir"
      what is spoken, and names that will come up
  %(prog)s --chunk-size-sec 2 --silence-threshold 1.2
      for a slow machine and a speaker who thinks in between

Each option can be given in the environment too: QWEN_ASR_PORT=8443, QWEN_ASR_MODEL_PATH=demo,
QWEN_ASR_GENERATE_SELF_SIGNED_CERT=1. The command line wins.
"""

_TRANSCRIBE_EXAMPLES = """examples:
  %(prog)s interview.m4a
  %(prog)s --language German --context "Grünau, Frau Özdemir" *.mp3
  %(prog)s --asr-model-path ./Qwen3-ASR-0.6B --device cpu --format srt talk.webm > talk.srt
  ffmpeg -i talk.mkv -f wav - | %(prog)s -

A line of text is an utterance; with several files it is FILE: TEXT, and JSON is an array of them. A file that cannot
be read is said on stderr, the others are transcribed all the same, and the exit code is not 0.
"""


_CERT_EXAMPLES = """examples:
  %(prog)s show
      the files that the program has made in certs/: what they are, for which names, until when, and what to do
  %(prog)s show fullchain.pem privkey.pem
  %(prog)s check /etc/letsencrypt/live/asr.example.com/fullchain.pem /etc/letsencrypt/live/asr.example.com/privkey.pem
      the same, and exit code 1 where a server could not start with them
  %(prog)s renew
      a new self-signed certificate, or a new one of the local CA, which itself stays

The password of an encrypted key is taken from QWEN_ASR_SSL_KEYFILE_PASSWORD.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is stopped; returns the exit code. `argv` are the arguments without the program's name."""
    parser = _parser("Live speech recognition with Qwen3-ASR: a page to speak into and to read.", _SERVE_EXAMPLES)
    add_options(parser, Config)
    return _run(parser, argv, _serve)


def tool(argv: Sequence[str] | None = None) -> int:
    """`qwen-asr`: the command with subcommands; returns the exit code."""
    parser = _parser("Speech recognition with Qwen3-ASR.", "")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = _subparser(commands, "serve", "serve the page", _SERVE_EXAMPLES)
    add_options(serve, Config)
    serve.set_defaults(action=_serve)
    transcribe = _subparser(commands, "transcribe", "print the text of audio files", _TRANSCRIBE_EXAMPLES)
    _add_transcribe_options(transcribe)
    transcribe.set_defaults(action=_transcribe)
    _add_cert_commands(commands)
    stream = _subparser(commands, "stream", "send a file or the microphone to a server", stream_command.EXAMPLES)
    stream_command.add_options(stream)
    stream.set_defaults(action=stream_command.run)
    return _run(parser, argv, None)


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as BadConfig: one sentence, instead of the usage and a sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises BadConfig with argparse's own message made a sentence."""
        raise BadConfig(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")


def _parser(description: str, epilog: str) -> _Parser:
    # No abbreviations: an option that is added later would change what `--max` means.
    parser = _Parser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_version(parser)
    return parser


def _subparser(commands: Any, name: str, help: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_version(parser)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"qwen-asr-live {__version__}")


def _add_transcribe_options(parser: argparse.ArgumentParser) -> None:
    what = "audio or video, in any common format; - is standard input, an http(s) URL is fetched"
    parser.add_argument("files", nargs="+", metavar="FILE", help=what)
    parser.add_argument("--language", metavar="LANGUAGE", help="language that is spoken (default: recognized)")
    parser.add_argument("--context", default="", metavar="TEXT", help="names and terms that are spoken")
    parser.add_argument("--format", default="txt", choices=FORMATS, help="what to print (default: txt)")
    parser.add_argument("--verbose", action="store_true", help="say on stderr what is being done")
    add_options(parser, Config, *_OF_FILES)


def _add_cert_commands(commands: Any) -> None:
    cert = _subparser(commands, "cert", "show, check and renew certificates", _CERT_EXAMPLES)
    verbs = cert.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, help, files in (
        ("show", "say what files are, and whether they fit each other", "certificates and keys, PEM"),
        ("check", "the same, with exit code 1 where something is wrong", "certificates and keys, PEM"),
        ("renew", "make the certificates anew that the program made", "certificates that the program made"),
    ):
        parser = _subparser(verbs, verb, help, _CERT_EXAMPLES.replace("%(prog)s", "qwen-asr cert"))
        parser.add_argument("files", nargs="*", metavar="FILE", help=f"{files} (default: those in certs/)")
        if verb != "renew":
            add_options(parser, Config, "ssl_keyfile_password")
    cert.set_defaults(action=_cert)


def _run(parser: _Parser, argv: Sequence[str] | None, action: Callable[[dict[str, Any]], int] | None) -> int:
    """Parses and acts; the one place where errors become exit codes."""
    try:
        with _ended_by_interrupt():
            options = vars(parser.parse_args(argv))
            chosen = action or options["action"]
            return int(chosen(options))
    except QwenASRError as error:
        _complain(parser.prog, error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """SIGINT ends the process at once, as SIGTERM does, until the server takes both to stop in order.

    Python's KeyboardInterrupt, raised wherever the program happens to be, would come out of a half-done import as
    another error, and not before a step of the model is over. A SIGINT that is ignored (a shell's `&`) stays ignored.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _complain(program: str, error: QwenASRError) -> None:
    print(f"{program}: error: {error}", file=sys.stderr)  # noqa: T201 - what a command line says goes to stderr


def _serve(options: dict[str, Any]) -> int:
    config = _configured(options, None)
    _check_language(config.default_language)
    if config.unneeded:
        log.info("%s: accepted for old scripts; this engine needs no such setting.", ", ".join(config.unneeded))
    from qwen_asr.web.app import serve  # heavy: Gradio and torch

    return serve(config)


def _transcribe(options: dict[str, Any]) -> int:
    files: list[str] = options["files"]
    if len(files) > 1 and options["format"] in ("srt", "vtt"):
        raise BadConfig(
            f"--format {options['format']} was given with {len(files)} files, but has no place for their names: give "
            "one file at a time, or --format txt or json."
        )
    config = _configured(options, "info" if options["verbose"] else "warning")
    _check_language(options["language"])
    from transformers.utils.logging import disable_progress_bar  # heavy, as the next

    from qwen_asr.cli.progress import Progress
    from qwen_asr.cli.transcribe import FileTranscriber

    if not options["verbose"]:
        disable_progress_bar()  # it shows one even where stderr is a file
    progress = Progress(files)
    transcriber = FileTranscriber(
        config, language=options["language"], context=options["context"], on_read=progress.took
    )
    exit_code = 0
    whole: list[tuple[str, list[Final]]] = []  # but for txt, of which each line is printed as soon as it is known
    for name in files:
        try:
            finals = transcriber.finals(name)
            if options["format"] == "txt":
                finals = _print_lines(finals, "" if len(files) == 1 else f"{name}: ", progress)
            whole.append((name, list(finals)))
        except AudioError as error:
            with progress.aside():
                _complain("qwen-asr transcribe", error)
            exit_code = error.exit_code
            continue
        if not any(final.text.strip() for final in whole[-1][1]):
            with progress.aside():
                print(f"No speech was found in {name}.", file=sys.stderr)  # noqa: T201 - as _complain
    progress.close()
    if options["format"] != "txt":
        _print_whole(whole, options["format"], several=len(files) > 1)
    return exit_code


def _cert(options: dict[str, Any]) -> int:
    from qwen_asr.cli import cert as commands

    password = options.get("ssl_keyfile_password") or os.environ.get("QWEN_ASR_SSL_KEYFILE_PASSWORD")
    if options["verb"] == "renew":
        report = commands.renew(options["files"])
    else:
        report = commands.show(options["files"], password)
    print(report.text)  # noqa: T201 - what was asked for is the output
    return 1 if report.missing or (options["verb"] == "check" and report.problems) else 0


def _print_lines(finals: Iterator[Final], prefix: str, progress: Progress) -> Iterator[Final]:
    """Prints each as it passes."""
    from qwen_asr.live.subtitles import txt

    for final in finals:
        if line := txt([final]):
            with progress.aside():
                print(prefix + line, end="", flush=True)  # noqa: T201 - the text is the output
        yield final


def _print_whole(files: list[tuple[str, list[Final]]], form: str, *, several: bool) -> None:
    from qwen_asr.live import subtitles
    from qwen_asr.live.transcript import Transcript

    if several:
        objects = [{"file": name} | Transcript(finals).as_dict() for name, finals in files]
        text = json.dumps(objects, ensure_ascii=False, indent=2) + "\n"
    else:
        write = {"srt": subtitles.srt, "vtt": subtitles.vtt, "json": subtitles.as_json}[form]
        text = "".join(write(finals) for _, finals in files)
    print(text, end="", flush=True)  # noqa: T201 - the text is the output


def _configured(options: dict[str, Any], log_level: str | None) -> Config:
    """The Config of the options and the environment; logging begins at `log_level`, by default the Config's."""
    config = from_options(Config, options, os.environ)
    logs.configure(log_level or config.log_level, config.log_format)
    if unknown := unknown_variables(Config, os.environ):
        log.warning("The environment has %s, which is no option: check the spelling.", ", ".join(unknown))
    return config


def _check_language(language: str | None) -> None:
    """Raises UnknownLanguage now, instead of when the first person speaks."""
    if language is not None:
        from qwen_asr.engine.languages import resolve_language

        resolve_language(language)
