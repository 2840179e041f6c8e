"""Finals of a session, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final, Token


def final(text: str, number: int = 0, **changes: Any) -> Final:
    """An utterance of a second, a second after the one before."""
    fields = {"language": "English", "text": text, "lag": 0.0, **changes}
    return Final(number, number * 32_000, number * 32_000 + 16_000, **fields)


SCORED = (
    final("One é.", tokens=(Token(7, b"One", -0.5), Token(8, b" \xc3", -0.25), Token(9, b"\xa9.", -0.75))),
    final("", 1),
    final("Two.", 2, tokens=(Token(10, b"Two.", -0.125),)),
)
"""The text "One é. Two." with its tokens, of which two share a character."""

_PARTS = (
    *("today", "the", "of", "Dr.", "end.", "so,", "why?", "-->", "---->", "3.5", "w" * 50, "<b>&", "…", "“", "”"),
    *("今天", "。", "，", "「", "」", "１２", "한국어", "สวัสดี", "เมื่อ", "ครับ", "नमस्ते।", "مرحبا", "שלום,"),
    *("👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "e\u0301", "\u0301", "\u200d", "\u200b", "\u00a0", "\r\n", "\x00", "\u2028"),
)
_MIXED = st.one_of(st.sampled_from(_PARTS), st.text(alphabet="abc .,\u0301\u200d\u4e00\uff01", max_size=60))
_TEXTS = st.one_of(
    st.text(max_size=300),
    st.builds(lambda parts, blank: blank.join(parts), st.lists(_MIXED, max_size=60), st.sampled_from(["", " "])),
)
_TIMES = st.one_of(st.integers(0, 40 * SAMPLE_RATE), st.integers(-(10**6), 10**7))


@st.composite
def hostile_finals(draw: st.DrawFn) -> Final:
    """A final with or without words, whose times may be wrong in any way."""
    text = draw(_TEXTS)
    parts = draw(st.sampled_from([text.split(), list(text)]))
    words = draw(st.sampled_from([(), tuple(parts)]))
    start = draw(st.integers(0, 10**6))
    timed = tuple(Word(part, draw(_TIMES), draw(_TIMES)) for part in words)
    if draw(st.booleans()):  # in order
        edges = sorted(edge for one in timed for edge in (one.start, one.end))
        timed = tuple(Word(one.text, *edges[2 * n : 2 * n + 2]) for n, one in enumerate(timed))
    return Final(0, start, start + draw(st.integers(-10, 10**6)), None, text, 0.0, words=timed)
