"""What the messages of all WebSocket protocols share: the reason of a close."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.errors import BadInput, ServerStopping
from qwen_asr.web.sockets.messages import MAX_REASON_BYTES, close_reason


def test_a_short_sentence_is_the_reason() -> None:
    assert close_reason(BadInput("No audio.")) == "No audio."
    assert close_reason(BadInput("x" * 123)) == "x" * 123
    assert close_reason(ServerStopping()) == str(ServerStopping())


@pytest.mark.parametrize("text", ["é" * 62, "x" + "é" * 61 + "x", "語" * 60, "😀" * 40, "\ud800" * 200])
def test_a_long_one_is_cut_at_a_character(text: str) -> None:
    reason = close_reason(BadInput(text))
    assert len(reason.encode()) <= MAX_REASON_BYTES
    assert reason.endswith("…")
    assert len(reason.encode()) > MAX_REASON_BYTES - 4
    assert text.encode(errors="replace").decode().startswith(reason[:-1])


@given(st.text(max_size=300))
def test_any_reason_fits(text: str) -> None:
    assert len(close_reason(BadInput(text)).encode()) <= MAX_REASON_BYTES
