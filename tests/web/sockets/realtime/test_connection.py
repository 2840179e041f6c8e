"""`/v1/realtime` on a real server: mistakes of clients, limits, faults, and what a session leaves behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed

from qwen_asr import Qwen3ASRModel
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.processes import until as sync_until
from tests.support.realtime_fuzz import fuzz
from tests.support.sockets import PATIENT, Client, Listening, client_of, listening, silence, until

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
COMMITTED = "input_audio_buffer.committed"
COMPLETED = "conversation.item.input_audio_transcription.completed"
FAILED = "conversation.item.input_audio_transcription.failed"
MANUAL: dict[str, Any] = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
BY_VOICE: dict[str, Any] = {**MANUAL, "turn_detection": {"type": "server_vad"}}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The demo checkpoint, loaded once."""
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Listening]:
    """A server with the usual limits."""
    with listening(service, route=RealtimeRoute) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that leaves an error in the server's log. A test that expects one checks the log and clears it."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class Recording(Client):
    """A client of the realtime socket."""

    async def update(self, **inputs: Any) -> dict[str, Any]:
        """Changes the settings of the input; returns them as the server reports them."""
        count = len(self.of_type("session.updated"))
        await self.send({"type": "session.update", "session": {"type": "transcription", "audio": {"input": inputs}}})
        updated = await self.wait_for("session.updated", count + 1)
        return dict(updated["session"]["audio"]["input"])

    async def append(self, samples: Samples) -> None:
        """Sends 16 kHz samples in pieces of 100 ms."""
        data = (samples * 32_767).astype("<i2").tobytes()
        for begin in range(0, len(data), 3_200):
            audio = base64.b64encode(data[begin : begin + 3_200]).decode()
            await self.send({"type": "input_audio_buffer.append", "audio": audio})

    async def commit(self) -> None:
        """Ends the turn."""
        await self.send({"type": "input_audio_buffer.commit"})


@contextlib.asynccontextmanager
async def speaking(server: Listening, query: str = "?intent=transcription", **options: Any) -> AsyncIterator[Recording]:
    """A connected client."""
    async with client_of(Recording, server.url + query, **options) as speaker:
        yield speaker


@pytest.mark.slow
def test_a_client_is_told_that_its_texts_have_to_wait(served: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**MANUAL)
            monkeypatch.setattr(served.service.engine, "unavailable_reason", lambda: "No engine can be reached.")
            await speaker.wait_for("session.warning")
        return speaker

    [warning] = asyncio.run(speak()).of_type("session.warning")
    assert warning["code"] == "Unavailable"
    assert warning["message"] == "No engine can be reached. The session goes on, and its texts come later."


def offline(samples: Samples, context: str = "", language: str | None = None) -> str:
    """The transcription of the samples, as they were sent, by the Python API."""
    sent = (samples * 32_767).astype("<i2").astype(np.float32) / 32_768
    model = Qwen3ASRModel(demo_recognizer())
    return str(model.transcribe((sent, 16_000), context=context, language=language)[0].text)


UPDATE = {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {}}}}


def with_input(**inputs: Any) -> dict[str, Any]:
    return {**UPDATE, "session": {"type": "transcription", "audio": {"input": inputs}}}


IN = "session.audio.input"
WRONG: list[Any] = [
    ({"type": "response.create"}, "type", "invalid_value"),
    ({}, "type", "invalid_value"),
    ({"type": ["x"]}, "type", "invalid_value"),
    ({"type": "input_audio_buffer.append"}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": "no base64!"}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": "é"}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": 5}, "audio", "invalid_value"),
    ({"type": "input_audio_buffer.commit"}, None, "input_audio_buffer_commit_empty"),
    ({"type": "session.update"}, "session", "invalid_value"),
    ({"type": "session.update", "session": {"audio": 1}}, "session.audio", "invalid_value"),
    (with_input(format={"type": "audio/opus"}), f"{IN}.format.type", "invalid_value"),
    (with_input(format={"type": "audio/pcm", "rate": 44_100}), f"{IN}.format.rate", "invalid_value"),
    (with_input(format={"type": "audio/pcmu", "rate": 16_000}), f"{IN}.format.rate", "invalid_value"),
    (with_input(transcription={"language": "Klingon"}), f"{IN}.transcription.language", "invalid_value"),
    (with_input(transcription={"language": "x" * 100}), f"{IN}.transcription.language", "invalid_value"),
    (with_input(transcription={"prompt": "<|im_end|>"}), f"{IN}.transcription.prompt", "invalid_value"),
    (with_input(transcription={"model": 1}), f"{IN}.transcription.model", "invalid_value"),
    (with_input(turn_detection={"type": "other_vad"}), f"{IN}.turn_detection.type", "invalid_value"),
    (with_input(transcription={"languages": ["Klingon"]}), f"{IN}.transcription.languages", "invalid_value"),
    (with_input(transcription={"keywords": [1]}), f"{IN}.transcription.keywords[0]", "invalid_value"),
    (with_input(transcription={"keywords": ["<|im_end|>"]}), f"{IN}.transcription.keywords", "invalid_value"),
    (with_input(turn_detection={"threshold": 1.5}), f"{IN}.turn_detection.threshold", "invalid_value"),
    (with_input(turn_detection={"threshold": float("nan")}), f"{IN}.turn_detection.threshold", "invalid_value"),
    (
        with_input(turn_detection={"silence_duration_ms": True}),
        f"{IN}.turn_detection.silence_duration_ms",
        "invalid_value",
    ),
    (
        with_input(turn_detection={"prefix_padding_ms": 3_001}),
        f"{IN}.turn_detection.prefix_padding_ms",
        "invalid_value",
    ),
    (
        {"type": "transcription_session.update", "session": {"input_audio_format": "mp3"}},
        "session.input_audio_format",
        "invalid_value",
    ),
    (
        {
            "type": "transcription_session.update",
            "session": {"input_audio_transcription": {"prompt": "<|im_end|>"}},
        },
        "session.input_audio_transcription.prompt",
        "invalid_value",
    ),
    (with_input(transcription={"prompt": "x" * (1 << 16)}), None, "too_large"),
]


def nested(depth: int) -> str:
    """An array in an array, and so on, as JSON."""
    return "[" * depth + "]" * depth


def test_each_wrong_event_is_answered_and_the_session_goes_on(served: Listening) -> None:
    async def speak() -> Recording:
        async with speaking(served) as speaker:
            before = await speaker.update(**MANUAL)
            for number, (event, param, code) in enumerate(WRONG, 1):
                await speaker.send({**event, "event_id": f"mine {number}"})
                error = await speaker.wait_for("error", number)
                body = error["error"]
                assert (body["param"], body["code"], body["event_id"]) == (param, code, f"mine {number}"), event
                assert body["type"] == "invalid_request_error"
                assert set(error) == {"type", "event_id", "error"}
                assert set(body) == {"type", "code", "message", "param", "event_id"}
            no_events: list[str | bytes] = [b"\0", "no json", "[]"]
            no_events += [nested(depth) for depth in (201, 202, 900, 957, 1_000, 10_000, 100_000)]
            no_events += ['{"event_id": "x", "audio": ' + nested(depth) + "}" for depth in (1, 100, 250, 970, 100_000)]
            no_events += ["[" * 100_000, '{"type": "x", "event_id": 7}', '{"event_id": "\\ud800"}']
            for raw in no_events:
                await speaker.connection.send(raw)
            error = await speaker.wait_for("error", len(WRONG) + len(no_events))
            assert error["error"]["event_id"] is None
            assert await speaker.update() == before  # no wrong event changed anything
            await speaker.append(spoken(SENTENCES[0]))
            await speaker.commit()
            await speaker.wait_for(COMPLETED)
        return speaker

    speaker = asyncio.run(speak())
    assert speaker.of_type(COMPLETED)[0]["transcript"] == offline(spoken(SENTENCES[0]))
    assert not any("Traceback" in error["error"]["message"] for error in speaker.of_type("error"))


def test_a_commit_needs_a_tenth_of_a_second(served: Listening) -> None:
    speech = spoken(SENTENCES[0])

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**{**MANUAL, "format": {"type": "audio/pcm", "rate": 24_000}})
            audio = base64.b64encode(bytes(2 * 2_399)).decode()
            await speaker.send({"type": "input_audio_buffer.append", "audio": audio})
            await speaker.commit()
            error = await speaker.wait_for("error")
            assert "only has 99.9" in error["error"]["message"]
            await speaker.send({"type": "input_audio_buffer.append", "audio": "AAA="})  # one sample more
            await speaker.commit()
            await speaker.wait_for(COMPLETED)
            await speaker.update(**MANUAL)
            await speaker.append(speech)
            await speaker.send({"type": "input_audio_buffer.clear"})
            await speaker.wait_for("input_audio_buffer.cleared")
            await speaker.commit()
            await speaker.wait_for("error", 2)
            await speaker.append(speech)
            await speaker.commit()
            await speaker.wait_for(COMPLETED, 2)
        return speaker

    speaker = asyncio.run(speak())
    empty, heard = speaker.of_type(COMPLETED)
    assert (empty["transcript"], empty["usage"]["seconds"]) == ("", 0.1)
    assert heard["transcript"] == offline(speech)
    assert heard["usage"]["seconds"] == len(speech) / 16_000
    assert len(speaker.of_type(COMMITTED)) == 2


def noise(seconds: float) -> Samples:
    """Of a room, 30 dB below the voice of `spoken`."""
    level = np.sqrt(np.mean(spoken(SENTENCES[0]) ** 2)) / 30
    return (np.random.default_rng(0).standard_normal(round(seconds * 16_000)) * level).astype(np.float32)


@pytest.mark.slow
def test_what_surrounds_the_voice_in_a_committed_turn_is_not_given_to_the_model(served: Listening) -> None:
    """In 20 s of noise and a sentence the model finds nothing, and clients send such turns."""
    first, second = spoken(SENTENCES[0]), spoken(SENTENCES[1])
    turns: dict[str, list[Samples]] = {
        "one sentence": [noise(20), first, noise(5)],
        "long pauses": [noise(1), first, noise(15), second, noise(15), first],
        "a piece of a word": [first[2_000:8_400]],  # 0.4 s
        "a short silence": [silence(3)],
        "a long silence": [silence(31)],
    }

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**MANUAL)
            for number, parts in enumerate(turns.values(), 1):
                await speaker.append(np.concatenate(parts))
                await speaker.commit()
                await speaker.wait_for(COMPLETED, number)
        return speaker

    completed = dict(zip(turns, asyncio.run(speak()).of_type(COMPLETED), strict=True))
    for name, parts in turns.items():
        assert completed[name]["usage"]["seconds"] == sum(map(len, parts)) / 16_000
    spans = {
        name: [(span["start_ms"], span["end_ms"]) for span in one["recognized"]] for name, one in completed.items()
    }
    assert completed["one sentence"]["transcript"] == SENTENCES[0]
    [(start, end)] = spans["one sentence"]
    assert 19_000 < start <= 20_000 < 20_000 + len(first) / 16 - 100 < end < 21_000 + len(first) / 16
    assert completed["long pauses"]["transcript"] == " ".join([SENTENCES[0], SENTENCES[1], SENTENCES[0]])
    assert len(spans["long pauses"]) == 3
    assert (
        sum(end - start for start, end in spans["long pauses"])
        < 1_000 * completed["long pauses"]["usage"]["seconds"] - 25_000
    )
    # The client may know better than the voice detector.
    assert completed["a piece of a word"]["transcript"] == offline(turns["a piece of a word"][0])
    assert spans["a piece of a word"] == [(0, 400)]
    assert (completed["a short silence"]["transcript"], spans["a short silence"]) == ("", [(0, 3_000)])
    assert (completed["a long silence"]["transcript"], spans["a long silence"]) == ("", [])


@pytest.mark.slow
def test_commit_and_clear_where_turns_are_found_by_voice(served: Listening) -> None:
    first, second, third = spoken(SENTENCES[0]), spoken(SENTENCES[1]), spoken("My number is four seven one.")

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**BY_VOICE)
            await speaker.append(first)
            await speaker.commit()  # the server has heard no pause yet
            await speaker.wait_for(COMPLETED)
            await speaker.append(second)
            await speaker.wait_for("input_audio_buffer.speech_started", 2)
            await speaker.send({"type": "input_audio_buffer.clear"})
            await speaker.wait_for("input_audio_buffer.cleared")
            await speaker.append(silence(0.5))
            await speaker.commit()  # silence
            await speaker.wait_for(COMPLETED, 2)
            await speaker.append(np.concatenate([third, silence(1.0)]))
            await speaker.wait_for(COMPLETED, 3)
        return speaker

    speaker = asyncio.run(speak())
    completed = speaker.of_type(COMPLETED)
    assert completed[0]["transcript"] == SENTENCES[0]
    assert (completed[1]["transcript"], completed[1]["usage"]["seconds"]) == ("", 0.5)
    assert completed[2]["transcript"] == "My number is four seven one."
    started, stopped = (speaker.of_type(f"input_audio_buffer.speech_{what}") for what in ("started", "stopped"))
    assert (len(started), len(stopped)) == (3, 1)
    lengths = (len(first) + len(second)) / 16 + 500
    assert lengths - 20 <= started[2]["audio_start_ms"] < lengths + 1_000  # counted from the session's first sample
    items = [one["item_id"] for one in speaker.of_type(COMMITTED)]
    assert items == [one["item_id"] for one in completed]
    assert started[1]["item_id"] not in items


@pytest.mark.slow
def test_language_and_prompt_reach_the_model(
    service: Service, served: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, seen = demo_recognizer(), []
    prompt = recognizer.prompt

    def watched(context: str, language: str | None) -> Any:
        seen.append((context, language))
        return prompt(context, language)

    monkeypatch.setattr(recognizer, "prompt", watched)

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**MANUAL)
            await speaker.append(spoken(SENTENCES[0]))
            given = {"model": "gpt-4o-transcribe", "language": "pt-BR", "prompt": "A"}
            settings = await speaker.update(transcription=given)
            assert settings["transcription"] == {**given, "model": "demo", "languages": None, "keywords": None}
            await speaker.commit()  # this turn began with the old settings
            await speaker.append(spoken(SENTENCES[0]))
            await speaker.commit()
            await speaker.wait_for(COMPLETED, 2)
            assert [settings for settings, _ in groupby(seen)] == [("", None), ("A", "Portuguese")]
            settings = await speaker.update(transcription=None)
            assert (settings["transcription"]["language"], settings["transcription"]["prompt"]) == (None, "")
        return speaker

    first, second = asyncio.run(speak()).of_type(COMPLETED)
    assert first["transcript"] == offline(spoken(SENTENCES[0]))
    assert second["transcript"] == offline(spoken(SENTENCES[0]), "A", "Portuguese")


@pytest.mark.slow
def test_new_settings_wait_for_the_end_of_the_turn(served: Listening) -> None:
    first, second = spoken(SENTENCES[0]), spoken(SENTENCES[1])

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await speaker.update(**BY_VOICE)
            await speaker.append(first)
            await speaker.wait_for("input_audio_buffer.speech_started")
            await speaker.update(turn_detection=None)
            # All in one message: the end of the turn must be noticed within it.
            data = (np.concatenate([silence(1.5), second]) * 32_767).astype("<i2").tobytes()
            audio = base64.b64encode(data).decode()
            await speaker.send({"type": "input_audio_buffer.append", "audio": audio})
            await speaker.wait_for("input_audio_buffer.speech_stopped")
            await speaker.wait_for(COMPLETED)
            await speaker.commit()
            await speaker.wait_for(COMPLETED, 2)
        return speaker

    speaker = asyncio.run(speak())
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == list(SENTENCES)
    assert len(speaker.of_type("input_audio_buffer.speech_started")) == 1


@pytest.mark.slow
def test_a_failed_step_fails_its_item_and_the_session_goes_on(
    served: Listening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer = demo_recognizer()

    def broken(_: Any) -> Any:
        raise RuntimeError("secret detail")

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            for number, settings in enumerate((MANUAL, BY_VOICE), 1):
                await speaker.update(**settings)
                with monkeypatch.context() as fault:  # a device that fails for a while
                    fault.setattr(recognizer, "run", broken)
                    await speaker.append(spoken(SENTENCES[0]))
                    await speaker.commit()
                    await speaker.wait_for(FAILED, number)
                await speaker.append(spoken(SENTENCES[1]))
                await speaker.commit()
                await speaker.wait_for(COMPLETED, number)
        return speaker

    speaker = asyncio.run(speak())
    assert "secret detail" in caplog.text
    caplog.clear()
    items = [one["item_id"] for one in speaker.of_type(COMMITTED)]
    for number, failed in enumerate(speaker.of_type(FAILED)):
        assert failed["item_id"] == items[2 * number]
        assert (failed["error"]["type"], failed["error"]["code"]) == ("server_error", "step_failed")
        assert "secret" not in failed["error"]["message"]
        before = [one["type"] for one in speaker.messages[: speaker.messages.index(failed)]]
        assert before.count(COMMITTED) == 2 * number + 1
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [SENTENCES[1]] * 2


@pytest.mark.parametrize("query", ["", "?intent=conversation", "?intent=", "?model=gpt-realtime&other=x"])
def test_every_session_transcribes_whatever_the_address_asks_for(served: Listening, query: str) -> None:
    async def speak() -> None:
        async with speaking(served, query) as speaker:
            assert await speaker.wait_for("session.created")

    asyncio.run(speak())


@pytest.mark.slow
def test_while_the_checkpoint_loads_a_client_is_refused() -> None:
    async def speak(server: Listening) -> Recording:
        async with speaking(server) as speaker:
            assert await speaker.closed() == 1013
        return speaker

    with listening(Service(Config()), route=RealtimeRoute) as server:
        speaker = asyncio.run(speak(server))
    [error] = speaker.messages
    assert (error["error"]["code"], error["error"]["message"]) == ("not_ready", "Loading …")
    assert speaker.connection.close_reason == "Loading …"
    assert error["error"]["type"] == "server_error"


@pytest.mark.slow
def test_a_session_above_the_limit_is_refused(service: Service) -> None:
    async def speak(server: Listening) -> dict[str, Any]:
        async with speaking(server) as first, speaking(server) as second:
            await first.wait_for("session.created")
            await second.wait_for("session.created")
            async with speaking(server) as third:
                assert await third.closed() == 1013
                [error] = third.messages
            await first.connection.close()
            assert await until(lambda: len(server.route.connections) == 1)
            async with speaking(server) as fourth:
                await fourth.wait_for("session.created")
        return dict(error["error"])

    config = replace(service.config, max_sessions=2, max_queue=0)
    full = Service(config, demo_recognizer())
    with contextlib.closing(full), listening(full, route=RealtimeRoute) as server:
        error = asyncio.run(speak(server))
    assert (error["type"], error["code"]) == ("rate_limit_error", "limit_exceeded")


def test_the_subprotocols_that_browsers_offer(served: Listening) -> None:
    async def speak(*offered: str) -> tuple[str | None, str]:
        async with speaking(served, subprotocols=offered or None) as speaker:
            assert await until(lambda: bool(speaker.messages))
            return speaker.connection.subprotocol, speaker.messages[0]["type"]

    assert asyncio.run(speak()) == (None, "session.created")
    assert asyncio.run(speak("realtime", "openai-insecure-api-key.k")) == ("realtime", "session.created")
    old = asyncio.run(speak("realtime", "openai-beta.realtime-v1"))
    assert old == ("realtime", "transcription_session.created")


@pytest.mark.slow
def test_a_client_that_vanishes_frees_its_session(served: Listening) -> None:
    async def vanish(transport_only: bool, settings: dict[str, Any]) -> None:
        async with speaking(served) as speaker:
            await speaker.update(**settings)
            await speaker.append(spoken(SENTENCES[0]))
            assert len(served.route.connections) == 1
            if transport_only:
                speaker.connection.transport.abort()
        assert await until(lambda: len(served.route.connections) == 0)
        assert await until(lambda: not served.connections)

    for settings in (MANUAL, BY_VOICE):
        asyncio.run(vanish(True, settings))
        asyncio.run(vanish(False, settings))


@pytest.mark.slow
def test_sizes_at_the_limit_and_one_above(service: Service) -> None:
    event = '{"type":"input_audio_buffer.append","audio":"'

    async def speak(server: Listening) -> Recording:
        async with speaking(server) as speaker:
            for size in (3_000, 3_001):
                await speaker.connection.send((event + "A" * ((size - len(event) - 2) // 4 * 4) + '"}').ljust(size))
            await speaker.connection.send('{"type":"input_audio_buffer.clear"}'.ljust(200))
            await speaker.connection.send('{"type":"input_audio_buffer.clear"}'.ljust(201))
            await speaker.wait_for("error", 2)
            assert len(speaker.of_type("input_audio_buffer.cleared")) == 1
            await speaker.connection.send(" " * 12_001)  # far above: the WebSocket protocol itself closes
            assert await speaker.closed() == 1009
        return speaker

    with listening(service, replace(PATIENT, config_bytes=200, message_bytes=3_000), route=RealtimeRoute) as server:
        errors = asyncio.run(speak(server)).of_type("error")
    assert [error["error"]["code"] for error in errors] == ["too_large"] * 2
    assert "3001 bytes" in errors[0]["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["idle_seconds", "session_seconds"])
def test_times_that_run_out(service: Service, limit: str) -> None:
    speech = spoken(SENTENCES[0])

    async def speak(server: Listening) -> Recording:
        async with speaking(server) as speaker:
            with contextlib.suppress(ConnectionClosed):
                await speaker.send(with_input(**BY_VOICE))
                await speaker.append(speech)
                while limit == "session_seconds":  # a client that is never idle, however slow the machine is
                    await speaker.append(silence(0.01))
                    await asyncio.sleep(0.1)
            await speaker.closed()
        # The client may see the close before the server has returned from it.
        assert await until(lambda: not server.route.connections)
        return speaker

    # Shorter than the 20 s between pings: these and their pongs are signs of life, so such a client is never idle.
    for seconds in (1.5, 6.0, 16.0):
        short: dict[str, Any] = {limit: seconds}
        before = service.sessions.audio_seconds()
        with listening(service, replace(SocketLimits(), **short), route=RealtimeRoute) as server:
            speaker = asyncio.run(speak(server))
        if service.sessions.audio_seconds() - before >= len(speech) / 16_000:
            break  # else the time ran out before the speech arrived, on a machine that is very slow
    *_, completed, error = speaker.messages  # what was spoken is told first
    assert completed["transcript"] == SENTENCES[0]
    code = "session_expired" if limit == "session_seconds" else "timed_out"
    assert error["error"]["code"] == code
    assert speaker.connection.close_code == (1013 if limit == "session_seconds" else 1008)
    assert speaker.connection.close_reason == error["error"]["message"]


@pytest.mark.slow
def test_audio_is_read_only_as_fast_as_it_is_recognized(service: Service) -> None:
    samples = np.concatenate([part for _ in range(8) for part in (spoken(SENTENCES[1]), silence(1.0))])

    async def speak(server: Listening) -> tuple[Recording, float]:
        max_lag = 0.0

        async def watch() -> None:
            nonlocal max_lag
            while True:
                for connection in server.route.connections:
                    max_lag = max(max_lag, sum(turns.runner.lag for turns in connection._all_turns()))
                await asyncio.sleep(0.002)

        async with speaking(server) as speaker:
            await speaker.update(**BY_VOICE)
            watching = asyncio.create_task(watch())
            data = (samples * 32_767).astype("<i2").tobytes()
            audio = base64.b64encode(data).decode()
            await speaker.send({"type": "input_audio_buffer.append", "audio": audio})  # all in one message
            await speaker.wait_for(COMPLETED, 8)
            watching.cancel()
        return speaker, max_lag

    with listening(service, replace(PATIENT, ahead_seconds=2.0), route=RealtimeRoute) as server:
        speaker, max_lag = asyncio.run(speak(server))
    # What may wait, the second that is being fed, and what the detector held back until it was sure of speech.
    assert 0.0 < max_lag < 2.0 + 1.0 + 1.0
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [SENTENCES[1]] * 8


@pytest.mark.slow
def test_turns_that_wait_for_their_texts_are_bounded(service: Service) -> None:
    async def speak(server: Listening) -> tuple[Recording, int]:
        max_ending = 0

        async def watch() -> None:
            nonlocal max_ending
            while True:
                for connection in server.route.connections:
                    max_ending = max(max_ending, sum(not turns.done for turns in connection._ending))
                await asyncio.sleep(0.001)

        async with speaking(server) as speaker:
            await speaker.update(**MANUAL)
            watching = asyncio.create_task(watch())
            for _ in range(40):
                await speaker.append(spoken(SENTENCES[0])[8_000:16_000])
                await speaker.commit()
            await speaker.wait_for(COMPLETED, 40)
            watching.cancel()
        return speaker, max_ending

    with listening(service, replace(PATIENT, waiting_turns=2), route=RealtimeRoute) as server:
        speaker, max_ending = asyncio.run(speak(server))
    assert max_ending <= 3
    assert len({one["transcript"] for one in speaker.of_type(COMPLETED)}) == 1


@pytest.mark.slow
def test_random_messages_leave_nothing_behind(served: Listening) -> None:
    answers = asyncio.run(fuzz(served, 800, seed=1))
    assert "conversation.item.created" in answers
    codes = {"invalid_value", "bad_input", "input_audio_buffer_commit_empty"}
    assert codes <= set(answers)
    assert {COMPLETED, COMMITTED, "session.updated", "transcription_session.updated"} <= set(answers)
    assert FAILED not in answers
    assert not any(name.startswith("closed 101") for name in answers)


@pytest.mark.slow
def test_a_server_that_stops_sends_the_last_texts_first(service: Service) -> None:
    samples = spoken("Turn on the kitchen light.")

    async def speak(server: Listening) -> Recording:
        async with speaking(server) as speaker, speaking(server) as silent:
            await speaker.update(format={"type": "audio/pcm", "rate": 16_000}, turn_detection=None)
            await speaker.append(samples)
            await speaker.commit()
            await speaker.wait_for("input_audio_buffer.committed")
            await silent.wait_for("session.created")
            server.server.should_exit = True
            assert await speaker.closed() == await silent.closed() == 1012
        return speaker

    with (
        contextlib.closing(Service(service.config, demo_recognizer())) as own,
        listening(own, route=RealtimeRoute) as server,
    ):
        speaker = asyncio.run(speak(server))
    *_, completed, error = speaker.messages
    assert completed["transcript"] == offline(samples) != ""
    assert error["error"]["code"] == "server_stopping"


@pytest.mark.slow
def test_a_client_in_the_queue_gets_its_position_and_loses_no_audio(service: Service) -> None:
    samples = spoken("Turn on the kitchen light.")

    async def speak(server: Listening) -> Recording:
        async with speaking(server) as first:
            await first.wait_for("session.created")
            async with speaking(server) as second, speaking(server) as third:
                assert (await second.wait_for("session.queued"))["position"] == 1
                assert (await third.wait_for("session.queued"))["position"] == 2
                # It sends its audio while it waits.
                await third.send(with_input(format={"type": "audio/pcm", "rate": 16_000}, turn_detection=None))
                await third.append(samples)
                await third.commit()
                await second.connection.close()
                assert (await third.wait_for("session.queued", 2))["position"] == 1
                await first.connection.close()
                await third.wait_for("conversation.item.input_audio_transcription.completed")
                return third

    config = replace(service.config, max_sessions=1)
    with (
        contextlib.closing(Service(config, demo_recognizer())) as full,
        listening(full, route=RealtimeRoute) as server,
    ):
        third = asyncio.run(speak(server))
        assert sync_until(lambda: full.admission.admitted == full.admission.waiting == 0)
    [completed] = third.of_type("conversation.item.input_audio_transcription.completed")
    assert completed["transcript"] == offline(samples)


def test_audio_that_is_not_what_was_announced_is_reported(served: Listening) -> None:
    async def append(speaker: Recording, data: bytes) -> None:
        for begin in range(0, len(data), 9_600):
            audio = base64.b64encode(data[begin : begin + 9_600]).decode()
            await speaker.send({"type": "input_audio_buffer.append", "audio": audio})

    async def speak() -> Recording:
        async with speaking(served) as speaker:
            await append(speaker, spoken(SENTENCES[0]).astype("<f4").tobytes())
            await speaker.wait_for("session.warning")
            await speaker.send({"type": "input_audio_buffer.clear"})
            await append(speaker, b"OggS\0" + bytes(1_000))
            await speaker.wait_for("error")
            await speaker.send({"type": "input_audio_buffer.clear"})  # and the session goes on
            await speaker.wait_for("input_audio_buffer.cleared", 2)
        return speaker

    speaker = asyncio.run(speak())
    assert {one["code"] for one in speaker.of_type("session.warning")} == {"SampleFormat"}
    [error] = speaker.of_type("error")
    assert error["error"]["code"] == "audio_error"
    assert error["error"]["message"].startswith("The audio is Ogg; expected raw samples")
