"""`qwen-asr transcribe`: prints the text of audio files, through the same session that the page uses.

A file is read block by block, so its length does not matter. Its silence is skipped, and each utterance is written, in
every format, while the rest of the file is still being read.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qwen_asr.cli.common import add_sound_options, check_language, load_config, print_error, print_message, sound_choice
from qwen_asr.config.config import Config
from qwen_asr.config.model_paths import check_single
from qwen_asr.config.option_fields import add_options, flag
from qwen_asr.errors import AudioError, BadConfig, OtherResult, StepFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwen_asr.audio.tracks import SoundChoice
    from qwen_asr.cli.outputs import Output, Resume
    from qwen_asr.cli.progress import Progress
    from qwen_asr.engine.recognizer import Recognizer
    from qwen_asr.live.events import Final
    from qwen_asr.live.session import Session
    from qwen_asr.live.subtitles.cues import CueLimits

log = logging.getLogger(__name__)

HELP = "print the text of audio files"
EXAMPLES = """examples:
  %(prog)s interview.m4a
  %(prog)s --language German --context "Grünau, Frau Özdemir" *.mp3
  %(prog)s --asr-model-path ./Qwen3-ASR-0.6B --device cpu --format srt talk.webm > talk.srt
  ffmpeg -i talk.mkv -f wav - | %(prog)s -
  %(prog)s --output-dir subtitles --format srt monday/*.mp4 tuesday/*.mp4

Each utterance is printed as soon as it is known. With the format txt it is a line; with several files the lines begin
with FILE:, and json is an array of them. A file that cannot be read is reported on stderr, the others are still
transcribed, and the exit code is not 0.

With --output-dir, talk.mp4 gives DIR/talk.srt. Where several files would give the same, they keep their extension
(talk.mp4.srt), and then their folder (monday/talk.mp4.srt). Standard input gives stdin.srt. Until all is transcribed
the file is DIR/talk.srt.part, which grows with each utterance. After an interruption the same command goes on from
there. A result that exists is skipped.
"""
FORMATS = ("txt", "srt", "vtt", "json")
TIMED_FORMATS = ("srt", "vtt", "json")
"""Those that use the times of words, if the model has an aligner."""
CONFIG_OPTIONS = (
    "asr_model_path",
    "aligner_model_path",
    "device",
    "dtype",
    "quantize",
    "vad_threshold",
    "silence_threshold",
    "min_speech_duration",
    "max_utterance_seconds",
    "max_new_tokens",
)
"""The options of the server that apply to files too."""
STANDARD_INPUT = "Standard input"
# What a transcript does not depend on. The options of the server come from the configuration.
_NO_CONDITIONS = ("files", "format", "output_dir", "overwrite", "verbose", "run", *CONFIG_OPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the files, the options of the command, and those of the server that apply to files."""
    what = "audio or video in any common format; - is standard input; an http(s) URL is downloaded"
    parser.add_argument("files", nargs="+", metavar="FILE", help=what)
    parser.add_argument("--language", metavar="LANGUAGE", help="language that is spoken (default: recognized)")
    parser.add_argument("--context", default="", metavar="TEXT", help="names and terms that occur in the audio")
    add_sound_options(parser)
    parser.add_argument("--format", default="txt", choices=FORMATS, help="output format (default: txt)")
    # The first two are named as in Whisper's command.
    what = "columns of a line of srt and vtt, 2 for a wide character (default: 42)"
    parser.add_argument("--max-line-width", type=_between(int, 4, 1000), metavar="COLUMNS", help=what)
    what = "lines of a cue of srt and vtt (default: 2)"
    parser.add_argument("--max-line-count", type=_between(int, 1, 100), metavar="LINES", help=what)
    what = "longest time of a cue of srt and vtt (default: 7)"
    parser.add_argument("--max-cue-seconds", type=_between(float, 0.5, 3600), metavar="SECONDS", help=what)
    what = "write each result to a file in DIR, which is created; complete ones are skipped, others are resumed"
    parser.add_argument("--output-dir", metavar="DIR", help=what)
    parser.add_argument("--overwrite", action="store_true", help="begin results again that DIR has")
    parser.add_argument("--verbose", action="store_true", help="log each step on stderr")
    add_options(parser, Config, *CONFIG_OPTIONS)


def run(options: dict[str, Any]) -> int:
    """Transcribes the files; returns the exit code. Raises QwenASRError for errors that concern all files."""
    files: list[str] = options["files"]
    output = _output(options)
    config = load_config(options, "info" if options["verbose"] else "warning")
    check_single(config.models, "transcribe")
    check_language(options["language"])
    files = output.begin(files)
    if not files:
        return 0

    from qwen_asr.cli.progress import Progress

    with Progress(files) as progress:
        report = log.info if options["verbose"] else progress.show_status
        report("Starting")
        from transformers.utils.logging import disable_progress_bar  # imports torch, which takes seconds

        if not options["verbose"]:
            disable_progress_bar()  # transformers shows its own bar even if stderr is a file
        transcriber = FileTranscriber(
            config,
            language=options["language"],
            context=options["context"],
            choice=sound_choice(options),
            words=options["format"] in TIMED_FORMATS,
            on_status=report,
            on_read=progress.add_samples,
        )
        return _transcribe_files(transcriber, files, output, progress)


def _output(options: dict[str, Any]) -> Output:
    """Where the results go. Raises BadConfig for options that exclude or require each other."""
    from qwen_asr.cli.outputs import ResultFolder, StandardOutput

    files, form, folder, limits = options["files"], options["format"], options["output_dir"], _cue_limits(options)
    if folder:
        conditions = {name: value for name, value in options.items() if name not in _NO_CONDITIONS}
        return ResultFolder(Path(folder), form, conditions, overwrite=options["overwrite"], limits=limits)
    if options["overwrite"]:
        raise BadConfig("--overwrite was given without --output-dir: give the folder with the results.")
    if len(files) > 1 and form in ("srt", "vtt"):
        raise BadConfig(
            f"--format {form} was given with {len(files)} files, which standard output cannot hold: give --output-dir "
            "and a folder, one file at a time, or --format txt or json."
        )
    return StandardOutput(form, several=len(files) > 1, limits=limits)


def _cue_limits(options: dict[str, Any]) -> CueLimits:
    """The limits of cues. Raises BadConfig if they are given for a format that has no cues."""
    from qwen_asr.live.subtitles.cues import CueLimits

    names = {"columns": "max_line_width", "lines": "max_line_count", "seconds": "max_cue_seconds"}
    given = {field: options[name] for field, name in names.items() if options[name] is not None}
    if given and options["format"] not in ("srt", "vtt"):
        flags = " and ".join(flag(names[field]) for field in given)
        raise BadConfig(f"{flags} was given with --format {options['format']}, which has no cues: give srt or vtt.")
    return CueLimits(**given)


def _between(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """The type of an argument that is a number in a range."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"{text!r} was given, expected a {whole}number from {low} to {high}")
        return value

    return parse


def _transcribe_files(transcriber: FileTranscriber, files: list[str], output: Output, progress: Progress) -> int:
    """Writes the transcript of each readable file while it comes; returns the exit code."""
    exit_code = 0
    with output:
        for name in files:
            try:
                found_speech = output.write(name, transcriber.finals, progress)
            except (AudioError, OtherResult) as error:
                with progress.paused():
                    print_error("qwen-asr transcribe", error)
                exit_code = error.exit_code
                continue
            if not found_speech:
                with progress.paused():
                    print_message(f"No speech was found in {name}.")
    return exit_code


class FileTranscriber:
    """Transcribes files with one model, which is loaded for the first file that contains audio."""

    def __init__(
        self,
        config: Config,
        *,
        language: str | None = None,
        context: str = "",
        choice: SoundChoice | None = None,
        words: bool = False,
        on_status: Callable[[str], None] = log.info,
        on_read: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """`choice` is the track and the channel of the files. `words`: whether to find the times of words, if the model
        has an aligner.

        `on_status` receives sentences while the model is loaded, `on_read` the number of samples (16 kHz) read.
        """
        from qwen_asr.audio.vad import Silero  # imports onnxruntime

        self._config = config
        self._language = language
        self._context = context
        self._choice = choice
        self._words = words
        self._on_status = on_status
        self._on_read = on_read
        self._silero = Silero()
        self._recognizer: Recognizer | None = None

    def finals(self, name: str, resume: Resume | None = None) -> Iterator[Final]:
        """The utterances of a file, in order, each as soon as it is known.

        `name` is a path, an http(s) URL, or "-" for standard input. `resume` receives what the utterances depend on
        (content, model, options of the server; ready for JSON) and returns the first of them if they are known: they
        are not decoded again. Raises AudioError if the file is not audio (before a model is loaded), CheckpointError
        if there is no model, and StepFailed if the model fails.
        """
        from qwen_asr.audio.decode import decode_blocks
        from qwen_asr.cli.results import identified
        from qwen_asr.live.events import Failed, Final
        from qwen_asr.live.runner import run_session

        source, shown = _open(name), STANDARD_INPUT if name == "-" else repr(name)
        content: dict[str, Any] = {}
        if resume is not None:
            source, content = identified(source, shown)
        blocks = decode_blocks(source, shown, choice=self._choice)
        first = next(blocks, None)
        if first is None:
            raise AudioError(f"{name!r} contains no audio; expected an audio or video file.")
        session = self._session()
        if resume is not None:
            session.recall(resume({"content": content} | self._conditions()))
        for event in run_session(session, self._counted(chain([first], blocks))):
            if isinstance(event, Failed):
                raise StepFailed(event.message)
            if isinstance(event, Final):
                yield event

    def _counted(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            yield block
            self._on_read(len(block))  # the session asks for more, so it is done with this one

    def _session(self) -> Session:
        from qwen_asr.engine.device.inference_only import for_inference_only
        from qwen_asr.engine.local_engine import LocalModel
        from qwen_asr.live.session_factory import create_session
        from qwen_asr.live.session_options import SessionOptions, endpoints_of

        config = self._config
        if self._recognizer is None:
            self._recognizer = for_inference_only(self._load_recognizer)
        options = SessionOptions(
            language=self._language,
            context=self._context,
            # No partial text is needed: each utterance is decoded once, at its end.
            chunk_seconds=config.max_utterance_seconds + 1,
            max_new_tokens=config.max_new_tokens,
            endpoints=endpoints_of(config),
            background=True,  # so that utterances wait for their words, however long it takes to find them
            words=self._words,
        )
        return create_session(LocalModel(self._recognizer), self._silero, options)

    def _conditions(self) -> dict[str, Any]:
        """What the utterances depend on, besides the audio, the language and the context."""
        from qwen_asr.engine.checkpoint import weights_digest

        recognizer = self._recognizer
        if recognizer is None:
            raise RuntimeError("No model is loaded.")
        model = {
            "name": recognizer.name,
            "device": str(recognizer.device),
            "dtype": str(recognizer.dtype),
            "quantized": recognizer.quantized,
            "weights": weights_digest(recognizer.model),
        }
        config = {name: getattr(self._config, name) for name in CONFIG_OPTIONS}
        config["asr_model_path"] = self._config.models[0].path  # a text, as in the results of older versions
        return {"config": config, "model": model}

    def _load_recognizer(self) -> Recognizer:
        from qwen_asr.engine.aligner import load_with_aligner

        config = self._config
        # The demo instead of a real model would give wrong text that looks right, in a file that is kept.
        return load_with_aligner(
            config.models[0].path,
            config.device,
            config.dtype,
            self._on_status,
            aligner_path=config.aligner_model_path if self._words else None,
            quantize=config.quantize,
            allow_demo=False,
        )


def _open(name: str) -> Path | BinaryIO:
    from qwen_asr.audio.decode import fetch, is_address

    if name == "-":
        return sys.stdin.buffer
    return io.BytesIO(fetch(name)) if is_address(name) else Path(name)
