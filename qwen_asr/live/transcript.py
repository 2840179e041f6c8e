"""`Transcript`, the history of a session's finals, and how texts are split into units and joined."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Aligned, Final

# Code points of scripts without spaces between words, where a unit of agreement is one character.
# Hangul is not included, because Korean has spaces.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3000, 0x30FF),  # CJK punctuation, kana
    (0x31F0, 0x31FF),  # small katakana
    (0x3400, 0x4DBF),  # CJK extension A
    (0x4E00, 0x9FFF),  # CJK
    (0xF900, 0xFAFF),  # CJK compatibility
    (0xFF01, 0xFF9F),  # full-width forms, half-width katakana
    (0x20000, 0x323AF),  # CJK extensions B to H
)


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script that is written without spaces between words."""
    code = ord(character)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _UNSPACED)


def split_units(text: str) -> list[str]:
    """Splits text into the units in which hypotheses are compared: words, or characters in scripts without spaces.

    A unit includes the white space before it, so `"".join(split_units(text)) == text.rstrip()`.
    """
    units: list[str] = []
    gap = ""
    joins = False  # whether the next character belongs to the unit before it
    for character in text:
        if character.isspace():
            gap += character
            joins = False
        elif units and not gap and unicodedata.category(character).startswith("M"):
            units[-1] += character  # vowel signs and tone marks belong to the character before them
        elif joins and not is_unspaced(character):
            units[-1] += character
        else:
            units.append(gap + character)
            gap = ""
            joins = not is_unspaced(character)
    return units


def join_texts(texts: Iterable[str]) -> str:
    """Joins the texts of successive utterances, with spaces between them unless the script has none."""
    whole = ""
    for text in filter(None, texts):
        unspaced = whole and is_unspaced(whole[-1]) and is_unspaced(text[0])
        whole += ("" if not whole or unspaced else " ") + text
    return whole


class Transcript:
    """The finals of a session, in order."""

    def __init__(self, finals: Iterable[Final] = ()) -> None:
        self._finals = list(finals)

    def add(self, final: Final) -> None:
        """Appends the next final."""
        self._finals.append(final)

    def align(self, aligned: Aligned) -> None:
        """Gives an earlier final its words."""
        for index in reversed(range(len(self._finals))):
            if self._finals[index].utterance == aligned.utterance:
                self._finals[index] = replace(self._finals[index], words=aligned.words)
                return

    @property
    def finals(self) -> tuple[Final, ...]:
        """All finals so far, including those without text."""
        return tuple(self._finals)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return join_texts(final.text for final in self._finals)

    @property
    def language(self) -> str | None:
        """The language of most of the audio with text, or None if there is no text."""
        spoken: Counter[str] = Counter()
        for final in self._finals:
            if final.text and final.language is not None:
                spoken[final.language] += final.end - final.start
        return spoken.most_common(1)[0][0] if spoken else None

    def as_dict(self) -> dict[str, object]:
        """`text`, `language` and `utterances` (those with text, see `utterance_as_dict`), ready for JSON."""
        utterances = [utterance_as_dict(final) for final in self._finals if final.text]
        return {"text": self.text, "language": self.language, "utterances": utterances}


def utterance_as_dict(final: Final) -> dict[str, Any]:
    """One of the `utterances` of `Transcript.as_dict`: `start` and `end` in seconds, `words` only if it has some."""
    utterance: dict[str, Any] = {
        "utterance": final.utterance,
        "start": final.start / SAMPLE_RATE,
        "end": final.end / SAMPLE_RATE,
        "language": final.language,
        "text": final.text,
    }
    if final.words:
        utterance["words"] = [word_as_dict(word) for word in final.words]
    return utterance


def word_as_dict(word: Word) -> dict[str, Any]:
    """A word and its times in seconds, to the millisecond."""
    return {"word": word.text, "start": rounded_seconds(word.start), "end": rounded_seconds(word.end)}


def rounded_seconds(samples: float) -> float:
    """Samples at 16 kHz as seconds, to the millisecond."""
    return round(samples / SAMPLE_RATE, 3)
