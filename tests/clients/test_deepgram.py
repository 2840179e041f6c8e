"""Deepgram's own package on live audio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment

from tests.support.clients import ClientServer, Speech, words


def environment(server: ClientServer) -> DeepgramClientEnvironment:
    """Where the package finds the server."""
    return DeepgramClientEnvironment(
        base=server.url, production=server.websocket, agent=server.websocket, agent_rest=server.url
    )


def text_of(results: list[Any]) -> list[str]:
    """The words of the results that are final."""
    return words(" ".join(result.channel.alternatives[0].transcript for result in results if result.is_final))


def check_words(alternative: Any, length: float) -> None:
    """The words of a text, with times in the audio, which is `length` seconds long."""
    assert [word.punctuated_word for word in alternative.words] == alternative.transcript.split()
    assert [word.word for word in alternative.words] == words(alternative.transcript)
    assert all(0 < word.confidence <= 1 for word in alternative.words)
    starts = [word.start for word in alternative.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= length for word in alternative.words)


def test_live(server: ClientServer, speech: Speech) -> None:
    """As its examples do: handlers of events, and a thread that listens; here the audio is sent first."""
    client = DeepgramClient(api_key="any", environment=environment(server))
    messages: list[Any] = []
    options: dict[str, Any] = {
        "model": "nova-3",
        "encoding": "linear16",
        "sample_rate": "16000",
        "interim_results": "true",
        "vad_events": "true",
        "utterance_end_ms": "1000",
        "endpointing": "300",
        "smart_format": "true",
        "keyterm": ["kitchen", "light"],
    }
    with client.listen.v1.connect(**options) as connection:
        connection.on(EventType.MESSAGE, messages.append)
        connection.on(EventType.ERROR, messages.append)
        for frame in speech.frames(16_000):
            connection.send_media(frame)
        connection.send_keep_alive()
        connection.send_finalize()
        connection.send_close_stream()
        connection.start_listening()
    by_type: dict[str, list[Any]] = {}
    for message in messages:
        by_type.setdefault(message.type, []).append(message)
    assert set(by_type) == {"Results", "SpeechStarted", "UtteranceEnd", "Metadata"}
    results = by_type["Results"]
    assert text_of(results) == speech.words
    finals = [result for result in results if result.is_final]
    assert 0 < finals[0].channel.alternatives[0].confidence <= 1
    assert [result.from_finalize for result in finals][-1] is True
    for result in results:
        if result.is_final and result.channel.alternatives[0].transcript:
            check_words(result.channel.alternatives[0], messages[-1].duration)
    assert messages[-1].request_id == results[0].metadata.request_id


def test_live_async_over_https_with_a_key(
    secure_server: ClientServer, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in secure_server.environment.items():
        monkeypatch.setenv(name, value)

    async def run() -> list[Any]:
        client = AsyncDeepgramClient(api_key=secure_server.key, environment=environment(secure_server))
        async with client.listen.v1.connect(model="nova-3", encoding="mulaw", sample_rate=8_000) as connection:
            messages: list[Any] = []
            connection.on(EventType.MESSAGE, messages.append)
            for frame in speech.mulaw_frames():
                await connection.send_media(frame)
            await connection.send_close_stream()
            await connection.start_listening()
            return messages

    *results, metadata = asyncio.run(run())
    assert metadata.type == "Metadata"
    assert text_of(results) == speech.words


def test_a_wrong_key_is_refused(secure_server: ClientServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secure_server.environment.items():
        monkeypatch.setenv(name, value)
    client = DeepgramClient(api_key="wrong", environment=environment(secure_server))
    connecting = client.listen.v1.connect(model="nova-3", encoding="mulaw")
    with pytest.raises(Exception, match="401"), connecting:
        pass


def test_a_file(server: ClientServer, speech: Speech) -> None:
    client = DeepgramClient(api_key="any", environment=environment(server))
    answer: Any = client.listen.v1.media.transcribe_file(
        request=speech.wav(24_000).read_bytes(), model="nova-3", smart_format=True, utterances=True
    )
    [alternative] = answer.results.channels[0].alternatives
    assert words(alternative.transcript) == speech.words
    assert 0 < alternative.confidence <= 1
    assert words(" ".join(utterance.transcript for utterance in answer.results.utterances)) == speech.words
    check_words(alternative, answer.metadata.duration)
    in_utterances = [word for utterance in answer.results.utterances for word in utterance.words]
    assert [word.model_dump() for word in in_utterances] == [word.model_dump() for word in alternative.words]
