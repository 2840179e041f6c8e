"""OpenAI's package for Python: REST in every format, and the realtime API."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.clients import ClientServer, Speech, words


@pytest.fixture
def client(server: ClientServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.api, api_key="any", max_retries=0) as client:
        yield client


def test_json(client: openai.OpenAI, speech: Speech) -> None:
    answer = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=speech.wav(16_000))
    assert words(answer.text) == speech.words


def test_verbose_json(client: openai.OpenAI, speech: Speech) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=speech.wav(24_000), response_format="verbose_json", language="en"
    )
    assert words(answer.text) == speech.words
    assert answer.language == "english"
    assert answer.segments
    assert words(" ".join(segment.text for segment in answer.segments)) == speech.words
    assert 0 <= answer.segments[0].start < answer.segments[-1].end <= answer.duration


def test_words(client: openai.OpenAI, speech: Speech) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=speech.wav(16_000),
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert answer.words
    assert answer.segments is None
    assert [word.word.lower() for word in answer.words] == speech.words
    starts = [word.start for word in answer.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= answer.duration for word in answer.words)


def test_subtitles(client: openai.OpenAI, speech: Speech) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=speech.wav(16_000), response_format="srt")
    number, times, *text = answer.strip().splitlines()
    assert number == "1"
    assert " --> " in times
    assert words(" ".join(text)) == speech.words


def test_stream(client: openai.OpenAI, speech: Speech) -> None:
    events: list[Any] = list(
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=speech.wav(16_000), stream=True)
    )
    *deltas, done = events
    assert done.type == "transcript.text.done"
    assert words("".join(event.delta for event in deltas)) == words(done.text) == speech.words


def test_https_with_a_key(secure_server: ClientServer, speech: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secure_server.environment.items():
        monkeypatch.setenv(name, value)
    with openai.OpenAI(base_url=secure_server.api, api_key=secure_server.key, max_retries=0) as client:
        answer = client.audio.transcriptions.create(model="whisper-1", file=speech.wav(16_000))
        assert words(answer.text) == speech.words
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()


TRANSCRIPTION_SESSION: Any = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
    },
}


def realtime_words(connection: Any, speech: Speech) -> list[str]:
    """Speaks a sentence; returns the words of the first completed transcription."""
    for frame in speech.frames(24_000, 100):
        connection.input_audio_buffer.append(audio=base64.b64encode(frame).decode())
    for event in connection:
        assert event.type != "error", event
        if event.type == "conversation.item.input_audio_transcription.completed":
            return words(event.transcript)
    raise AssertionError("the connection closed without a transcription")


def test_realtime(client: openai.OpenAI, speech: Speech) -> None:
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session=TRANSCRIPTION_SESSION)
        assert realtime_words(connection, speech) == speech.words


def test_realtime_with_a_model_and_no_intent(client: openai.OpenAI, speech: Speech) -> None:
    """As the package's own examples connect."""
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session=TRANSCRIPTION_SESSION)
        assert realtime_words(connection, speech) == speech.words
