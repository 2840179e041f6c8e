"""The runner with several threads: order and completeness of events, errors, and `close`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import StepFailed
from qwen_asr.live.events import Event, Failed, Final
from qwen_asr.live.runner import Runner, run_session
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from tests.support.engine_double import (
    AlignerDouble,
    EventChecker,
    Loudness,
    UtteranceDouble,
    make_audio,
    new_session,
    text_of,
    transcribe_exactly,
    words_of,
)

SECOND = 16000
SEVERAL = [(True, 40_000), (False, 9_000), (True, 12_000), (False, 20_000), (True, 30_000), (False, 4_000)]


class RandomDevice:
    """Runs steps of random duration in a thread pool, of which a share can fail. One per utterance at a time."""

    def __init__(self, seed: int, failing: float = 0.0, longest: float = 0.004) -> None:
        self._random = random.Random(seed)
        self._failing = failing
        self._longest = longest
        self._pool = ThreadPoolExecutor(4)
        self.steps = 0

    def submit(
        self, utterance: UtteranceDouble, on_start: Callable[[], None], is_urgent: Callable[[], bool]
    ) -> Future[Hypothesis]:
        assert not utterance.busy
        self.steps += 1
        queued, seconds = self._random.uniform(0, self._longest), self._random.uniform(0, self._longest)
        return self._pool.submit(
            self._step, utterance, on_start, is_urgent, queued, seconds, self._random.random() < self._failing
        )

    def _step(
        self,
        utterance: UtteranceDouble,
        on_start: Callable[[], None],
        is_urgent: Callable[[], bool],
        queued: float,
        seconds: float,
        fails: bool,
    ) -> Hypothesis:
        time.sleep(queued)
        urgent = is_urgent()
        self._run(utterance, on_start, seconds)
        if not urgent and is_urgent():
            self._run(utterance, on_start, seconds)
        if fails:
            raise StepFailed("It broke.")
        return utterance.finish()

    @staticmethod
    def _run(utterance: UtteranceDouble, on_start: Callable[[], None], seconds: float) -> None:
        on_start()
        assert not utterance.busy
        utterance.busy = True
        time.sleep(seconds)
        utterance.busy = False

    def align(self, clip: Clip, *, background: bool) -> Future[tuple[Word, ...]]:
        return self._pool.submit(self._align, clip, self._random.uniform(0, self._longest))

    def _align(self, clip: Clip, seconds: float) -> tuple[Word, ...]:
        time.sleep(seconds)
        if "w12" in clip.text:
            raise StepFailed("It broke.")
        return words_of(clip.text, 0, len(clip.samples))

    def close(self) -> None:
        self._pool.shutdown()


class EventSink:
    """A callback that checks that calls never overlap, and passes the events to a checker."""

    def __init__(self) -> None:
        self.checker = EventChecker()
        self._inside = threading.Lock()
        self.problems: list[BaseException] = []

    def __call__(self, events: list[Event]) -> None:
        assert events
        assert self._inside.acquire(blocking=False), "two calls at once"
        try:
            self.checker.take(events)
        except AssertionError as error:
            self.problems.append(error)
            raise
        finally:
            self._inside.release()


def run(session: Any, device: Any, blocks: list[Any], on_events: Any) -> Runner:
    runner = Runner(session, device, on_events)
    for block in blocks:
        runner.feed(block)
    return runner


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_every_event_arrives_in_order_on_any_device(seed: int, failing: float) -> None:
    rng = np.random.default_rng(seed)
    audio = make_audio(SEVERAL, seed)
    session, sink, device = new_session(chunk_seconds=0.2), EventSink(), RandomDevice(seed, failing)
    runner = run(session, device, [], sink)
    watched = threading.Event()
    lags: list[float] = []

    def watch() -> None:
        while not watched.wait(0.0005):
            lags.append(runner.lag)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for block in np.split(audio, np.sort(rng.integers(0, len(audio), 40))):
        runner.feed(block)
        lags.append(runner.lag)  # the watcher alone may not run on a busy machine
        time.sleep(rng.uniform(0, 0.002))
    finished = runner.finish()
    assert runner.finish() is finished
    assert finished.result(timeout=60) is None
    watched.set()
    watcher.join()
    device.close()
    assert not sink.problems
    sink.checker.check_complete(session)
    assert runner.received == len(audio)
    assert min(lags) >= 0
    for final in sink.checker.finals:
        assert final.text == text_of(audio[final.start : final.end])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_quick", [False, True])
def test_words_come_with_their_finals_or_after_them(is_quick: bool, seed: int) -> None:
    audio, device = make_audio([*SEVERAL, *SEVERAL], seed), RandomDevice(seed)
    session = new_session(aligner=AlignerDouble(is_quick=is_quick), words=True, chunk_seconds=0.2)
    sink = EventSink()
    runner = run(session, device, np.array_split(audio, 30), sink)
    assert runner.finish().result(timeout=60) is None
    assert runner.idle
    device.close()
    assert not sink.problems
    sink.checker.check_complete(session)
    assert bool(sink.checker.words) != is_quick
    finals = session.transcript.finals
    assert {"w12" in final.text for final in finals} == {False, True}
    for final in finals:
        lost = "w12" in final.text
        assert final.words == (() if lost else words_of(final.text, final.start, final.end))
        assert bool(final.warnings) == (lost and is_quick)
        assert set(final.warnings) <= {"words: their times are unknown. It broke."}


class WaitsToAlign(RandomDevice):
    """A device whose alignments all wait."""

    def __init__(self) -> None:
        super().__init__(0)
        self.waiting: list[tuple[Clip, Future[tuple[Word, ...]]]] = []
        self.asked = threading.Semaphore(0)

    def align(self, clip: Clip, *, background: bool) -> Future[tuple[Word, ...]]:
        self.waiting.append((clip, Future()))
        self.asked.release()
        return self.waiting[-1][1]


@pytest.mark.parametrize("is_quick", [False, True])
def test_close_cancels_the_alignments_and_finish_waits_for_them(is_quick: bool) -> None:
    for closes in (False, True):
        device: Any = WaitsToAlign()
        session, sink = new_session(aligner=AlignerDouble(is_quick=is_quick), words=True, chunk_seconds=9), EventSink()
        runner = run(session, device, [make_audio([(True, SECOND // 2)])], sink)
        finished = runner.finish()
        assert device.asked.acquire(timeout=60)
        [(clip, future)] = device.waiting
        assert not finished.done()
        assert not runner.idle
        if closes:
            runner.close()
            assert future.cancelled()
            assert finished.cancelled()
        else:
            future.set_result(words_of(clip.text, 0, len(clip.samples)))
            finished.result(timeout=60)
            sink.checker.check_complete(session)
            assert [final.words != () for final in session.transcript.finals] == [True]
        assert not sink.problems
        device.close()


def test_an_aligner_that_cannot_be_asked_costs_only_the_words(caplog: pytest.LogCaptureFixture) -> None:
    class Refuses(AnswersAtOnce):
        def align(self, clip: Clip, *, background: bool) -> Future[tuple[Word, ...]]:
            raise RuntimeError("secret detail")

    session, sink = new_session(aligner=AlignerDouble(is_quick=True), words=True, chunk_seconds=0.2), EventSink()
    device: Any = Refuses()
    run(session, device, [make_audio(SEVERAL)], sink).finish().result(timeout=60)
    sink.checker.check_complete(session)
    warnings = {final.warnings for final in sink.checker.finals}
    assert warnings == {("words: their times are unknown. The log says why.",)}
    assert "secret detail" in caplog.text


def test_a_runner_is_idle_once_all_events_are_delivered() -> None:
    device: Any = RandomDevice(0)
    called, idle_during_delivery = threading.Event(), []
    go_on = threading.Event()

    def deliver(_: list[Event]) -> None:
        idle_during_delivery.append((runner.lag, runner.idle))
        called.set()
        go_on.wait(30)

    runner = Runner(new_session(chunk_seconds=0.2), device, deliver)
    assert runner.idle
    feeding = threading.Thread(target=runner.feed, args=(make_audio(SEVERAL, 0),))
    feeding.start()
    assert called.wait(30)
    assert not runner.idle
    go_on.set()
    feeding.join()
    runner.finish().result(timeout=60)
    device.close()
    assert runner.idle
    assert not any(idle for _, idle in idle_during_delivery)
    assert idle_during_delivery[-1] == (0, False)  # no lag, but the delivery is not complete


def test_many_sessions_share_a_device() -> None:
    device: Any = RandomDevice(0)
    sessions = []
    for seed in range(10):
        session, sink = new_session(chunk_seconds=0.2), EventSink()
        sessions.append((session, sink, Runner(session, device, sink), make_audio(SEVERAL, seed)))

    def feed(entry: Any) -> None:
        _, _, runner, audio = entry
        for block in np.array_split(audio, 30):
            runner.feed(block)
        runner.finish().result(timeout=60)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(feed, sessions))
    device.close()
    for session, sink, _, _ in sessions:
        assert not sink.problems
        sink.checker.check_complete(session)


class Refusing:
    def submit(
        self, utterance: UtteranceDouble, on_start: Callable[[], None], is_urgent: Callable[[], bool]
    ) -> Future[Hypothesis]:
        raise StepFailed("The recognizer was stopped.")


class FailsAtOnce:
    def submit(
        self, utterance: UtteranceDouble, on_start: Callable[[], None], is_urgent: Callable[[], bool]
    ) -> Future[Hypothesis]:
        future: Future[Hypothesis] = Future()
        future.set_exception(ValueError("secret detail"))
        return future


class AnswersAtOnce:
    def submit(
        self, utterance: UtteranceDouble, on_start: Callable[[], None], is_urgent: Callable[[], bool]
    ) -> Future[Hypothesis]:
        on_start()
        future: Future[Hypothesis] = Future()
        future.set_result(utterance.finish())
        return future


class NeverFree:
    """A device whose steps all wait."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Hypothesis], Callable[[], bool]]] = []

    def submit(
        self, utterance: UtteranceDouble, on_start: Callable[[], None], is_urgent: Callable[[], bool]
    ) -> Future[Hypothesis]:
        self.waiting.append((Future(), is_urgent))
        return self.waiting[-1][0]


@pytest.mark.parametrize("ends", [True, False])
def test_a_waiting_step_is_urgent_once_its_utterance_has_ended_and_is_cancelled_with_its_session(ends: bool) -> None:
    session, sink, device = new_session(chunk_seconds=0.2), EventSink(), NeverFree()
    runner = run(session, cast("Any", device), [make_audio([(True, SECOND)])], sink)
    [(future, is_urgent)] = device.waiting
    assert not is_urgent()
    if ends:
        runner.finish()
    assert is_urgent() == ends
    runner.close()
    assert future.cancelled()
    assert not is_urgent()


MANY = [(True, 4000), (False, 6000)] * 600


@pytest.mark.slow
@pytest.mark.parametrize(("device", "ending"), [(Refusing, Failed), (FailsAtOnce, Failed), (AnswersAtOnce, Final)])
def test_a_device_that_answers_at_once_causes_no_deep_recursion(device: Any, ending: type) -> None:
    session, sink = new_session(chunk_seconds=0.2), EventSink()
    runner = run(session, device(), [make_audio(MANY)], sink)
    runner.finish().result(timeout=60)
    assert len(sink.checker.closed) == 600
    assert all(type(event) is ending for event in sink.checker.closed)
    sink.checker.check_complete(session)


def test_the_user_gets_a_message_and_the_log_the_details(caplog: pytest.LogCaptureFixture) -> None:
    sink = EventSink()
    run(new_session(), FailsAtOnce(), [make_audio([(True, SECOND)])], sink).finish().result(timeout=60)
    (failed,) = sink.checker.closed
    assert isinstance(failed, Failed)
    assert "secret" not in failed.message
    assert "secret detail" in caplog.text


def test_a_callback_that_fails_does_not_stop_the_session_and_its_error_is_raised_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def fail(events: list[Event]) -> None:
        calls.append(len(events))
        raise KeyError("page is gone")

    session, device = new_session(chunk_seconds=0.2), RandomDevice(1)
    runner = run(session, device, np.array_split(make_audio(SEVERAL), 30), fail)
    with pytest.raises(KeyError, match="page is gone"):
        runner.finish().result(timeout=60)
    device.close()
    assert len(calls) > 3
    assert session.done
    assert "callback for session events failed" in caplog.text


def test_a_callback_can_call_the_runner() -> None:
    session, checker = new_session(chunk_seconds=0.2), EventChecker()
    device: Any = RandomDevice(2)
    rest = [make_audio([(True, 20_000)], seed) for seed in range(3)]
    ended = threading.Event()

    def respond(events: list[Event]) -> None:
        checker.take(events)
        if rest:
            runner.feed(rest.pop())
        elif not ended.is_set():
            runner.finish().add_done_callback(lambda _: ended.set())

    runner = Runner(session, device, respond)
    runner.feed(make_audio([(True, 20_000)]))
    assert ended.wait(60)
    device.close()
    checker.check_complete(session)
    assert session.received == 80_000


def test_close_drops_everything_at_any_moment() -> None:
    for moment in range(20):
        delivered: list[list[Event]] = []
        device = RandomDevice(moment, longest=0.002)
        runner = run(new_session(chunk_seconds=0.1), device, np.array_split(make_audio(SEVERAL), 30), delivered.append)
        finished = runner.finish() if moment % 2 else None
        time.sleep(moment / 4000)
        runner.close()
        runner.close()
        runner.feed(make_audio([(True, SECOND)]))  # a late block of a closed page
        if finished is not None and not finished.cancelled():
            finished.result(timeout=60)
        later = runner.finish()
        assert later.done()
        if finished is None:
            with pytest.raises(CancelledError):
                later.result()
        device.close()
        count = len(delivered)
        time.sleep(0.002)
        assert len(delivered) == count
        assert runner.lag == 0


def test_a_temporary_error_before_a_step_does_not_stop_the_session() -> None:
    full = [MemoryError("for a moment")]

    class ShortOfMemory(UtteranceDouble):
        def append(self, samples: Any) -> None:
            if full:
                raise full.pop()
            super().append(samples)

    audio, checker = make_audio([(True, 30_000)]), EventChecker()
    device: Any = AnswersAtOnce()
    new_utterance: Any = partial(ShortOfMemory, transcribe_exactly)
    detector = UtteranceDetector(EndpointConfig(), Loudness())
    session = Session(new_utterance, detector, SessionOptions())
    runner = Runner(session, device, checker.take)
    with pytest.raises(MemoryError):
        runner.feed(audio[:20_000])
    runner.feed(audio[20_000:])
    runner.finish().result(timeout=60)
    checker.check_complete(session)
    assert [final.text for final in checker.finals] == [text_of(audio)]


def test_canceling_the_future_of_finish_stops_nothing() -> None:
    session, device, checker = new_session(), RandomDevice(3), EventChecker()
    runner = run(session, device, [make_audio(SEVERAL)], checker.take)
    runner.finish().cancel()
    deadline = time.monotonic() + 60
    while not session.done:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    device.close()
    checker.check_complete(session)


def test_run_session_yields_an_event_for_a_failed_step(caplog: pytest.LogCaptureFixture) -> None:
    def transcribe(samples: Any, context: str, language: str | None) -> Hypothesis:
        raise ValueError("secret detail")

    session, checker = new_session(transcribe, chunk_seconds=0.2), EventChecker()
    checker.take(list(run_session(session, np.array_split(make_audio(SEVERAL), 30))))
    checker.check_complete(session)
    assert len(checker.closed) > 2
    assert all(isinstance(event, Failed) for event in checker.closed)
    assert "secret detail" in caplog.text
