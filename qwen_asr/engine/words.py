"""The words of a text, when they are spoken, and what finds that out."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Word:
    """A word of a text, or a character of a script without spaces, with the punctuation that touches it.

    Punctuation that stands alone is a word that lasts no time, so no word holds a blank.

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


class Aligner(Protocol):
    """What a session has to know of an aligner. `WordAligner` also aligns."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def is_quick(self) -> bool:
        """Whether the times come so soon that a final can wait for them."""

    def why_not(self, language: str | None, /) -> str | None:
        """Why text in this language cannot be aligned, as a sentence; None if it can."""


class WordAligner(Aligner, Protocol):
    """Finds when the words of a text are spoken. Only the thread that owns the model calls `align_words`."""

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        """The words of each clip, with times from its first sample to its last; () for a text without words.

        The clips go through the model together, and each result is the one that its clip would have alone.
        """


def cut_at_words(text: str, words: Sequence[str]) -> list[str]:
    """The part of `text` that belongs to each of its words, which a splitter has made of it.

    words: in order, and without what the splitter drops, such as punctuation. A part is the word with what touches it:
    opening punctuation goes to the word behind it, all else to the word before it. The parts in order, with blanks
    between some, are the whole text. The part of a word that is not in the text is empty; the text may be written in
    other characters than its words, as Japanese splitters do (NFKC).
    """
    places = _exact_places(text, words) or _likely_places(text, words)
    found = [index for index, place in enumerate(places) if place is not None]
    spans = [place for place in places if place is not None]
    cuts = [_cut(text, end, start) for (_, end), (start, _) in pairwise(spans)]
    parts = [""] * len(words)
    for index, begin, end in zip(found, [0, *cuts], [*cuts, len(text)], strict=False):
        parts[index] = text[begin:end].strip()
    return parts


def _exact_places(text: str, words: Sequence[str]) -> list[tuple[int, int] | None] | None:
    """Where each word begins and ends in the text; None unless all of their characters are there, in that order."""
    places: list[tuple[int, int] | None] = []
    position = 0
    for word in words:
        at = []
        for character in word:
            position = text.find(character, position) + 1
            if not position:
                return None
            at.append(position)
        places.append((at[0] - 1, at[-1]) if at else None)
    return places


def _likely_places(text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
    """As `_exact_places`, for words in compatible characters, of which some may be missing."""
    folded = [
        (part, index) for index, character in enumerate(text) for part in unicodedata.normalize("NFKD", character)
    ]
    owners = [(part, owner) for owner, word in enumerate(words) for part in unicodedata.normalize("NFKD", word)]
    matcher = difflib.SequenceMatcher(None, [part for part, _ in folded], [part for part, _ in owners], autojunk=False)
    at: list[list[int]] = [[] for _ in words]
    for first, second, count in matcher.get_matching_blocks():
        for step in range(count):
            at[owners[second + step][1]].append(folded[first + step][1])
    places: list[tuple[int, int] | None] = []
    taken = 0
    for indices in at:
        free = [index for index in indices if index >= taken]
        places.append((free[0], free[-1] + 1) if free else None)
        taken = free[-1] + 1 if free else taken
    return places


def _cut(text: str, end: int, start: int) -> int:
    """Where the word that begins at `start` takes over from the one that ends at `end`."""
    for index in range(start, end, -1):
        if text[index - 1].isspace():
            return index
    while start > end and (unicodedata.category(text[start - 1]) in ("Ps", "Pi") or text[start - 1] in "¿¡"):
        start -= 1
    return start
