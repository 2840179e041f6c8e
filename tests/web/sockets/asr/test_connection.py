"""`/ws/asr` on a real server with the real engine: what clients send, and what they receive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qwen_asr import Qwen3ASRModel
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.asr.messages import SessionCreated, WarningMessage, parse_config
from qwen_asr.web.sockets.asr.session import AsrSession
from tests.support.aligners import aligned_by, even_words
from tests.support.browser import serving
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.sockets import PATIENT, Client, Listening, client, listening, silence, until

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
STARTED_AT = time.time()
PARTIAL_KEYS = {"type", "language", "text", "timestamp"}
FINAL_KEYS = {*PARTIAL_KEYS, "is_speech_final"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The demo checkpoint, loaded once."""
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Listening]:
    """A server with the usual limits."""
    with listening(service) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that leaves an error in the server's log. A test that expects one checks the log and clears it."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def said(*sentences: str, gap: float = 1.2) -> Samples:
    """Sentences with pauses between them that end an utterance, and none after the last."""
    parts = [part for sentence in sentences for part in (spoken(sentence), silence(gap))]
    return np.concatenate([silence(0.5), *parts[:-1]])


def offline(final: dict[str, Any], heard: Samples, context: str = "", language: str | None = None) -> str:
    """The transcription of a final's samples by the Python API."""
    begin, end = (round(final[key] * 16_000) for key in ("start", "end"))
    model = Qwen3ASRModel(demo_recognizer())
    [transcription] = model.transcribe((heard[begin:end], 16_000), context=context, language=language)
    return str(transcription.text)


def check_order(messages: list[dict[str, Any]]) -> None:
    """Check: session_created, then the partials and one final of each utterance; consistent positions and texts."""
    assert [message["type"] for message in messages].index("session_created") == 0
    results = messages[1:]
    assert [one["utterance"] for one in results] == sorted(one["utterance"] for one in results)
    stamps = [one["timestamp"] for one in results]
    assert stamps == sorted(stamps)
    assert STARTED_AT <= stamps[0] <= stamps[-1] <= time.time()
    for number in {one["utterance"] for one in results}:
        *partials, final = [one for one in results if one["utterance"] == number]
        assert final["type"] == "final"
        assert final["is_speech_final"] is True
        assert final["stable"] == len(final["text"])
        assert {one["type"] for one in partials} <= {"partial"}
        for one in partials:
            assert one["start"] == final["start"] < one["end"]
            assert 0 <= one["stable"] <= len(one["text"])
    received = [one["received_samples"] for one in results]
    assert received == sorted(received)


async def exchange(url: str, samples: Samples, trust: ssl.SSLContext | None = None, **settings: Any) -> Client:
    """What the original client does: config, frames of 100 ms, finalize. Halfway it waits for a first partial."""
    async with client(url, trust) as speaker:
        await speaker.config(**settings)
        half = len(samples) // 2
        await speaker.audio(samples[:half], pause=0.01)
        await speaker.wait_for("partial")
        await speaker.audio(samples[half:], pause=0.01)
        assert await speaker.finalize() == 1000
    return speaker


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from Gradio
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_the_original_clients_exchange_beside_the_page(scheme: str, tmp_path: Path) -> None:
    samples = said(*SENTENCES)
    with serving(
        Service(Config(chunk_size_sec=0.5), demo_recognizer()), tmp_path if scheme == "wss" else None
    ) as server:
        trust = ssl.create_default_context(cafile=str(tmp_path / "qwen_asr_cert.pem")) if scheme == "wss" else None
        url = f"{scheme}{server.url[server.url.index('://') :]}/ws/asr"
        settings = {"context": "", "language": None, "unfixed_chunk_num": 4, "unfixed_token_num": 5}
        speaker = asyncio.run(exchange(url, samples, trust, **settings, chunk_size_sec=0.5))
        with pytest.raises(InvalidStatus) as refused:  # there is no WebSocket at other paths
            asyncio.run(exchange(url.replace("/ws/asr", "/ws/other"), samples, trust))
    gc.collect()  # Gradio leaves objects whose warnings are ignored only here
    assert refused.value.response.status_code == 404
    check_order(speaker.messages)
    partials, finals = speaker.of_type("partial"), speaker.of_type("final")
    assert all(set(one) >= PARTIAL_KEYS for one in partials)
    assert all(set(one) >= FINAL_KEYS for one in finals)
    assert len(finals) == len(SENTENCES)
    assert [final["text"] for final in finals] == [offline(final, samples) for final in finals]
    assert finals[-1]["received_samples"] == len(samples)
    audible = np.flatnonzero(np.abs(samples) > 0.01)
    assert finals[-1]["end"] * 16_000 > audible[-1]  # nothing of the last word is missing


def even(final: dict[str, Any]) -> list[dict[str, Any]]:
    """The words of a final, by `AlignerDouble`."""
    return even_words(final["text"], final["start"], final["end"])


async def with_words(served: Listening) -> Client:
    """A client that has said the sentences, and asked for the times of their words."""
    async with client(served.url) as speaker:
        await speaker.config(words=True)
        await speaker.audio(said(*SENTENCES))
        assert await speaker.finalize() == 1000
    return speaker


@pytest.mark.slow
def test_words_are_in_the_finals_or_come_after_them(served: Listening) -> None:
    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=True)):
        finals = asyncio.run(with_words(served)).of_type("final")
    assert [final["text"] for final in finals] == list(SENTENCES)
    assert [final["words"] for final in finals] == [even(final) for final in finals]
    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=False)):
        speaker = asyncio.run(with_words(served))
    later = speaker.of_type("final")
    assert [final["words"] for final in later] == [[], []]
    assert [(one["utterance"], one["words"]) for one in speaker.of_type("words")] == [
        (final["utterance"], final["words"]) for final in finals
    ]
    assert speaker.of_type("warning") == []


@pytest.mark.slow
def test_a_model_may_name_any_language(served: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = demo_recognizer()
    parse = recognizer.parse
    monkeypatch.setattr(recognizer, "parse", lambda tokens: (parse(tokens)[0], "Klingon", parse(tokens)[2]))
    monkeypatch.setattr(AlignerDouble, "why_not", lambda _, language: f"No {language}." if language else None)
    with aligned_by(recognizer, AlignerDouble(is_quick=True)):
        speaker = asyncio.run(with_words(served))
    assert [final["text"] for final in speaker.of_type("final")] == list(SENTENCES)
    [warning] = speaker.of_type("warning")  # once
    assert warning["message"] == "words: No Klingon."


@pytest.mark.slow
def test_a_client_that_wants_words_learns_that_there_are_none(served: Listening) -> None:
    with aligned_by(demo_recognizer(), None):
        speaker = asyncio.run(with_words(served))
    assert [message["type"] for message in speaker.messages[:2]] == ["session_created", "warning"]
    [warning] = speaker.of_type("warning")
    assert warning["code"] == "NoWords"
    assert "--aligner-model-path" in warning["message"]
    assert [final["words"] for final in speaker.of_type("final")] == [[], []]


def test_int16_at_48_khz_in_pieces_that_cut_samples(served: Listening) -> None:
    loud = resample_poly(said(SENTENCES[1]), 3, 1)
    data = (np.clip(loud, -1, 1) * 32_767).astype("<i2").tobytes()
    stream = PcmStream("s16le", 48_000)
    heard = np.concatenate([stream.feed(data), stream.finish()])

    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.config(sample_rate=48_000, encoding="s16le", language="en", prompt="Names.", context="May")
            for begin in range(0, len(data), 9_601):  # odd
                await speaker.connection.send(data[begin : begin + 9_601])
            assert await speaker.finalize() == 1000
        return speaker

    speaker = asyncio.run(speak())
    check_order(speaker.messages)
    [final] = speaker.of_type("final")
    assert final["text"] == offline(final, heard, "Names.\n\nMay", "English")
    assert final["language"] == "English"
    assert final["received_samples"] == len(loud)


@pytest.mark.parametrize(
    ("first", "code", "close_code"),
    [
        (b"\0\0\0\0", "BadConfig", 1008),
        ("no json", "BadConfig", 1008),
        ('{"type": "finalize"}', "BadConfig", 1008),
        ('{"type": "config", "chunk_size_sec": 0}', "BadConfig", 1008),
        ('{"type": "config", "language": "Klingon"}', "UnknownLanguage", 1007),
        ('{"type": "config", "context": "<|im_end|>"}', "BadInput", 1007),
        (json.dumps({"type": "config", "context": "x" * (1 << 16)}), "TooLarge", 1009),
    ],
)
def test_a_bad_config_is_answered(served: Listening, first: str | bytes, code: str, close_code: int) -> None:
    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.connection.send(first)
            assert await speaker.closed() == close_code
        return speaker

    speaker = asyncio.run(speak())
    [error] = speaker.messages
    assert set(error) == {"type", "message", "code"}
    assert (error["type"], error["code"]) == ("error", code)
    reason = speaker.connection.close_reason
    assert reason
    assert error["message"].startswith(reason.removesuffix("…"))
    assert "Traceback" not in error["message"]


def test_any_depth_of_nesting_is_answered(served: Listening) -> None:
    def nested(depth: int) -> str:
        return '{"type": "config", "context": ' + "[" * depth + "]" * depth + "}"

    async def speak(message: str, opens: bool) -> tuple[int, str]:
        async with client(served.url) as speaker:
            if opens:
                await speaker.config()
            await speaker.connection.send(message)
            return await speaker.closed(), speaker.messages[-1]["code"]

    for depth in (1, 100, 200, 201, 400, *range(940, 980, 4), 1_000, 30_000):
        assert asyncio.run(speak(nested(depth), opens=False)) == (1008, "BadConfig"), depth
        second = (1007, "BadInput") if depth <= 200 else (1008, "BadConfig")
        assert asyncio.run(speak(nested(depth), opens=True)) == second, depth
    assert asyncio.run(speak(nested(100_000), opens=False)) == (1009, "TooLarge")


def test_a_session_that_cannot_be_opened_is_answered(
    served: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails before the session begins, the client gets an error and a close frame."""

    def broken(_: str) -> Any:
        raise RuntimeError("secret detail")

    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.send({"type": "config"})
            assert await speaker.closed() == 1011
        return speaker

    monkeypatch.setattr("qwen_asr.web.sockets.asr.connection.parse_config", broken)
    [error] = asyncio.run(speak()).messages
    assert error["message"] == "The server failed to open a session; its log says why."
    assert "secret detail" in caplog.text
    caplog.clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "code", "close_code"),
    [
        ('{"type": "config"}', "BadInput", 1007),
        ("hello", "BadConfig", 1008),
        (np.array([0, np.nan], "<f4").tobytes(), "AudioError", 1007),
        (np.array([np.inf], "<f4").tobytes(), "AudioError", 1007),
    ],
)
def test_an_error_that_ends_a_session_comes_after_the_last_final(
    served: Listening, wrong: str | bytes, code: str, close_code: int
) -> None:
    samples = said(SENTENCES[0])

    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(samples)
            await speaker.connection.send(wrong)
            assert await speaker.closed() == close_code
        return speaker

    *before, final, error = asyncio.run(speak()).messages
    check_order([*before, final])
    assert final["text"] == offline(final, samples)
    assert (error["type"], error["code"]) == ("error", code)


def test_keepalives_and_unknown_messages_do_not_end_a_session(served: Listening) -> None:
    samples = said(SENTENCES[0])
    half = len(samples) // 2

    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(samples[:half])
            for kind in ("KeepAlive", "keepalive", "keep_alive", "ping"):
                await speaker.send({"type": kind})
            await speaker.connection.send(b"")
            await speaker.send({"type": "stop"})
            await speaker.wait_for("warning")
            await speaker.send({"no": "type"})
            await speaker.wait_for("warning", 2)
            await speaker.audio(samples[half:])
            assert await speaker.finalize() == 1000
        return speaker

    speaker = asyncio.run(speak())
    stop, nothing = speaker.of_type("warning")
    assert stop["code"] == nothing["code"] == "UnknownMessage"
    assert 'has the type "stop" and was ignored' in stop["message"]
    assert "has the type null" in nothing["message"]
    [final] = speaker.of_type("final")
    assert final["text"] == offline(final, samples)


@pytest.mark.slow
def test_a_client_is_told_each_time_that_its_texts_have_to_wait(
    served: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = said(SENTENCES[0])
    half = len(samples) // 2
    reason: str | None = None
    asked = 0

    def unavailable_reason() -> str | None:
        nonlocal asked
        asked += 1
        return reason

    async def speak() -> Client:
        nonlocal reason

        async def it_is_seen_twice() -> None:
            before = asked
            assert await until(lambda: asked >= before + 2)

        async with client(served.url) as speaker:
            await speaker.config()
            monkeypatch.setattr(served.service.engine, "unavailable_reason", unavailable_reason)
            await speaker.audio(samples[:half])
            await it_is_seen_twice()
            assert speaker.of_type("warning") == []
            for count in (1, 2):
                reason = "No engine can be reached."
                await speaker.wait_for("warning", count)
                await it_is_seen_twice()
                reason = None
                await it_is_seen_twice()
                assert len(speaker.of_type("warning")) == count
            await speaker.audio(samples[half:])
            assert await speaker.finalize() == 1000
        return speaker

    speaker = asyncio.run(speak())
    assert {(warning["code"], warning["message"]) for warning in speaker.of_type("warning")} == {
        ("Unavailable", "No engine can be reached. The session goes on, and its texts come later.")
    }
    [final] = speaker.of_type("final")
    assert final["text"] == offline(final, samples)


def test_a_stream_in_another_format_is_reported(served: Listening) -> None:
    samples = np.concatenate([said(*SENTENCES), silence(1.2)])

    async def speak(data: bytes) -> tuple[Client, int]:
        async with client(served.url) as speaker:
            await speaker.config(encoding="s16le")
            for begin in range(0, len(data), 3_200):
                await speaker.connection.send(data[begin : begin + 3_200])
            if data[:1] == b"\x1a":
                return speaker, await speaker.closed()
            await speaker.wait_for("warning")
            return speaker, await speaker.finalize()

    speaker, code = asyncio.run(speak(samples.astype("<f4").tobytes()))
    [warning] = speaker.of_type("warning")
    assert code == 1000
    assert warning["code"] == "SampleFormat"
    assert "looks like float32 little endian (f32le)" in warning["message"]

    speaker, code = asyncio.run(speak(b"\x1a\x45\xdf\xa3" + bytes(4_000)))
    assert (speaker.messages[-1]["code"], code) == ("AudioError", 1007)
    assert speaker.messages[-1]["message"].startswith("The audio is WebM or Matroska; expected raw samples")

    samples = samples[: -round(0.9 * 16_000)]  # too little silence for a final before all of the audio is there
    pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    speaker, code = asyncio.run(speak(b"\x55" + pcm))  # the first sentence suffers, and the second does not
    [warning] = speaker.of_type("warning")
    assert (warning["code"], code) == ("StrayByte", 1000)
    assert speaker.of_type("final")[-1]["text"] == SENTENCES[1]
    assert speaker.messages[-1]["received_samples"] == len(samples)


def test_audio_at_the_pace_of_another_rate_is_reported_once(served: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(1_000) * 0.1)  # each message of 300 ms comes after 100 ms
    clock_only = SimpleNamespace(monotonic=lambda: float(next(clock)), time=time.time)  # not that of the event loop
    monkeypatch.setattr("qwen_asr.web.sockets.asr.session.time", clock_only)
    session = AsrSession(parse_config('{"type": "config"}'), b"", PATIENT, served.service)
    outbox = session.attach(SessionCreated(session_id=session.id))
    try:
        for _ in range(200):
            session.feed(bytes(4 * 4_800))
    finally:
        session.close()
    monkeypatch.undo()
    warnings = [message for message in outbox._waiting if isinstance(message, WarningMessage)]
    assert [(warning.code, "comes with 48000" in warning.message) for warning in warnings] == [("SampleRate", True)]


@pytest.mark.slow
def test_a_session_without_audio_gives_its_slot_to_a_client_that_waits() -> None:
    async def speak(server: Listening) -> tuple[dict[str, Any], int]:
        async with client(server.url) as first, client(server.url) as second:
            await first.config()
            await second.send({"type": "config"})
            await second.wait_for("queued")
            await second.wait_for("session_created")
            code = await first.closed()
            assert await second.finalize() == 1000
        return first.messages[-1], code

    limits = replace(PATIENT, pause_seconds=0.1, pause_poll_seconds=0.1)
    config = Config(max_sessions=1)
    with contextlib.closing(Service(config, demo_recognizer())) as small, listening(small, limits) as server:
        error, code = asyncio.run(speak(server))
    assert (error["code"], code) == ("LimitExceeded", 1013)
    assert "others wait for this session's slot" in error["message"]


def test_finalize_without_audio(served: Listening) -> None:
    async def speak(samples: Samples) -> Client:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(samples)
            assert await speaker.finalize() == 1000
        return speaker

    for samples in (silence(0), silence(2.0)):
        [_, final] = asyncio.run(speak(samples)).messages
        assert (final["type"], final["text"], final["language"]) == ("final", "", "")
        assert final["start"] == final["end"] == len(samples) / 16_000


def test_a_client_that_vanishes_frees_its_session(served: Listening) -> None:
    async def vanish(transport_only: bool) -> None:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(spoken(SENTENCES[0]))
            assert len(served.route.connections) == 1
            if transport_only:
                speaker.connection.transport.abort()
        assert await until(lambda: len(served.route.connections) == 0)
        assert await until(lambda: not served.connections)

    asyncio.run(vanish(True))
    asyncio.run(vanish(False))


@pytest.mark.slow
def test_two_clients_do_not_block_each_other(served: Listening) -> None:
    long = np.concatenate([said(*SENTENCES)] * 6)
    short = said(SENTENCES[0])

    async def speak() -> tuple[Client, Client, int]:
        async with client(served.url) as first, client(served.url) as second:
            await first.config()
            await second.config()
            sending = asyncio.create_task(first.audio(long))  # as fast as it is taken
            await first.wait_for("partial")
            await second.audio(short)
            assert await second.finalize() == 1000
            finals_then = len(first.of_type("final"))
            await sending
            assert await first.finalize() == 1000
        return first, second, finals_then

    first, second, finals_then = asyncio.run(speak())
    check_order(first.messages)
    check_order(second.messages)
    assert finals_then < len(first.of_type("final"))
    assert [final["text"] for final in second.of_type("final")] == [
        offline(final, short) for final in second.of_type("final")
    ]


@pytest.mark.slow
def test_while_the_checkpoint_loads_a_client_is_refused() -> None:
    async def speak(url: str) -> Client:
        async with client(url) as speaker:
            assert await speaker.closed() == 1013
        return speaker

    with listening(Service(Config())) as server:
        [error] = asyncio.run(speak(server.url)).messages
    assert error == {"type": "error", "message": "Loading …", "code": "NotReady"}


@pytest.mark.slow
def test_a_session_above_the_limit_is_refused() -> None:
    async def speak(server: Listening) -> dict[str, Any]:
        async with client(server.url) as first, client(server.url) as second:
            await first.config()
            await second.config()
            async with client(server.url) as third:
                await third.send({"type": "config"})
                assert await third.closed() == 1013
                [error] = third.messages
            assert await first.finalize() == 1000
            assert await until(lambda: len(server.route.sessions.active) == 1)
            async with client(server.url) as fourth:
                await fourth.config()
        return error

    config = Config(max_sessions=2, max_queue=0)
    with contextlib.closing(Service(config, demo_recognizer())) as small, listening(small) as server:
        error = asyncio.run(speak(server))
    assert error["code"] == "LimitExceeded"
    assert "All 2 sessions" in error["message"]


def test_sizes_at_the_limit_and_one_above(service: Service) -> None:
    async def config(server: Listening, size: int) -> Client:
        async with client(server.url) as speaker:
            await speaker.connection.send('{"type":"config"}'.ljust(size))
            assert await until(lambda: bool(speaker.messages))
        return speaker

    async def audio(server: Listening, size: int) -> Client:
        async with client(server.url) as speaker:
            await speaker.config()
            await speaker.connection.send(bytes(size))
            await speaker.finalize()
        return speaker

    with listening(service, replace(PATIENT, config_bytes=200, message_bytes=3_000)) as server:
        assert asyncio.run(config(server, 200)).messages[0]["type"] == "session_created"
        assert asyncio.run(config(server, 201)).messages[0]["code"] == "TooLarge"
        assert asyncio.run(audio(server, 3_000)).messages[-1]["type"] == "final"
        speaker = asyncio.run(audio(server, 3_001))
        assert speaker.messages[-1]["code"] == "TooLarge"
        assert speaker.connection.close_code == 1009
        assert "3001 bytes" in speaker.messages[-1]["message"]
        # Far above the limit the WebSocket protocol itself closes, without a message, and without spending memory.
        speaker = asyncio.run(audio(server, 12_001))
        assert speaker.connection.close_code == 1009


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["config_seconds", "idle_seconds", "session_seconds"])
def test_times_that_run_out(service: Service, limit: str) -> None:
    async def speak(server: Listening) -> Client:
        async with client(server.url) as speaker:
            if limit != "config_seconds":
                await speaker.config()
            if limit == "session_seconds":
                with contextlib.suppress(ConnectionClosed):
                    while True:  # a client that is never idle, however slow the machine is
                        await speaker.audio(silence(0.1), pause=0.1)
            await speaker.closed()
        # The client may see the close before the server has returned from it.
        assert await until(lambda: not server.route.connections)
        return speaker

    short: dict[str, Any] = {limit: 1.0}
    with listening(service, replace(SocketLimits(), **short)) as server:
        speaker = asyncio.run(speak(server))
    assert speaker.messages[-1]["code"] == ("LimitExceeded" if limit == "session_seconds" else "TimedOut")
    assert speaker.connection.close_code == (1013 if limit == "session_seconds" else 1008)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [0.5, 5.0])  # with 5 s, a step needs more audio than may wait
def test_audio_is_read_only_as_fast_as_it_is_recognized(service: Service, chunk_seconds: float) -> None:
    samples = np.concatenate([said(*SENTENCES, gap=0.3)] * 6)  # one minute, hardly a pause

    async def speak(server: Listening) -> Client:
        async with client(server.url) as speaker:
            await speaker.config(chunk_size_sec=chunk_seconds)
            await speaker.connection.send(samples.astype("<f4").tobytes())  # all in one message
            assert await speaker.finalize() == 1000
        return speaker

    with listening(service, replace(PATIENT, ahead_seconds=2.0)) as server:
        speaker = asyncio.run(speak(server))
    check_order(speaker.messages)
    # What may wait, the second that is being fed, and what the detector held back until it was sure of speech.
    assert max(one["lag"] for one in speaker.messages[1:]) < max(2.0, chunk_seconds) + 1.0 + 1.0
    assert speaker.messages[-1]["received_samples"] == len(samples)


@pytest.mark.slow
def test_audio_gathers_while_the_device_is_busy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = said(*SENTENCES, gap=0.3)
    recognizer, taken = demo_recognizer(), []
    run, feed = recognizer.run, AsrSession.feed

    def slow_run(passes: Any) -> Any:
        time.sleep(0.05)
        return run(passes)

    def counted_feed(session: AsrSession, audio: bytes) -> bool:
        taken.append(len(audio))
        return feed(session, audio)

    async def speak(server: Listening) -> Client:
        async with client(server.url) as speaker:
            await speaker.config(chunk_size_sec="auto")
            frames = np.array_split(samples, len(samples) // 320)
            begin = time.monotonic()
            for number, frame in enumerate(frames, 1):
                await speaker.connection.send(frame.astype("<f4").tobytes())
                await asyncio.sleep(begin + 0.02 * number - time.monotonic())
            assert await speaker.finalize() == 1000
        assert len(taken) < 0.9 * len(frames)
        return speaker

    monkeypatch.setattr(recognizer, "run", slow_run)
    monkeypatch.setattr(AsrSession, "feed", counted_feed)
    with listening(service) as server:
        speaker = asyncio.run(speak(server))
    monkeypatch.undo()
    assert sum(taken) == 4 * len(samples) == 4 * speaker.messages[-1]["received_samples"]
    finals = speaker.of_type("final")
    assert [final["text"] for final in finals] == [offline(final, samples) for final in finals] != []


@pytest.mark.slow
def test_a_failed_step_is_reported_and_the_session_goes_on(
    service: Service, served: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer = demo_recognizer()

    def broken(_: Any) -> Any:
        raise RuntimeError("secret detail")

    async def speak() -> Client:
        async with client(served.url) as speaker:
            await speaker.config()
            with monkeypatch.context() as fault:  # a device that fails for a while
                fault.setattr(recognizer, "run", broken)
                await speaker.audio(np.concatenate([said(SENTENCES[0]), silence(1.5)]))
                await speaker.wait_for("error")
            await speaker.audio(said(SENTENCES[1]))
            assert await speaker.finalize() == 1000
        return speaker

    speaker = asyncio.run(speak())
    assert "secret detail" in caplog.text
    caplog.clear()
    [error], [final] = speaker.of_type("error"), speaker.of_type("final")
    assert (error["code"], error["utterance"], final["utterance"]) == ("StepFailed", 0, 1)
    assert "secret" not in error["message"]
    assert final["text"]


@pytest.mark.slow
def test_a_server_that_stops_closes_with_1012(service: Service) -> None:
    async def speak(server: Listening) -> int:
        async with client(server.url) as speaker:
            await speaker.config()
            await speaker.audio(spoken(SENTENCES[0]))
            server.server.should_exit = True
            return await speaker.closed()

    with listening(service) as server:
        assert asyncio.run(speak(server)) == 1012
    assert not server.route.connections


def random_message(rng: np.random.Generator) -> str | bytes:
    """A config or a finalize, possibly with some bytes changed, or random bytes."""
    config = json.dumps({"type": "config", "language": "en", "sample_rate": 8_000, "encoding": "s16le"})
    kind = rng.integers(6)
    if kind == 0:
        return config
    if kind == 1:
        return rng.bytes(int(rng.integers(0, 5_000)))
    if kind == 2:
        return json.dumps({"type": "finalize"})
    text = bytearray((config if kind < 5 else '{"type": "finalize"}').encode())
    for position in rng.integers(0, len(text), int(rng.integers(1, 4))):
        text[position] = rng.integers(0, 256)
    return bytes(text).decode(errors="replace")


@pytest.mark.slow
def test_random_messages_leave_nothing_behind(service: Service) -> None:
    async def speak(served: Listening, seed: int) -> list[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        async with client(served.url, ping_interval=None) as speaker:
            with contextlib.suppress(ConnectionClosed):
                if seed % 2:
                    await speaker.config(encoding=str(rng.choice(["f32le", "s16le"])))
                for _ in range(rng.integers(1, 6)):
                    await speaker.connection.send(random_message(rng))
            if rng.integers(2):
                speaker.connection.transport.abort()
            elif seed % 2:
                with contextlib.suppress(ConnectionClosed):
                    await speaker.connection.send('{"type": "finalize"}')
                await speaker.closed()
        return speaker.messages

    async def speak_all(served: Listening) -> list[dict[str, Any]]:
        answers = [message for seed in range(200) for message in await speak(served, seed)]
        assert await until(lambda: not served.route.connections)
        assert await until(lambda: not served.connections)
        assert await until(lambda: not served.route.sessions._by_digest)
        assert len(served.route.sessions.active) == served.route.sessions.waiting == 0
        return answers

    with listening(service, replace(PATIENT, resume_seconds=0.5)) as server:
        answers = asyncio.run(speak_all(server))
    assert {message["type"] for message in answers} <= {"session_created", "partial", "final", "error", "warning"}
    codes = {message["code"] for message in answers if message["type"] == "error"}
    expected = {"BadConfig", "BadInput", "AudioError"}
    assert expected <= codes <= {*expected, "UnknownLanguage"}


class Jam:
    """Makes a client stop reading, with its receive buffers full, so that the server cannot send it a byte.

    Texts are too short to fill the buffers. Pongs do: the server sends them whether they are read or not.
    """

    PINGS = 4_000

    def __init__(self, speaker: Client) -> None:
        self._connection = speaker.connection

    async def close(self) -> None:
        """Stop reading, and request half a megabyte of pongs."""
        self._connection.transport.pause_reading()
        for number in range(self.PINGS):
            await self._connection.ping(number.to_bytes(4, "big").ljust(125, b"."))

    def open(self) -> None:
        """Read again."""
        self._connection.transport.resume_reading()


@contextlib.asynccontextmanager
async def jammed(url: str) -> AsyncIterator[tuple[Client, Jam]]:
    """A client with a session and a small receive buffer, which does not read."""
    host, port = url.removeprefix("ws://").removesuffix("/ws/asr").split(":")
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        narrow.connect(("127.0.0.1" if host == "localhost" else host, int(port)))
        narrow.setblocking(False)
        async with client(url, sock=narrow, ping_interval=None) as speaker:
            await speaker.config(chunk_size_sec=0.1)
            jam = Jam(speaker)
            await jam.close()
            yield speaker, jam


@pytest.mark.slow
def test_a_slow_reader_gets_every_final_and_delays_no_other_client(service: Service) -> None:
    samples = said(*SENTENCES, *SENTENCES)
    short = said(SENTENCES[0])

    async def speak(server: Listening) -> tuple[Client, Client]:
        async with jammed(server.url) as (slow, jam):
            await slow.audio(np.concatenate([samples, silence(1.5)]))
            async with client(server.url) as other:  # served while the texts of the first one wait
                await other.config()
                await other.audio(short)
                assert await other.finalize() == 1000
            assert slow.of_type("final") == []
            jam.open()
            assert await slow.finalize() == 1000
        return slow, other

    with listening(service, PATIENT, send_buffer=4_096) as server:
        slow, other = asyncio.run(speak(server))
    check_order(slow.messages)
    finals = slow.of_type("final")
    assert len(finals) == 4
    assert [final["text"] for final in finals] == [offline(final, samples) for final in finals]
    # One partial of each utterance waited; another may have been on its way already.
    assert len(slow.of_type("partial")) <= len(finals) + 1
    [final] = other.of_type("final")
    assert final["text"] == offline(final, short)


@pytest.mark.slow
def test_a_client_that_never_reads_is_dropped(service: Service) -> None:
    async def speak(server: Listening) -> None:
        async with jammed(server.url) as (slow, _):
            await slow.audio(said(*SENTENCES))
            assert await until(lambda: len(server.route.connections) == 0)
            assert await until(lambda: not server.connections)  # not only the session: the connection too
            slow.connection.transport.abort()

    with listening(service, replace(PATIENT, send_seconds=1.0, close_seconds=1.0), send_buffer=4_096) as server:
        asyncio.run(speak(server))


@pytest.mark.slow
def test_a_client_that_does_not_read_is_read_only_up_to_a_limit(service: Service) -> None:
    many = np.concatenate([said(SENTENCES[0], SENTENCES[0])] * 6)  # a dozen finals

    async def speak(server: Listening) -> Client:
        async with jammed(server.url) as (slow, jam):
            await slow.audio(many[: len(many) // 2])
            [connection] = server.route.connections
            assert await until(lambda: connection.waiting > limits.waiting_messages)
            sending = asyncio.create_task(slow.audio(many[len(many) // 2 :]))
            await asyncio.sleep(3.0)
            # A few more may come from audio received before: two seconds, so one utterance and part of another.
            assert connection.waiting <= limits.waiting_messages + 4
            jam.open()
            await sending
            assert await slow.finalize() == 1000
        return slow

    limits = replace(PATIENT, waiting_messages=4, ahead_seconds=2.0)
    with listening(service, limits, send_buffer=4_096) as server:
        slow = asyncio.run(speak(server))
    check_order(slow.messages)
    assert len(slow.of_type("final")) >= 12
    assert slow.of_type("final")[-1]["received_samples"] == len(many)
