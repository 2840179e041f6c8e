"""Updates of a realtime session: what is refused, and what shows DashScope's dialect."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_asr.errors import BadField
from qwen_asr.web.sockets.realtime.messages import SessionUpdate, parse
from qwen_asr.web.sockets.realtime.updates import context_path, is_dashscope


def update(dashscope: bool = False, **session: Any) -> SessionUpdate:
    event = parse({"type": "session.update", "session": session}, dashscope)
    assert isinstance(event, SessionUpdate)
    return event


@pytest.mark.parametrize("name", ["opus", "mp3", "wav", 5])
def test_a_format_that_cannot_be_read_is_refused_with_those_that_can(name: Any) -> None:
    with pytest.raises(BadField, match="expected one of pcm16, g711_ulaw, g711_alaw, pcm") as flat:
        update(input_audio_format=name)
    assert flat.value.param == "session.input_audio_format"
    with pytest.raises(BadField, match="expected one of audio/pcm, audio/pcmu, audio/pcma, pcm"):
        update(audio={"input": {"format": {"type": name}}})


@pytest.mark.parametrize("rate", [44_100, True, 0, "16000", 1e300, float("nan"), []])
def test_a_rate_is_one_of_a_few(rate: Any) -> None:
    with pytest.raises(BadField, match="expected one of 24000, 48000, 16000, 8000 for pcm16"):
        update(sample_rate=rate)
    with pytest.raises(BadField, match="expected one of 24000, 48000, 16000, 8000 for pcm"):
        update(audio={"input": {"format": {"type": "pcm", "sample_rate": rate}}})
    with pytest.raises(BadField, match="expected 8000 for g711_ulaw"):
        update(input_audio_format="g711_ulaw", sample_rate=16_000)


@pytest.mark.parametrize(("given", "used"), [(-1, 0.01), (0.0, 0.5), (0.2, 0.6), (1, 0.99), (None, None)])
def test_dashscopes_threshold_is_from_minus_one_to_one(given: float | None, used: float | None) -> None:
    detection = update(dashscope=True, turn_detection={"threshold": given}).session.turn_detection
    assert detection is not None
    assert detection.threshold == used


@pytest.mark.parametrize("threshold", [-1.1, 1.1, True, "0", float("nan"), [], 10**400])
def test_a_threshold_out_of_range(threshold: Any) -> None:
    with pytest.raises(BadField, match="expected a number from -1 to 1"):
        update(dashscope=True, turn_detection={"threshold": threshold})
    with pytest.raises(BadField, match=r"expected a number from 0\.01 to 0\.99"):
        update(turn_detection={"threshold": threshold})


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ({"input_audio_format": "pcm"}, True),
        ({"input_audio_format": "opus"}, True),
        ({"input_audio_transcription": {"corpus": {"text": "Qwen"}}}, True),
        ({"audio": {"input": {"format": {"type": "pcm", "sample_rate": 16_000}}}}, True),
        ({"modalities": ["text"], "input_audio_format": "pcm16", "sample_rate": 16_000}, False),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}, False),
        ({"audio": {"input": []}, "input_audio_transcription": "corpus"}, False),
        (None, False),
        ([], False),
    ],
)
def test_what_only_dashscopes_clients_send(session: Any, expected: bool) -> None:
    assert is_dashscope(session) is expected


def test_errors_about_the_context_name_where_it_stands() -> None:
    assert context_path(update(input_audio_transcription={"corpus": {"text": ""}}).session) == (
        "session.input_audio_transcription.corpus"
    )
    nested = update(audio={"input": {"transcription": {"keywords": []}}}).session
    assert context_path(nested) == "session.audio.input.transcription.keywords"
    assert context_path(update().session).endswith(".prompt")
