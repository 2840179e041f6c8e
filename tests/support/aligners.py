"""Finals that have words, and the words that the aligner's double finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.words import Word, WordAligner
from qwen_asr.live.events import Final
from qwen_asr.live.transcript import word_as_dict
from tests.support.engine_double import words_of
from tests.support.finals import final


def even_words(text: str, start: float, end: float) -> list[dict[str, Any]]:
    """The words of `AlignerDouble` for a text that is said from `start` to `end`, in seconds, as JSON has them."""
    return [word_as_dict(word) for word in words_of(text, round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))]


@contextmanager
def aligned_by(recognizer: Recognizer, aligner: WordAligner | None) -> Iterator[None]:
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
