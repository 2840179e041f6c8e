"""Finals that have words, and an aligner double: its times are a function of the text and the length of the audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.words import Clip, Word
from qwen_asr.live.events import Final
from tests.support.finals import final


@dataclass
class EvenAligner:
    """Words are what stands between blanks, and equally long. It knows all languages but `unknown`.

    clips: how many it has aligned.
    """

    is_quick: bool = True
    unknown: str = "Finnish"
    name: str = "even"
    clips: int = 0

    def why_not(self, language: str | None) -> str | None:
        return f"The aligner does not know {language}." if language == self.unknown else None

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        self.clips += len(clips)
        return [even_words(clip.text, len(clip.samples)) for clip in clips]


def even_words(text: str, samples: int, start: int = 0) -> tuple[Word, ...]:
    """The words of the double, for audio that begins at `start`."""
    texts = text.split()
    bounds = [start + samples * index // max(1, len(texts)) for index in range(len(texts) + 1)]
    return tuple(map(Word, texts, bounds, bounds[1:]))


@contextmanager
def aligned_by(recognizer: Recognizer, aligner: EvenAligner | None) -> Iterator[None]:
    """Gives a recognizer, which other tests may share, another aligner for a while."""
    before, recognizer.aligner = recognizer.aligner, aligner
    try:
        yield
    finally:
        recognizer.aligner = before


def with_words(text: str, number: int = 0, step: int = 1_600, **changes: Any) -> Final:
    """An utterance of a second with a word for each run of characters without a blank, each `step` samples long."""
    start = number * 32_000
    words = [Word(word, start + index * step, start + (index + 1) * step) for index, word in enumerate(text.split())]
    return final(text, number, words=tuple(words), **changes)


@st.composite
def aligned_finals(draw: st.DrawFn) -> list[Final]:
    """Finals of a session, whose words have times that touch, overlap, or have gaps; some finals have no words."""
    characters = st.text(st.sampled_from("aBé京,.?!—'%-"), min_size=1, max_size=6)
    finals = []
    for number, texts in enumerate(draw(st.lists(st.lists(characters, max_size=5), max_size=3))):
        times = sorted(draw(st.lists(st.integers(0, 16_000), min_size=len(texts), max_size=len(texts))))
        lengths = draw(st.lists(st.integers(0, 8_000), min_size=len(texts), max_size=len(texts)))
        words = tuple(
            Word(text, number * 32_000 + time, number * 32_000 + min(time + length, 16_000))
            for text, time, length in zip(texts, times, lengths, strict=True)
        )
        finals.append(final(" ".join(texts), number, words=words))
    return finals
