"""How far `qwen-asr transcribe` is, on stderr: seconds of audio of the total where that is known. Terminals only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import is_address, seconds_of


class Progress:
    """A bar over all the files together; where stderr is no terminal there is none, and nothing is written."""

    def __init__(self, files: Sequence[str]) -> None:
        self._bar: Any = None
        self._samples = 0
        if sys.stderr.isatty():
            lengths = [_length(name) for name in files]
            total = None if None in lengths else sum(length or 0 for length in lengths)
            form = "{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{elapsed}, {remaining} left]"
            self._bar = tqdm(
                total=total, unit="s", leave=False, dynamic_ncols=True, file=sys.stderr,
                bar_format=form if total else "{n:.0f} s of audio [{elapsed}]",
            )  # fmt: skip

    def took(self, samples: int) -> None:
        """So many more samples at 16 kHz were read, and recognized but for the last utterance."""
        if self._bar is not None:
            self._samples += samples
            # Containers round their lengths: never more than the total.
            done = self._samples / SAMPLE_RATE
            self._bar.update((done if self._bar.total is None else min(done, self._bar.total)) - self._bar.n)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While something else is written: the bar gives way, and comes back behind it."""
        with contextlib.nullcontext() if self._bar is None else tqdm.external_write_mode(file=sys.stderr):
            yield

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def _length(name: str) -> float | None:
    return None if name == "-" or is_address(name) else seconds_of(Path(name))
