"""Where `qwen-asr transcribe` writes: standard output, or a folder with a file for each input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from qwen_asr import __version__
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.cli.common import print_message
from qwen_asr.cli.results import ResultFile, make_folder, result_paths
from qwen_asr.errors import QwenASRError, StorageError
from qwen_asr.live.subtitles.formats import json_pieces, pieces_of

if TYPE_CHECKING:
    from qwen_asr.cli.progress import Progress
    from qwen_asr.live.events import Final
    from qwen_asr.live.subtitles.cues import CueLimits


Resume = Callable[[dict[str, Any]], Iterable["Final"]]
"""Receives what the utterances of an input depend on, and returns the first of them if they are known."""
Transcribe = Callable[[str, Resume | None], Iterator["Final"]]
"""`FileTranscriber.finals`."""


class Output(Protocol):
    """Takes the transcripts of several inputs, one after the other. A context manager around all of them."""

    def begin(self, files: Sequence[str]) -> list[str]:
        """Prepares for these inputs, and returns those that are to be transcribed. Raises QwenASRError."""

    def write(self, name: str, transcribe: Transcribe, progress: Progress) -> bool:
        """Transcribes an input, and writes each utterance as soon as it is known. Returns whether there was speech.

        Raises what `transcribe` raises, and `StorageError`.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class StandardOutput:
    """Prints the transcripts. Those of several inputs are one JSON array, or lines that begin with the input."""

    def __init__(self, form: str, *, several: bool, limits: CueLimits | None = None) -> None:
        self._form = form
        self._pieces_of = pieces_of(form, limits)
        self._several = several
        self._in_array = False

    def begin(self, files: Sequence[str]) -> list[str]:
        """See `Output`."""
        return list(files)

    def write(self, name: str, transcribe: Transcribe, progress: Progress) -> bool:
        """See `Output`. What was known before an error is complete in its format."""
        finals = _Finals(transcribe(name, None))
        for piece in self._pieces(name, finals):
            with progress.paused():
                _print(piece)
        finals.check()
        return finals.have_text

    def _pieces(self, name: str, finals: Iterable[Final]) -> Iterator[str]:
        if not self._several:
            yield from self._pieces_of(finals)
        elif self._form != "json":
            yield from (f"{name}: {piece}" for piece in self._pieces_of(finals))
        else:
            before = ",\n  " if self._in_array else "[\n  "
            for piece in json_pieces(finals, name):
                self._in_array = True
                yield before + piece.removesuffix("\n").replace("\n", "\n  ")
                before = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._several and self._form == "json":
            if self._in_array and (kind is None or not issubclass(kind, OSError | StorageError)):
                _print("\n]\n")
            elif kind is None:
                _print("[]\n")


class ResultFolder:
    """Writes each transcript to a file in a folder, and prints the path of the file when it is complete.

    A result that exists is not made again without `overwrite`. One that was interrupted is resumed if it was begun
    under the same `conditions` (options that the result depends on, ready for JSON), and not touched if not.
    """

    def __init__(
        self,
        folder: Path,
        form: str,
        conditions: dict[str, Any],
        *,
        overwrite: bool,
        limits: CueLimits | None = None,
    ) -> None:
        self._folder = folder
        self._form = form
        self._pieces_of = pieces_of(form, limits)
        self._conditions = {"version": __version__, "options": conditions}
        self._overwrite = overwrite
        self._paths: dict[str, Path] = {}

    def begin(self, files: Sequence[str]) -> list[str]:
        """See `Output`."""
        self._paths = result_paths(files, self._folder, self._form)
        make_folder(self._folder)
        for name, path in list(self._paths.items()):
            if path.exists() and not self._overwrite:
                print_message(f"{path} exists, so {name} is skipped; --overwrite transcribes it again.")
                del self._paths[name]
        return list(self._paths)

    def write(self, name: str, transcribe: Transcribe, progress: Progress) -> bool:
        """See `Output`."""
        with ResultFile(self._paths[name]) as result:

            def resume(conditions: dict[str, Any]) -> list[Final]:
                known = result.resume(self._conditions | conditions, overwrite=self._overwrite)
                if known:
                    with progress.paused():
                        print_message(
                            f"{result.part} is there already, so {name} goes on after {_clock(known[-1].end)}."
                        )
                return known

            finals = _Finals(transcribe(name, resume))
            for piece in self._pieces_of(result.record(finals)):
                result.write(piece)
            finals.check()
            result.finish()
        with progress.paused():
            _print(f"{result.path}\n")
        return finals.have_text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass


class _Finals:
    """The finals of an input up to an error that comes after the first, so that what is known can be completed."""

    def __init__(self, finals: Iterable[Final]) -> None:
        self._finals = finals
        self._error: QwenASRError | None = None
        self.have_text = False

    def __iter__(self) -> Iterator[Final]:
        begun = False
        try:
            for final in self._finals:
                begun = True
                self.have_text = self.have_text or bool(final.text.strip())
                yield final
        except QwenASRError as error:
            if not begun:
                raise
            self._error = error

    def check(self) -> None:
        """Raises the error, if there was one."""
        if self._error is not None:
            raise self._error


def _print(text: str) -> None:
    """Prints text at once. Raises StorageError where it cannot be written, and BrokenPipeError."""
    try:
        print(text, end="", flush=True)  # noqa: T201 - it is the output
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries again when it exits
        raise StorageError(
            f"Standard output cannot be written ({error.strerror or error}): make room, or write to another place."
        ) from error


def _clock(samples: int) -> str:
    seconds = samples // SAMPLE_RATE
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
