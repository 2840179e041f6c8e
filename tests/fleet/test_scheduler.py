"""The scheduler without a model: what it calls, when it calls again, and that it needs no torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo, EngineUtterance
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import BadInput, NotReady, QwenASRError, StepFailed
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.messages import (
    AlignerInfo,
    AlignRequest,
    CheckRequest,
    CloseRequest,
    Done,
    Draining,
    Empty,
    Have,
    Hello,
    Refused,
    Reply,
    Request,
    StepRequest,
    Words,
)
from qwen_asr.fleet.scheduler import RemoteScheduler
from tests.support.processes import until

SAMPLES = np.random.default_rng(2).uniform(-1, 1, 32_000).astype(np.float32)


class ScriptedCalls:
    """Answers each call with what `respond` returns or raises; a `Future` is an answer that comes later."""

    def __init__(self, respond: Callable[[Request], Reply | Future[Reply]]) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.closed = False

    @property
    def hello(self) -> Hello:
        aligner = AlignerInfo("a", True, {"Thai": "No Thai."}, ("German",), "Not {}.")
        return Hello("e", EngineInfo("m", False, "float32", "d", 9), aligner)

    def unavailable_reason(self) -> str | None:
        return "All are gone."

    def call(self, request: Request, key: str, /) -> Future[Reply]:
        self.requests.append(request)
        answer = self.respond(request)
        if isinstance(answer, Future):
            return answer
        done: Future[Reply] = Future()
        done.set_result(answer)
        return done

    def close(self) -> None:
        self.closed = True

    @property
    def steps(self) -> list[StepRequest]:
        return [request for request in self.requests if isinstance(request, StepRequest)]


def done(request: Request, engine: str = "e") -> Reply:
    assert isinstance(request, StepRequest)
    length = request.offset + len(request.samples)
    return Done(engine, Hypothesis((1, 2, 3, 4), "raw", "German", f"{length}", length))


def utterance_of(
    scheduler: RemoteScheduler, samples: int = 8_000, language: str | None = None, background: bool = False
) -> EngineUtterance:
    new = scheduler.utterances(background=background, scored=False)
    utterance = new(context="names", language=language, max_new_tokens=100)
    utterance.append(SAMPLES[:samples])
    return utterance


def first(*answers: Reply | Exception) -> Callable[[Request], Reply]:
    """Answers steps with these first, then as an engine does."""
    left = list(answers)

    def respond(request: Request) -> Reply:
        if isinstance(request, StepRequest) and left:
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return done(request) if isinstance(request, StepRequest) else Empty()

    return respond


def test_only_what_is_new_is_sent() -> None:
    calls = ScriptedCalls(first())
    scheduler = RemoteScheduler(calls)
    utterance = utterance_of(scheduler)
    assert scheduler.submit(utterance).result(10).text == "8000"
    utterance.append(SAMPLES[8_000:9_000])
    assert scheduler.submit(utterance).result(10).text == "9000"
    utterance.truncate(8_500)
    utterance.append(-SAMPLES[:100])
    assert scheduler.submit(utterance).result(10).text == "8600"
    utterance.close()
    scheduler.close()
    one, two, three = calls.steps
    assert (one.offset, len(one.samples), one.holder) == (0, 8_000, "")
    assert one.settings is not None
    assert (two.offset, len(two.samples), two.holder, two.settings) == (8_000, 1_000, "e", None)
    assert (three.offset, len(three.samples)) == (8_500, 100)
    assert one.number < two.number < three.number
    assert calls.requests[-1] == CloseRequest(one.uid)
    assert calls.closed


@pytest.mark.parametrize(
    "fault",
    [EngineLost("gone"), NoEngine("none"), Draining(), Have("other", 0)],
    ids=lambda fault: type(fault).__name__,
)
def test_after_a_fault_another_engine_gets_all_samples(fault: Reply | Exception) -> None:
    calls = ScriptedCalls(first())
    scheduler = RemoteScheduler(calls)
    utterance = utterance_of(scheduler)
    scheduler.submit(utterance).result(10)
    calls.respond = first(fault)
    utterance.append(SAMPLES[8_000:9_000])
    assert scheduler.submit(utterance).result(10).text == "9000"
    scheduler.close()
    *_, again = calls.steps
    assert (again.offset, len(again.samples)) == (0, 9_000)
    assert again.settings is not None
    assert again.settings.draft == (1, 2, 3, 4)  # the tokens of its last hypothesis


def test_an_engine_that_has_fewer_samples_gets_the_rest() -> None:
    calls = ScriptedCalls(first())
    scheduler = RemoteScheduler(calls)
    utterance = utterance_of(scheduler)
    scheduler.submit(utterance).result(10)
    calls.respond = first(Have("e", 5_000))
    utterance.append(SAMPLES[8_000:9_000])
    assert scheduler.submit(utterance).result(10).text == "9000"
    scheduler.close()
    *_, again = calls.steps
    assert (again.offset, len(again.samples)) == (5_000, 4_000)


def test_an_answer_that_is_lost_is_asked_for_again() -> None:
    lost: Future[Reply] = Future()
    lost.set_exception(EngineLost("gone"))
    calls = ScriptedCalls(lambda request: lost if len(calls.steps) == 1 else done(request))
    scheduler = RemoteScheduler(calls)
    assert scheduler.submit(utterance_of(scheduler)).result(10).text == "8000"
    scheduler.close()
    assert len(calls.steps) == 2


@pytest.mark.parametrize("answer", [Have("e", 0), Have("e", 9_000), Empty()], ids=lambda answer: type(answer).__name__)
def test_an_answer_that_makes_no_sense_is_no_reason_to_ask_without_a_pause(
    answer: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    calls = ScriptedCalls(lambda request: answer)
    scheduler = RemoteScheduler(calls, patience_seconds=0.3)
    with pytest.raises(StepFailed, match="No engine has answered"):
        scheduler.submit(utterance_of(scheduler)).result(10)
    assert f"The engine has answered with {type(answer).__name__}" in caplog.text
    scheduler.close()
    assert 1 < len(calls.steps) < 10


def test_what_hangs_does_not_keep_the_scheduler_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.fleet.scheduler.JOIN_SECONDS", 0.1)
    calls = ScriptedCalls(first())
    scheduler = RemoteScheduler(calls)
    hold, hangs = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        hangs.set()
        hold.wait(60)

    scheduler.submit(utterance_of(scheduler)).add_done_callback(hang)
    assert hangs.wait(10)
    scheduler.close()
    assert calls.closed
    assert not hold.is_set()
    hold.set()


def refuse(request: Request) -> Reply:
    raise NoEngine("No engine can be reached.")


def test_without_engines_a_step_of_a_file_fails_in_the_end() -> None:
    scheduler = RemoteScheduler(ScriptedCalls(refuse), patience_seconds=0.2)
    with pytest.raises(StepFailed, match=r"No engine has answered for 0.2 seconds"):
        scheduler.submit(utterance_of(scheduler, background=True)).result(10)
    scheduler.close()


@pytest.mark.slow
def test_without_engines_live_speech_waits_for_one() -> None:
    calls = ScriptedCalls(refuse)
    scheduler = RemoteScheduler(calls, patience_seconds=0.1)
    step = scheduler.submit(utterance_of(scheduler))
    with pytest.raises(TimeoutError):
        step.result(1)
    calls.respond = done
    assert step.result(10).text == "8000"
    scheduler.close()


def test_live_speech_that_engines_die_of_is_given_up() -> None:
    """Also where none is there between two attempts, because it starts again."""
    answers = itertools.count()

    def die(request: Request) -> Reply:
        if next(answers) % 2:
            return refuse(request)
        raise EngineLost("It is dead.")

    scheduler = RemoteScheduler(ScriptedCalls(die), patience_seconds=0.2)
    with pytest.raises(StepFailed, match=r"No engine has answered for 0.2 seconds"):
        scheduler.submit(utterance_of(scheduler)).result(10)
    scheduler.close()


def test_what_the_engine_says_of_a_failure_reaches_the_session() -> None:
    scheduler = RemoteScheduler(ScriptedCalls(first(Refused("StepFailed", "It hung."))))
    with pytest.raises(StepFailed, match="It hung"):
        scheduler.submit(utterance_of(scheduler)).result(10)
    scheduler.close()


def test_a_step_whose_utterance_ends_is_called_again_at_once_with_what_has_come() -> None:
    late: list[Future[Reply]] = []

    def respond(request: Request) -> Reply | Future[Reply]:
        assert isinstance(request, StepRequest)
        if request.urgent:
            return done(request)
        late.append(Future())
        return late[-1]

    calls = ScriptedCalls(respond)
    scheduler = RemoteScheduler(calls)
    utterance = utterance_of(scheduler)
    ended = threading.Event()
    more = iter([SAMPLES[:0], SAMPLES[8_000:9_000]])
    future = scheduler.submit(utterance, lambda: utterance.append(next(more)), ended.is_set)
    while not late:
        time.sleep(0.001)
    assert not future.done()
    ended.set()
    assert future.result(10).text == "9000"
    late[0].set_result(done(calls.steps[0]))  # too late
    scheduler.close()
    assert [step.urgent for step in calls.steps] == [False, True]


def test_a_step_that_was_called_again_ignores_how_the_call_before_ends() -> None:
    answers: list[Future[Reply]] = []

    def respond(request: Request) -> Future[Reply]:
        answers.append(Future())
        return answers[-1]

    calls = ScriptedCalls(respond)
    scheduler = RemoteScheduler(calls)
    ended = threading.Event()
    future = scheduler.submit(utterance_of(scheduler), None, ended.is_set)
    assert until(lambda: len(answers) == 1)
    ended.set()
    assert until(lambda: len(answers) == 2)
    answers[0].set_exception(EngineLost("gone"))
    time.sleep(0.2)  # the first wait before a call is made again is a tenth of that
    assert len(answers) == 2
    answers[1].set_result(done(calls.steps[1]))
    assert future.result(10).text == "8000"
    scheduler.close()


def test_a_result_for_other_samples_is_none() -> None:
    shorter = Done("e", Hypothesis((), "raw", "German", "of another time", 100))
    calls = ScriptedCalls(first(shorter))
    scheduler = RemoteScheduler(calls)
    assert scheduler.submit(utterance_of(scheduler)).result(10).text == "8000"
    scheduler.close()
    assert len(calls.steps) == 2


def test_what_on_start_raises_fails_the_step() -> None:
    def fail() -> None:
        raise BadInput("It cannot start.")

    scheduler = RemoteScheduler(ScriptedCalls(first()))
    with pytest.raises(StepFailed, match="It cannot start"):
        scheduler.submit(utterance_of(scheduler), fail).result(10)
    assert scheduler.submit(utterance_of(scheduler)).result(10).text == "8000"
    scheduler.close()


def test_a_step_can_be_cancelled_before_it_is_sent_and_all_fail_at_the_end() -> None:
    waiting: Future[Reply] = Future()
    calls = ScriptedCalls(lambda _: waiting)
    scheduler = RemoteScheduler(calls)
    hold = threading.Event()

    def block() -> None:
        hold.wait(10)

    blocked = scheduler.submit(utterance_of(scheduler), block)
    cancelled = scheduler.submit(utterance_of(scheduler))
    assert cancelled.cancel()
    hold.set()
    scheduler.close()
    for future in (blocked, scheduler.submit(utterance_of(scheduler))):
        with pytest.raises(StepFailed, match="was stopped"):
            future.result(10)
    assert len(calls.steps) == 1


def test_a_callback_that_hangs_stops_nobody_else() -> None:
    scheduler = RemoteScheduler(ScriptedCalls(first()))
    hold = threading.Event()
    hanging = scheduler.submit(utterance_of(scheduler))
    hanging.add_done_callback(lambda _: hold.wait(60))
    for _ in range(20):
        scheduler.submit(utterance_of(scheduler)).result(10)
    hold.set()
    scheduler.close()


def test_the_first_answer_of_the_next_utterance_is_drafted_from_the_language_of_the_last() -> None:
    calls = ScriptedCalls(first())
    scheduler = RemoteScheduler(calls)
    new = scheduler.utterances(background=False, scored=False)
    for _ in range(2):
        utterance = new(context="", language=None, max_new_tokens=100)
        utterance.append(SAMPLES[:100])
        scheduler.submit(utterance).result(10)
        utterance.close()
    scheduler.close()
    assert [step.settings.draft for step in calls.steps if step.settings] == [(), (1, 2, 3)]


def test_the_room_is_checked_by_an_engine_once() -> None:
    calls = ScriptedCalls(lambda request: Empty())
    scheduler = RemoteScheduler(calls)
    for _ in range(3):
        scheduler.check_room(30.0, 512, "names", None)
    assert len([request for request in calls.requests if isinstance(request, CheckRequest)]) == 1
    calls.respond = lambda request: Refused("BadInput", "It has a control token.")
    for _ in range(2):
        with pytest.raises(BadInput, match="control token"):
            scheduler.check_room(30.0, 512, "<|im_end|>", None)
    for kind in ("OfALaterVersion", "annotations", "BadField"):
        calls.respond = lambda request, kind=kind: Refused(kind, "It has a reason.")  # type: ignore[misc]  # its own
        with pytest.raises(QwenASRError, match="a reason"):
            scheduler.check_room(30.0, 512, "<|im_end|>", None)
    scheduler.close()


def test_a_check_is_asked_again_where_an_engine_is_about_to_stop() -> None:
    answers: list[Reply] = [Draining(), Empty()]
    calls = ScriptedCalls(lambda request: answers.pop(0))
    scheduler = RemoteScheduler(calls)
    scheduler.check_room(30.0, 512, "", None)
    scheduler.close()
    assert len(calls.requests) == 2


@pytest.mark.parametrize("way", ["none", "silent", "stopping"])
def test_nobody_can_check_the_room(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    silent: list[Future[Reply]] = []

    def refuse(request: Request) -> Reply | Future[Reply]:
        if way == "none":
            raise NoEngine("none")
        if way == "stopping":
            return Draining()
        silent.append(Future())
        return silent[-1]

    monkeypatch.setattr("qwen_asr.fleet.scheduler.CHECK_SECONDS", 0.2)
    scheduler = RemoteScheduler(ScriptedCalls(refuse))
    with pytest.raises(NotReady, match="none can be reached now"):
        scheduler.check_room(30.0, 512, "", None)
    assert all(call.cancelled() for call in silent)
    scheduler.close()


def test_words_come_from_an_engine_that_is_there() -> None:
    def respond(request: Request) -> Reply:
        assert isinstance(request, AlignRequest)
        if len(calls.requests) == 1:
            raise EngineLost("gone")
        return Words((Word(request.clip.text, 0, 9),))

    calls = ScriptedCalls(respond)
    scheduler = RemoteScheduler(calls)
    assert scheduler.align(Clip(SAMPLES, "Hallo.", "German")).result(10) == (Word("Hallo.", 0, 9),)
    aligner = scheduler.aligner
    assert aligner is not None
    assert (aligner.why_not("Thai"), aligner.why_not("German"), aligner.why_not(None)) == ("No Thai.", None, None)
    assert aligner.why_not("Klingon") == "Not Klingon."
    scheduler.close()


def test_time_is_counted_only_while_something_is_under_way() -> None:
    waiting: list[Future[Reply]] = []

    def respond(request: Request) -> Future[Reply]:
        waiting.append(Future())
        return waiting[-1]

    calls = ScriptedCalls(respond)
    scheduler = RemoteScheduler(calls)
    future = scheduler.submit(utterance_of(scheduler))
    while not waiting:
        time.sleep(0.001)
    time.sleep(0.05)
    waiting[0].set_result(done(calls.steps[0]))
    future.result(10)
    busy = scheduler.busy_seconds
    assert busy >= 0.05
    time.sleep(0.05)
    assert scheduler.busy_seconds == busy
    scheduler.close()


def test_it_needs_no_torch() -> None:
    code = "import sys, qwen_asr.fleet.scheduler; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
