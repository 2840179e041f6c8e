"""The watchdog: its times, and what happens when a pass fails or hangs, or a callback, while other sessions go on.

The times are tested with a clock of the test, the failures with the real engine and real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

from qwen_asr import Qwen3ASRModel
from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, WatchdogLimits
from qwen_asr.engine.observer import PassSize
from qwen_asr.fleet.watchdog import Watchdog
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.live.events import Event
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.service import Service
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.faults import before_each_decoding, poisoned, whenever_poisoned
from tests.support.sockets import Client, Listening, client, listening, silence, until

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.", "Wake me up at half past six.")
HOUR = 3600.0


class Clock:
    """The real clock, which a test can move ahead: no limit is reached because the machine is slow."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits() -> WatchdogLimits:
    """Hours for a pass and for memory, which only the tests' clock can exceed."""
    return WatchdogLimits(base_seconds=HOUR, memory_seconds=HOUR, poll_seconds=0.05)


@pytest.fixture
def served(clock: Clock, limits: WatchdogLimits) -> Iterator[Listening]:
    """A server with a scheduler of its own, since some of these tests use its threads up."""
    torch.set_num_threads(1)
    config, recognizer = Config(chunk_size_sec=0.5), demo_recognizer()
    service = Service(config, recognizer, limits=Limits(watchdog=limits), clock=clock)
    with contextlib.closing(service), listening(service) as server:
        yield server


def test_a_pass_may_take_longer_the_more_work_it_has() -> None:
    now = 0.0
    watchdog = Watchdog(Instruments(), WatchdogLimits(), lambda: now)
    watchdog.iteration_started()
    watchdog.pass_started(PassSize(rows=1, frames=3_000, positions=400))  # half a minute of speech
    now = 100.0
    assert watchdog.stalled_for is None
    now = 200.0
    assert watchdog.stalled_for == 200.0
    watchdog.iteration_ended()
    assert watchdog.stalled_for is None
    assert watchdog.busy_seconds == 200.0


def test_callbacks_may_take_the_base_time() -> None:
    now = 0.0
    watchdog = Watchdog(Instruments(), WatchdogLimits(base_seconds=60.0), lambda: now)
    assert watchdog.delivery_stalled_for is None
    watchdog.delivery_started()
    now = 60.0
    assert watchdog.delivery_stalled_for is None
    now = 61.0
    assert watchdog.delivery_stalled_for == 61.0
    watchdog.delivery_ended()
    assert watchdog.delivery_stalled_for is None


def with_pauses(*parts: Samples) -> Samples:
    """Sentences with pauses that end utterances."""
    return np.concatenate([silence(0.5), *(piece for part in parts for piece in (part, silence(1.2)))])


def check_exact(speaker: Client, heard: Samples, count: int) -> None:
    """`count` finals, each with the text that the Python API gives for its samples."""
    finals = speaker.of_type("final")
    assert len(finals) == count
    for final in finals:
        begin, end = (round(final[key] * 16_000) for key in ("start", "end"))
        [whole] = Qwen3ASRModel(demo_recognizer()).transcribe((heard[begin:end], 16_000))
        assert final["text"] == whole.text != ""


async def talk(url: str, samples: Samples, ended: asyncio.Event | None = None) -> Client:
    """One client from the config to the close. With `ended`, it waits for that in the middle of its first sentence.

    So its step that shares a pass with another session's fault is a partial, whose loss costs no text.
    """
    begun = 24_000  # half a second of silence, and a second of the sentence
    async with client(url) as speaker:
        await speaker.config()
        await speaker.audio(samples[:begun], pause=0.005)
        if ended is not None:
            await ended.wait()
        await speaker.audio(samples[begun:], pause=0.005)
        assert await speaker.finalize() == 1000
    return speaker


async def answer(served: Listening, path: str) -> httpx.Response:
    """The response to a GET."""
    async with httpx.AsyncClient(timeout=60) as asking:
        return await asking.get(served.http + path)


def metric(text: str, name: str) -> float:
    """The value of a sample in the text of /metrics."""
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.slow
def test_a_pass_that_raises_fails_only_its_own_utterance(served: Listening, caplog: pytest.LogCaptureFixture) -> None:
    ill = with_pauses(poisoned(spoken(SENTENCES[0])), spoken(SENTENCES[1]))
    well = [with_pauses(spoken(SENTENCES[index]), spoken(SENTENCES[index - 1])) for index in (1, 2)]

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
    """Poisoned speech hangs in the model's pass, which sets the first event, until the second event is set."""
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert let_go.wait(120)

    with whenever_poisoned(demo_recognizer(), hang):
        yield hangs, let_go
        let_go.set()


@pytest.mark.slow
def test_a_pass_that_hangs_is_abandoned_and_the_other_sessions_go_on(
    served: Listening, hanging: tuple[threading.Event, threading.Event], clock: Clock
) -> None:
    hangs, let_go = hanging
    service = served.service
    ill = with_pauses(poisoned(spoken(SENTENCES[0])))
    well = [with_pauses(spoken(SENTENCES[index]), spoken(SENTENCES[index - 1])) for index in (1, 2)]

    async def speak() -> list[Client]:
        ended = asyncio.Event()
        talking = [asyncio.create_task(talk(served.url, samples, ended)) for samples in well]
        async with client(served.url) as struck:
            await struck.config(chunk_size_sec=0.2)  # due however slow the machine is
            await struck.audio(ill[: len(ill) * 2 // 3])
            assert await until(hangs.is_set)
            clock.ahead += 2 * HOUR
            # The partial is given up, and its audio is kept for the next.
            assert await until(lambda: service.unhealthy_reason() is not None)
            unwell = await answer(served, "/healthz")
            assert (unwell.status_code, unwell.json()["status"]) == (503, "unhealthy")
            assert "does not end" in unwell.json()["text"]
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


@pytest.mark.slow
def test_a_callback_that_hangs_stalls_no_other_session(served: Listening, clock: Clock) -> None:
    service = served.service
    hung, let_go = threading.Event(), threading.Event()

    def hang(_: list[Event]) -> None:
        hung.set()
        assert let_go.wait(120)

    session = service.open_session(SessionOptions(chunk_seconds=0.5), hang)
    session.feed(spoken(SENTENCES[0]))
    samples = with_pauses(spoken(SENTENCES[1]))

    async def speak() -> Client:
        assert await until(hung.is_set)
        async with client(served.url) as other:
            await other.config()
            await other.audio(samples)
            clock.ahead += 2 * HOUR
            assert await until(lambda: service.unhealthy_reason() is not None)
            assert await other.finalize() == 1000
        let_go.set()
        assert await until(lambda: service.unhealthy_reason() is None)
        return other

    check_exact(asyncio.run(speak()), samples, 1)
    session.close()


# As on a GPU, where no other thread can continue.
@pytest.mark.slow
@pytest.mark.parametrize("limits", [WatchdogLimits(base_seconds=HOUR, poll_seconds=0.05, hanging_threads=1)])
def test_if_no_thread_can_continue_all_clients_get_an_error(
    served: Listening, hanging: tuple[threading.Event, threading.Event], clock: Clock
) -> None:
    hangs, _ = hanging

    async def speak() -> tuple[Client, Client]:
        async with client(served.url) as struck, client(served.url) as other:
            await struck.config(chunk_size_sec=0.2)  # due however slow the machine is
            await other.config()
            await struck.audio(with_pauses(poisoned(spoken(SENTENCES[0]))))
            assert await until(hangs.is_set)
            await other.audio(with_pauses(spoken(SENTENCES[1])))
            clock.ahead += 2 * HOUR
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


@pytest.mark.slow
def test_a_device_without_memory_for_all_utterances_at_once(served: Listening, clock: Clock) -> None:
    parts = [with_pauses(spoken(SENTENCES[index % 3]), spoken(SENTENCES[(index + 1) % 3])) for index in range(4)]
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
            assert await until(lambda: served.service.times_without_memory > 0)
            async with client(served.url) as refused:
                await refused.send({"type": "config"})
                assert await refused.closed() == 1013
            assert [await speaker.finalize() for speaker in speakers] == [1000] * len(parts)
        clock.ahead += 2 * HOUR
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


@pytest.mark.slow
def test_a_session_that_failed_leaves_nothing_behind(served: Listening) -> None:
    def fault() -> None:
        raise MemoryError

    before = served.service.sessions.open_by_kind()
    with whenever_poisoned(demo_recognizer(), fault):
        speaker = asyncio.run(talk(served.url, with_pauses(poisoned(spoken(SENTENCES[0])))))
    [error] = speaker.of_type("error")
    assert error["code"] == "StepFailed"
    assert "memory" in error["message"]
    assert served.service.sessions.open_by_kind() == before
    assert isinstance(served.service.engine, WatchedEngine)
    assert served.service.engine.watchdog._steps == {}
