"""The JSON answers, and finals as server-sent events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.live.events import Final
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.rest.answers import Deltas, whole_answer


def final(text: str, number: int = 0) -> Final:
    """An utterance of a second, two seconds after the one before."""
    return Final(number, number * 32_000, number * 32_000 + 16_000, language="English", text=text, lag=0.0)


def events(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event, read as a browser does: lines end at line breaks only."""
    blocks = [block.split(b"\n") for block in data.split(b"\n\n")[:-1]]
    return [(name.removeprefix(b"event: ").decode(), json.loads(text.removeprefix(b"data: "))) for name, text in blocks]


@given(st.lists(st.text(max_size=20)))
def test_the_deltas_add_up_to_the_text(texts: list[str]) -> None:
    deltas = Deltas()
    sent = b"".join(deltas.delta(final(text, number)) for number, text in enumerate(texts)) + deltas.done()
    assert sent.isascii()  # some clients take U+2028 for the end of a line
    *parts, (name, done) = events(sent)
    assert name == done["type"] == "transcript.text.done"
    assert all(name == data["type"] == "transcript.text.delta" for name, data in parts)
    assert "".join(data["delta"] for _, data in parts) == done["text"] == join_texts(texts)


def test_json() -> None:
    body = json.loads(bytes(whole_answer("json", [final("One."), final("Two.", 1)], 3.5, "").body))
    assert body == {"text": "One. Two.", "usage": {"type": "duration", "seconds": 3.5}}


def test_verbose_json() -> None:
    finals = [final("One."), final("", 1), final("Two.", 2)]
    body = json.loads(bytes(whole_answer("verbose_json", finals, 5.0, "").body))
    first, second = body.pop("segments")
    assert body == {
        "text": "One. Two.",
        "usage": {"type": "duration", "seconds": 5.0},
        "task": "transcribe",
        "language": "english",
        "duration": 5.0,
    }
    assert first == {
        "id": 0, "seek": 0, "start": 0.0, "end": 1.0, "text": "One.", "tokens": [], "temperature": 0.0,
        "avg_logprob": 0.0, "compression_ratio": pytest.approx(4 / 12), "no_speech_prob": 0.0,
    }  # fmt: skip
    assert (second["id"], second["seek"], second["start"], second["end"]) == (1, 400, 4.0, 5.0)


def test_without_speech_the_language_is_that_of_the_request() -> None:
    assert json.loads(bytes(whole_answer("verbose_json", [], 1.0, "German").body))["language"] == "german"
    assert json.loads(bytes(whole_answer("verbose_json", [], 1.0, "").body))["language"] == ""
