"""`spoken_words`: the words of a final as other services name them: without punctuation, and with a confidence."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean

from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final, Token

_SPOKEN_SIGNS = "%‰&#@§％＆＃＠"
"""Signs that Unicode counts as punctuation, and people read aloud."""


@dataclass(frozen=True)
class SpokenWord:
    """A word of a final that is more than punctuation.

    `text` is as the final has it, `bare` without the punctuation around it; neither is ever empty. `start` and `end`
    are those of `Word`. `confidence`: the geometric mean of the probabilities of the tokens that spell it, 0 to 1; 0.0
    where the final has no tokens.
    """

    text: str
    bare: str
    start: int
    end: int
    confidence: float


def spoken_words(final: Final) -> list[SpokenWord]:
    """The words of a final, in order; [] if it has none.

    Punctuation that stands alone, such as a dash between blanks, belongs to the word before it, or to the first one. So
    the `text` of all words, with the blanks between them, is that of the final.
    """
    found = []
    probabilities = _Probabilities(final.tokens)
    for begin, end, word in _with_punctuation(final.text, final.words):
        text = final.text[begin:end]
        first = len(final.text[:begin].encode())
        found.append(
            SpokenWord(
                text=text,
                bare=bare(text),
                start=word.start,
                end=word.end,
                confidence=probabilities.mean(first, first + len(text.encode())),
            )
        )
    return found


def bare(text: str) -> str:
    """The text without the punctuation and the blanks around it. Signs that are read aloud, such as %, stay."""
    return text.strip("".join(filter(_is_silent, text)))


def _is_silent(character: str) -> bool:
    kind = unicodedata.category(character)
    return character not in _SPOKEN_SIGNS and (kind.startswith(("P", "C")) or character.isspace())


def _with_punctuation(text: str, words: Sequence[Word]) -> list[tuple[int, int, Word]]:
    """Where each word that is more than punctuation begins and ends in the text, and the word."""
    spans: list[tuple[int, int, Word]] = []
    end = 0
    for word in words:
        begin = text.index(word.text, end)
        end = begin + len(word.text)
        if bare(word.text):
            spans.append((begin if spans else 0, end, word))
        elif spans:
            spans[-1] = (spans[-1][0], end, spans[-1][2])
    return spans


class _Probabilities:
    """The probabilities of the tokens of a text, by where they stand in its UTF-8."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        bounds = accumulate((len(token.data) for token in tokens), initial=0)
        self._spans = list(pairwise(bounds))

    def mean(self, begin: int, end: int) -> float:
        """The geometric mean of those of the tokens that have a byte from `begin` to `end`; 0.0 without tokens."""
        scores = [
            token.log_probability
            for token, (first, last) in zip(self._tokens, self._spans, strict=True)
            if first < end and last > begin
        ]
        return math.exp(fmean(scores)) if scores else 0.0
