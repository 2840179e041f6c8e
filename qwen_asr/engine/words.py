"""The words of a text, when they are spoken, and what finds that out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Word:
    """A word of a text, or a character of a script without spaces, with the punctuation that touches it.

    All words of a text, in order and with the blanks between them, are the text. `start` and `end` are samples at
    16 kHz; `end` is exclusive, and no word ends before it starts or starts before the one before it.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Clip:
    """An utterance and its text. samples: float32 mono at 16 kHz, (n,). language: an English name, or None."""

    samples: NDArray[np.float32]
    text: str
    language: str | None


class WordAligner(Protocol):
    """Finds when the words of a text are spoken. Only the thread that owns the model calls `align_words`."""

    name: str

    @property
    def is_quick(self) -> bool:
        """Whether the times come so soon that a final can wait for them."""

    def why_not(self, language: str | None) -> str | None:
        """Why text in this language cannot be aligned, as a sentence; None if it can."""

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        """The words of each clip, with times from its first sample to its last; () for a text without words.

        The clips go through the model together, and each result is the one that its clip would have alone.
        """
