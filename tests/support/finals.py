"""Finals of a session, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final, Token


def final(text: str, number: int = 0, **changes: Any) -> Final:
    """An utterance of a second, a second after the one before."""
    fields = {"language": "English", "text": text, "lag": 0.0, **changes}
    return Final(number, number * 32_000, number * 32_000 + 16_000, **fields)


def with_words(text: str, number: int = 0, step: int = 1_600, **changes: Any) -> Final:
    """The same with a word for each run of characters without a blank, each `step` samples long."""
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


SCORED = (
    final("One é.", tokens=(Token(7, b"One", -0.5), Token(8, b" \xc3", -0.25), Token(9, b"\xa9.", -0.75))),
    final("", 1),
    final("Two.", 2, tokens=(Token(10, b"Two.", -0.125),)),
)
"""The text "One é. Two." with its tokens, of which two share a character."""
