"""The watchdog: its times, and what happens when a pass fails or hangs while other sessions go on.

The times are tested with a clock of the test, the failures with the real engine and real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

from qwen_asr import Qwen3ASRModel
from qwen_asr.config.config import Config
from qwen_asr.engine.observer import Load
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.service import Service
from qwen_asr.service.watchdog import Watchdog
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.faults import before_each_decoding, poisoned, whenever_poisoned
from tests.support.sockets import Client, Listening, client, listening, silence, until

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.", "Wake me up at half past six.")


@pytest.fixture
def served() -> Iterator[Listening]:
    """A server with a recognizer thread of its own: some of these tests wear it out."""
    torch.set_num_threads(1)
    recognizer = demo_recognizer()
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), recognizer)) as service, listening(service) as server:
        yield server


def test_a_pass_may_take_longer_the_more_there_is_to_do() -> None:
    now = 0.0
    watchdog = Watchdog(Instruments(), lambda: now)
    watchdog.turn_begins()
    watchdog.pass_begins(Load(rows=1, frames=3_000, positions=400))  # half a minute of speech
    now = 100.0
    assert watchdog.stalled_for is None
    now = 200.0
    assert watchdog.stalled_for == 200.0
    watchdog.turn_ends()
    assert watchdog.stalled_for is None
    assert watchdog.busy_seconds == 200.0


def test_the_real_time_factor_is_of_the_last_minute() -> None:
    now = 0.0
    watchdog = Watchdog(Instruments(), lambda: now)
    assert watchdog.real_time_factor(0.0) is None
    for minute in range(5):  # the recognizer is busy for 6 s of each minute, and hears 60 s; in the last for 30
        watchdog.turn_begins()
        now += 30 if minute == 4 else 6
        watchdog.turn_ends()
        now = 60.0 * (minute + 1)
        factor = watchdog.real_time_factor(now)
    assert factor == pytest.approx(0.5)


def said(*parts: Samples) -> Samples:
    """Sentences with pauses that end utterances."""
    return np.concatenate([silence(0.5), *(piece for part in parts for piece in (part, silence(1.2)))])


def check_exact(speaker: Client, heard: Samples, count: int) -> None:
    """So many finals, each with the text that the Python API gives for its samples."""
    finals = speaker.of_type("final")
    assert len(finals) == count
    for final in finals:
        begin, end = (round(final[key] * 16_000) for key in ("start", "end"))
        [whole] = Qwen3ASRModel(demo_recognizer()).transcribe((heard[begin:end], 16_000))
        assert final["text"] == whole.text != ""


async def talk(url: str, samples: Samples, ended: asyncio.Event | None = None) -> Client:
    """One speaker from the config to the close. It says its second half when `ended` is set."""
    async with client(url) as speaker:
        await speaker.config()
        await speaker.audio(samples[: len(samples) // 2], pause=0.005)
        if ended is not None:
            await ended.wait()
        await speaker.audio(samples[len(samples) // 2 :], pause=0.005)
        assert await speaker.finalize() == 1000
    return speaker


async def answer(served: Listening, path: str) -> httpx.Response:
    """What the server says to a GET."""
    async with httpx.AsyncClient() as asking:
        return await asking.get(served.http + path)


def metric(text: str, name: str) -> float:
    """The value of a sample in what /metrics says."""
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_pass_that_raises_costs_its_utterance_alone(served: Listening, caplog: pytest.LogCaptureFixture) -> None:
    ill = said(poisoned(spoken(SENTENCES[0])), spoken(SENTENCES[1]))
    well = [said(spoken(SENTENCES[index]), spoken(SENTENCES[index - 1])) for index in (1, 2)]

    def fault() -> None:
        raise RuntimeError("device fault")

    async def speak() -> tuple[list[Client], httpx.Response]:
        speakers = await asyncio.gather(*(talk(served.url, samples) for samples in (ill, *well)))
        return speakers, await answer(served, "/metrics")

    with whenever_poisoned(demo_recognizer(), fault):
        (struck, *others), metrics = asyncio.run(speak())
    [error] = struck.of_type("error")
    assert (error["code"], error["utterance"]) == ("StepFailed", 0)
    assert "The next one goes on" in error["message"]
    assert [final["utterance"] for final in struck.of_type("final")] == [1]
    check_exact(struck, ill, 1)
    for speaker, samples in zip(others, well, strict=True):
        assert speaker.of_type("error") == []
        check_exact(speaker, samples, 2)
    assert metric(metrics.text, 'qwen_asr_errors_total{code="StepFailed"}') == 1
    assert metric(metrics.text, 'qwen_asr_utterances_total{outcome="failed"}') == 1
    assert metric(metrics.text, 'qwen_asr_utterances_total{outcome="final"}') == 5
    assert "device fault" in caplog.text
    caplog.clear()


@pytest.fixture
def hanging() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Whoever is poisoned hangs within the model's pass: the first event says that it does, the second lets it go."""
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert let_go.wait(120)

    with whenever_poisoned(demo_recognizer(), hang):
        yield hangs, let_go
        let_go.set()


def test_a_pass_that_hangs_is_given_up_and_the_others_go_on(
    served: Listening, hanging: tuple[threading.Event, threading.Event]
) -> None:
    hangs, let_go = hanging
    service = served.service
    service.watchdog.base_timeout = 1.0
    ill = said(poisoned(spoken(SENTENCES[0])))
    well = [said(spoken(SENTENCES[index]), spoken(SENTENCES[index - 1])) for index in (1, 2)]

    async def speak() -> list[Client]:
        ended = asyncio.Event()
        talking = [asyncio.create_task(talk(served.url, samples, ended)) for samples in well]
        async with client(served.url) as struck:
            await struck.config()
            await struck.audio(ill[: len(ill) * 2 // 3])
            assert await until(hangs.is_set)
            # Its partial is given up; the audio is still there. Only where the second thread hangs too it is lost.
            assert await until(lambda: service.unhealthy_reason() is not None)
            unwell = await answer(served, "/healthz")
            assert (unwell.status_code, unwell.json()["status"]) == (503, "unhealthy")
            assert "do not end" in unwell.json()["text"] or "does not end" in unwell.json()["text"]
            assert (await answer(served, "/readyz")).status_code == 200
            let_go.set()
            ended.set()
            await struck.audio(ill[len(ill) * 2 // 3 :])
            assert await struck.finalize() == 1000
        others = await asyncio.gather(*talking)
        assert await until(lambda: service.unhealthy_reason() is None)  # the thread has come back and ended
        assert (await answer(served, "/healthz")).status_code == 200
        return [struck, *others]

    struck, *others = asyncio.run(speak())
    assert any("hung on this part" in message.get("warning", "") for message in struck.messages)
    check_exact(struck, ill, 1)
    for speaker, samples in zip(others, well, strict=True):
        check_exact(speaker, samples, 2)


def test_where_nothing_can_go_on_everybody_is_told(
    served: Listening, hanging: tuple[threading.Event, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU, where no thread can replace one.
    monkeypatch.setattr("qwen_asr.service.service.MAX_STUCK_THREADS", 1)
    served.service.watchdog.base_timeout = 1.0
    hangs, _ = hanging

    async def speak() -> tuple[Client, Client]:
        async with client(served.url) as struck, client(served.url) as other:
            await struck.config()
            await other.config()
            await struck.audio(said(poisoned(spoken(SENTENCES[0]))))
            assert await until(hangs.is_set)
            await other.audio(said(spoken(SENTENCES[1])))
            for speaker in (struck, other):
                assert (await speaker.wait_for("error"))["code"] == "StepFailed"
            for path in ("/healthz", "/readyz"):
                refused = await answer(served, path)
                assert refused.status_code == 503
                assert "hang" in refused.json()["text"]
            async with client(served.url) as late:
                assert await late.closed() == 1013
            assert await struck.finalize() == 1000
            assert await other.finalize() == 1000
        return struck, other

    asyncio.run(speak())


def test_a_device_without_memory_for_all_at_once(served: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.service.watchdog.MEMORY_SECONDS", 3600.0)
    parts = [said(spoken(SENTENCES[index % 3]), spoken(SENTENCES[(index + 1) % 3])) for index in range(4)]
    most = 0

    def allocate(rows: int) -> None:
        nonlocal most
        most = max(most, rows)
        if rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    async def speak() -> tuple[list[Client], Client, Client]:
        async with contextlib.AsyncExitStack() as open_ones:
            speakers = [await open_ones.enter_async_context(client(served.url)) for _ in parts]
            for speaker in speakers:
                await speaker.config()
            pairs = list(zip(speakers, parts, strict=True))
            await asyncio.gather(*(speaker.audio(samples) for speaker, samples in pairs))
            assert await until(lambda: served.service.watchdog.times_without_memory > 0)
            async with client(served.url) as refused:
                await refused.send({"type": "config"})
                assert await refused.closed() == 1013
            assert [await speaker.finalize() for speaker in speakers] == [1000] * len(parts)
        monkeypatch.setattr("qwen_asr.service.watchdog.MEMORY_SECONDS", 0.0)
        return speakers, refused, await talk(served.url, parts[0])

    with before_each_decoding(demo_recognizer(), allocate):
        speakers, refused, later = asyncio.run(speak())
    assert most > 1
    [error] = refused.of_type("error")
    assert error["code"] == "LimitExceeded"
    assert "memory" in error["message"]
    for speaker, samples in zip([*speakers, later], [*parts, parts[0]], strict=True):
        assert speaker.of_type("error") == []
        check_exact(speaker, samples, 2)


def test_nothing_is_left_of_sessions_that_failed(served: Listening) -> None:
    def fault() -> None:
        raise MemoryError

    before = served.service.sessions.open_by_kind()
    with whenever_poisoned(demo_recognizer(), fault):
        speaker = asyncio.run(talk(served.url, said(poisoned(spoken(SENTENCES[0])))))
    [error] = speaker.of_type("error")
    assert error["code"] == "StepFailed"
    assert "memory" in error["message"]
    assert served.service.sessions.open_by_kind() == before
    assert served.service.watchdog._steps == {}
