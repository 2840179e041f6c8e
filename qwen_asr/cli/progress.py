"""A status line and a progress bar for `qwen-asr transcribe`, if stderr is a terminal."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_asr.audio import SAMPLE_RATE

_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """A status line, replaced by one bar over all files once audio is being transcribed.

    Writes nothing if stderr is not a terminal. Use it as a context manager: leaving it clears the line.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._is_terminal = sys.stderr.isatty()
        self._has_status = False
        self._bar: Any = None
        self._samples = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear_status()
        if self._bar is not None:
            self._bar.close()

    def show_status(self, sentence: str) -> None:
        """Replaces the status line, for example while the model is loading."""
        if self._is_terminal:
            sys.stderr.write(_CLEAR_LINE + sentence[: shutil.get_terminal_size().columns - 1])
            sys.stderr.flush()
            self._has_status = True

    def add_samples(self, samples: int) -> None:
        """Counts samples (16 kHz) that were read and transcribed, up to the utterance in progress."""
        if not self._is_terminal:
            return
        self._clear_status()
        if self._bar is None:
            self._bar = self._create_bar()
        self._samples += samples
        # Containers round their durations, so the sum of the samples may exceed the total.
        done = self._samples / SAMPLE_RATE
        self._bar.update((done if self._bar.total is None else min(done, self._bar.total)) - self._bar.n)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hides the status line or the bar while something else is written to the terminal."""
        self._clear_status()
        with contextlib.nullcontext() if self._bar is None else tqdm.external_write_mode(file=sys.stderr):
            yield

    def _clear_status(self) -> None:
        if self._has_status:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self._has_status = False

    def _create_bar(self) -> Any:
        durations = [_duration(name) for name in self._files]
        total = None if None in durations else sum(duration or 0 for duration in durations)
        with_total = "{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{elapsed}, {remaining} left]"
        return tqdm(
            total=total, unit="s", leave=False, dynamic_ncols=True, file=sys.stderr,
            bar_format=with_total if total else "{n:.0f} s of audio [{elapsed}]",
        )  # fmt: skip


def _duration(name: str) -> float | None:
    """Seconds of audio in the file; None if that is not known before it is read."""
    from qwen_asr.audio.decode import is_address, seconds_of  # imports av

    return None if name == "-" or is_address(name) else seconds_of(Path(name))
