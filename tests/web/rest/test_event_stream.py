"""Finals as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import (
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
)

from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.formats import srt, vtt
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.rest.event_stream import EventStream
from qwen_asr.web.rest.form import parse_request
from tests.support.finals import SCORED, final

TYPES: dict[str, Any] = {
    "transcript.text.delta": TranscriptionTextDeltaEvent,
    "transcript.text.segment": TranscriptionTextSegmentEvent,
    "transcript.text.done": TranscriptionTextDoneEvent,
}


def events(data: bytes) -> list[dict[str, Any]]:
    """The data of each event, read as a browser does: lines end at line breaks only. OpenAI's package accepts it."""
    found = []
    for block in data.split(b"\n\n")[:-1]:
        name, text = block.split(b"\n")
        found.append(json.loads(text.removeprefix(b"data: ")))
        assert name == f"event: {found[-1]['type']}".encode()
        TYPES[found[-1]["type"]].model_validate(found[-1], strict=True)
    return found


def streamed(finals: Sequence[Final], **fields: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events before the last, and the last."""
    stream = EventStream(parse_request({name: [value] for name, value in fields.items()}))
    data = stream.begin() + b"".join(map(stream.add, finals)) + stream.end()
    assert data.isascii()  # some clients take U+2028 for the end of a line
    *parts, done = events(data)
    assert done["type"] == "transcript.text.done"
    deltas = [part["delta"] for part in parts if part["type"] == "transcript.text.delta"]
    assert "".join(deltas) == done["text"]
    assert "" not in deltas
    return parts, done


@given(st.lists(st.text(max_size=20)), st.sampled_from(["json", "text", "verbose_json", "srt", "vtt"]))
def test_the_deltas_add_up_to_the_answer(texts: list[str], response_format: str) -> None:
    finals = [final(text, number) for number, text in enumerate(texts)]
    _, done = streamed(finals, response_format=response_format)
    whole = {"srt": srt, "vtt": vtt}.get(response_format)
    assert done["text"] == (whole(finals) if whole else join_texts(texts))


def test_each_cue_is_a_delta() -> None:
    parts, _ = streamed([final("One."), final("", 1), final("Two.", 2)], response_format="vtt")
    assert [part["delta"] for part in parts] == [
        "WEBVTT\n\n",
        "00:00:00.000 --> 00:00:01.000\nOne.\n\n",
        "00:00:04.000 --> 00:00:05.000\nTwo.\n\n",
    ]


def test_segments_follow_their_text() -> None:
    parts, _ = streamed(SCORED, response_format="verbose_json")
    assert [(part["type"].rpartition(".")[2], part.get("segment_id", part.get("id"))) for part in parts] == [
        ("delta", "0"), ("segment", "0"), ("delta", "1"), ("segment", "1"),
    ]  # fmt: skip
    segment = parts[3]
    assert (segment["start"], segment["end"], segment["text"], segment["speaker"]) == (4.0, 5.0, "Two.", "")
    assert (segment["tokens"], segment["avg_logprob"]) == ([10], -0.125)


@pytest.mark.parametrize("response_format", ["json", "text"])
def test_the_probabilities_of_the_tokens_come_with_their_text(response_format: str) -> None:
    parts, done = streamed(SCORED, response_format=response_format, include="logprobs")
    for event in [*parts, done]:
        written = b"".join(bytes(one["bytes"]) for one in event["logprobs"]).decode()
        assert written == event.get("delta", event.get("text"))
    assert len(done["logprobs"]) == 4
    assert not any("logprobs" in event for event in streamed(SCORED, response_format=response_format)[0])


def test_the_last_event_has_the_languages_and_the_tokens() -> None:
    counted = [final("One.", prompt_tokens=30, written_tokens=5), final("", 1, prompt_tokens=20, written_tokens=3)]
    _, done = streamed(counted)
    assert done["languages"] == [{"code": "en"}]
    assert done["usage"] == {"type": "tokens", "input_tokens": 50, "output_tokens": 8, "total_tokens": 58}
    assert streamed([])[1]["usage"]["total_tokens"] == 0
