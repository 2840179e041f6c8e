"""Live `/v1/listen` on a real server: results, pauses, `Finalize`, mistakes of clients, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from websockets.exceptions import InvalidStatus

from qwen_asr import Qwen3ASRModel
from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.deepgram.route import ListenRoute
from tests.support.aligners import aligned_by, even_words
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.sockets import PATIENT, Client, Listening, client_of, listening, silence, until

pytestmark = pytest.mark.slow
SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
LINEAR = "encoding=linear16&sample_rate=16000"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The demo checkpoint, loaded once."""
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Listening]:
    """A server with patient limits."""
    with listening(service, route=ListenRoute) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that leaves an error in the server's log."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class Speaker(Client):
    """A client of the socket."""

    async def speak(self, *parts: Samples) -> bytes:
        """Sends 16-bit samples in pieces of 100 ms; returns all of them."""
        data = (np.concatenate(parts) * 32_767).astype("<i2").tobytes()
        for begin in range(0, len(data), 3_200):
            await self.connection.send(data[begin : begin + 3_200])
        return data

    async def close_stream(self) -> int:
        """Ends the stream, and reads to the close; returns its code."""
        await self.send({"type": "CloseStream"})
        return await self.closed()

    @property
    def finals(self) -> list[dict[str, Any]]:
        """The results that are final, so far."""
        return [message for message in self.of_type("Results") if message["is_final"]]

    @property
    def texts(self) -> list[str]:
        """The texts of the finals, without empty ones."""
        return [text for final in self.finals if (text := text_of(final))]


def text_of(result: dict[str, Any]) -> str:
    """The text of a result."""
    return str(result["channel"]["alternatives"][0]["transcript"])


@contextlib.asynccontextmanager
async def speaker(served: Listening, query: str = LINEAR, **options: Any) -> AsyncIterator[Speaker]:
    """A connected client."""
    async with client_of(Speaker, f"{served.url}?{query}", **options) as connected:
        yield connected


def with_speaker(served: Listening, use: Callable[[Speaker], Awaitable[None]], query: str = LINEAR) -> Speaker:
    """Runs `use` with a connected client; returns the client with its messages."""

    async def run() -> Speaker:
        async with speaker(served, query) as client:
            await use(client)
        return client

    return asyncio.run(run())


def offline(samples: Samples) -> str:
    """The text of the whole utterance."""
    [answer] = Qwen3ASRModel(demo_recognizer()).transcribe((samples, 16_000))
    return answer.text


def utterance(audio: bytes, result: dict[str, Any]) -> Samples:
    """The part of the audio that a result is about."""
    begin, length = round(result["start"] * 16_000), round(result["duration"] * 16_000)
    samples: Samples = np.frombuffer(audio, "<i2").astype(np.float32) / np.float32(32_768)
    return samples[begin : begin + length]


def words_of(result: dict[str, Any]) -> list[tuple[str, float, float]]:
    """The words of a result as they are written, with their times."""
    [alternative] = result["channel"]["alternatives"]
    return [(word["punctuated_word"], word["start"], word["end"]) for word in alternative["words"]]


def test_words_where_they_come_at_once(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        await client.speak(silence(0.5), spoken(SENTENCES[0]), silence(1.2))
        await client.send({"type": "Finalize"})  # the times go on after it
        await client.speak(silence(0.5), spoken(SENTENCES[1]))
        assert await client.close_stream() == 1000

    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=True)):
        client = with_speaker(served, use, f"{LINEAR}&interim_results=true")
    assert client.texts == list(SENTENCES)
    for result in client.of_type("Results"):
        end = result["start"] + result["duration"]
        words = even_words(text_of(result), result["start"], end) if result["is_final"] else []
        assert words_of(result) == [tuple(word.values()) for word in words]
    assert all(
        0 < word["confidence"] <= 1
        for result in client.finals
        for word in result["channel"]["alternatives"][0]["words"]
    )
    for aligner in (AlignerDouble(is_quick=False), None):
        with aligned_by(demo_recognizer(), aligner):
            client = with_speaker(served, use)
        assert client.texts == list(SENTENCES)
        assert all(words_of(result) == [] for result in client.finals)


def test_two_sentences(served: Listening) -> None:
    sent = b""

    async def use(client: Speaker) -> None:
        nonlocal sent
        words = spoken(SENTENCES[0])
        sent = await client.speak(silence(0.5), words[:16_000])
        assert await until(lambda: len(client.of_type("Results")) > 0)  # while the client still speaks
        sent += await client.speak(words[16_000:], silence(1.2), spoken(SENTENCES[1]), silence(1.2))
        assert await until(lambda: len(client.finals) == 2)
        assert await client.close_stream() == 1000

    client = with_speaker(served, use, f"{LINEAR}&interim_results=true&vad_events=true&endpointing=500")
    assert client.texts == list(SENTENCES)
    assert [text_of(final) for final in client.finals] == [offline(utterance(sent, final)) for final in client.finals]
    assert all(final["speech_final"] and not final["from_finalize"] for final in client.finals)
    interims = [message for message in client.of_type("Results") if not message["is_final"]]
    assert interims
    assert not any(interim["speech_final"] for interim in interims)
    started = [message["timestamp"] for message in client.of_type("SpeechStarted")]
    assert started == [final["start"] for final in client.finals]
    for final in client.finals:
        [alternative] = final["channel"]["alternatives"]
        assert 0.5 < alternative["confidence"] <= 1
        assert alternative["words"] == []
        assert alternative["languages"] == ["en"]
    *_, metadata = client.messages
    assert metadata["type"] == "Metadata"
    assert metadata["sha256"] == hashlib.sha256(sent).hexdigest()
    assert metadata["duration"] == len(sent) / 32_000
    assert {final["metadata"]["request_id"] for final in client.finals} == {metadata["request_id"]}
    assert client.connection.response is not None
    assert client.connection.response.headers["dg-request-id"] == metadata["request_id"]


def test_without_options_there_are_finals_only(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        await client.speak(spoken(SENTENCES[0]), silence(1.2))
        await client.close_stream()

    client = with_speaker(served, use, f"{LINEAR}&language=en-US&model=nova-3&smart_format=true&endpointing=false")
    assert client.texts == [SENTENCES[0]]
    assert {message["type"] for message in client.messages} == {"Results", "Metadata"}
    assert not any(final["speech_final"] for final in client.finals)  # endpointing is off
    assert "languages" not in client.finals[0]["channel"]["alternatives"][0]


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_telephone_audio(served: Listening, law: str) -> None:
    samples = resample_poly(np.concatenate([silence(0.3), spoken(SENTENCES[0]), silence(1.0)]), 1, 2)
    codes = np.argsort(LAWS[law], kind="stable")
    positions = np.searchsorted(LAWS[law][codes], samples * 32_767).clip(0, 255)
    data = codes[positions].astype(np.uint8).tobytes()

    async def use(client: Speaker) -> None:
        await client.connection.send(data)
        await client.close_stream()

    client = with_speaker(served, use, f"encoding={law}")  # at 8 kHz, as always on the telephone
    decoder = PcmStream(law, 8_000)
    heard = (np.concatenate([decoder.feed(data), decoder.finish()]) * 32_768).astype("<i2").tobytes()
    assert client.texts == [offline(utterance(heard, client.finals[0]))] == [SENTENCES[0]]


def test_finalize(served: Listening) -> None:
    """The text comes at once, says `from_finalize`, and what follows is heard as before."""
    words = spoken(SENTENCES[0])

    async def use(client: Speaker) -> None:
        await client.speak(silence(0.3), words)
        await client.send({"type": "Finalize"})
        await client.speak(silence(0.3), spoken(SENTENCES[1]), silence(1.0))
        await client.send({"type": "Finalize"})
        await client.send({"type": "Finalize"})
        await client.close_stream()

    client = with_speaker(served, use)
    first, second, *confirmations = client.finals
    assert [text_of(first), text_of(second)] == list(SENTENCES)
    assert first["from_finalize"]
    assert not first["speech_final"]
    assert second["speech_final"]
    assert second["start"] > 0.3 + len(words) / 16_000 - 0.1
    assert [(text_of(empty), empty["from_finalize"], empty["is_final"]) for empty in confirmations] == [
        ("", True, True)
    ] * 2


def test_finalize_before_any_audio(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        await client.send({"type": "Finalize"})
        await client.close_stream()

    [confirmation] = with_speaker(served, use).finals
    assert confirmation["from_finalize"]
    assert (confirmation["start"], confirmation["duration"]) == (0, 0)


def test_the_end_of_an_utterance_is_announced_after_its_text(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        await client.speak(spoken(SENTENCES[0]), silence(0.7), spoken(SENTENCES[1]), silence(1.6))
        await client.close_stream()

    client = with_speaker(served, use, f"{LINEAR}&endpointing=300&utterance_end_ms=1200")
    kinds = [message["type"] for message in client.messages]
    assert kinds == ["Results", "Results", "UtteranceEnd", "Metadata"]  # the first pause is shorter
    second, [end] = client.finals[1], client.of_type("UtteranceEnd")
    assert second["start"] < end["last_word_end"] <= second["start"] + second["duration"]


def test_key_words_reach_the_model(served: Listening, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = []
    opened = service.open_session

    def open_session(options: Any, *rest: Any, **named: Any) -> Any:
        contexts.append((options.context, options.language))
        return opened(options, *rest, **named)

    monkeypatch.setattr(service, "open_session", open_session)

    async def use(client: Speaker) -> None:
        await client.speak(silence(0.2))
        await client.close_stream()

    with_speaker(served, use, f"{LINEAR}&keyterm=Kowalski&keyterm=Zagreb&keywords=Qwen:2&language=de-AT")
    with_speaker(served, use, f"{LINEAR}&language=multi")
    assert contexts == [("Kowalski, Zagreb, Qwen", "German"), ("", None)]


def test_messages_that_cannot_be_used_are_answered(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        for text in ('{"type": "Stop"}', "no json", "[]", '{"type": "Finalize"', " " * 70_000):
            await client.connection.send(text)
        await client.send({"type": "KeepAlive"})
        await client.speak(spoken(SENTENCES[0]))
        assert await client.close_stream() == 1000

    client = with_speaker(served, use)
    errors = client.of_type("Error")
    assert len(errors) == 5
    assert {error["variant"] for error in errors} == {"SchemaError"}
    assert "expected" in errors[0]["description"]
    assert client.texts == [SENTENCES[0]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "no encoding"),
        ("encoding=opus&sample_rate=48000", 'encoding was given "opus"'),
        ("encoding=linear16", "no sample_rate"),
        ("encoding=linear16&sample_rate=12", "sample rate"),
        ("encoding=linear16&sample_rate=fast", "sample_rate"),
        (f"{LINEAR}&channels=2", "mix the channels"),
        (f"{LINEAR}&multichannel=true", "multichannel is not available"),
        (f"{LINEAR}&redact=pci", "redact is not available"),
        (f"{LINEAR}&callback=http://localhost", "callback is not available"),
        (f"{LINEAR}&language=tlh", "Unknown language"),
        (f"{LINEAR}&endpointing=soon", "endpointing"),
        (f"{LINEAR}&utterance_end_ms=0", "utterance_end_ms"),
        (f"{LINEAR}&interim_results=perhaps", "interim_results"),
    ],
)
def test_a_wrong_query_is_refused_before_the_handshake(served: Listening, query: str, words: str) -> None:
    async def connect() -> None:
        async with speaker(served, query):
            pass

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(connect())
    assert refused.value.response.status_code == 400
    assert words in json.loads(refused.value.response.body)["error"]["message"]


def test_a_live_container_ends_the_session(served: Listening) -> None:
    """Browsers record WebM, and Deepgram takes it where no encoding is announced."""

    async def use(client: Speaker) -> None:
        await client.connection.send(bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d"))
        assert await client.closed() == 1008
        assert str(client.connection.close_reason).startswith("DATA-0000: ")

    client = with_speaker(served, use)
    assert client.messages[-1]["variant"] == "DATA-0000"
    assert "webm" in client.messages[-1]["description"].lower()


def test_samples_of_another_format_are_reported(served: Listening) -> None:
    async def use(client: Speaker) -> None:
        samples = (np.concatenate([spoken(SENTENCES[0]), spoken(SENTENCES[1])]) * 32_767).astype(">i2")
        await client.connection.send(samples.tobytes())
        assert await client.close_stream() == 1000

    [warning] = with_speaker(served, use).of_type("Error")
    assert warning["variant"] == "SampleFormat"
    assert "big endian" in warning["description"]


def test_a_silent_client_is_told_why_it_is_disconnected(service: Service) -> None:
    with listening(service, limits=replace(PATIENT, idle_seconds=0.2), route=ListenRoute) as served:

        async def use(client: Speaker) -> None:
            assert await client.closed() == 1011
            assert str(client.connection.close_reason).startswith("NET-0001: ")

        with_speaker(served, use)


def test_a_server_that_stops_sends_the_texts_first(service: Service) -> None:
    with listening(service, route=ListenRoute) as served:

        async def use(client: Speaker) -> None:
            await client.speak(spoken(SENTENCES[0]))
            assert await until(lambda: service.sessions.audio_seconds() > 0 and bool(served.route.connections))
            [connection] = served.route.connections
            assert await until(lambda: connection._segment is not None and connection._segment.runner.received >= 1)
            served.server.should_exit = True
            assert await client.closed() == 1012

        client = with_speaker(served, use)
    assert client.messages[-1]["variant"] == "ServerStopping"
    assert client.finals


def test_a_full_server_refuses_with_the_status_of_deepgram(service: Service, served: Listening) -> None:
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            capacity = service.admission.capacity_of("127.0.0.1")
            for _ in range(capacity):
                await stack.enter_async_context(speaker(served))
            with pytest.raises(InvalidStatus) as refused:
                await stack.enter_async_context(speaker(served))
            assert refused.value.response.status_code == 429

    asyncio.run(run())
    assert asyncio.run(until(lambda: not served.route.connections))
