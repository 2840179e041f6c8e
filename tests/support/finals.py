"""Finals of a session, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

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
