"""The host: after a call an utterance is what the call says, whatever was there before and whatever runs meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo, NewUtterance
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import BadInput, StepFailed
from qwen_asr.fleet.host import EngineHost, describe_aligner
from qwen_asr.fleet.messages import (
    AlignRequest,
    CheckRequest,
    CloseRequest,
    Done,
    Draining,
    Empty,
    Have,
    Hello,
    HelloRequest,
    Refused,
    Reply,
    Settings,
    StepRequest,
    Superseded,
    Words,
)
from tests.support.engine_double import AlignerDouble, Samples, UtteranceDouble, text_of, transcribe_exactly, words_of

SAMPLES = np.random.default_rng(1).uniform(-1, 1, 32_000).astype(np.float32)
SETTINGS = Settings("names", "German", False, False)


class SteppedEngine:
    """An engine on doubles whose steps start and end when the test says so, by the rules of the scheduler."""

    aligner = AlignerDouble(is_quick=True)
    info = EngineInfo("double", False, "float32", "digest", 1000)

    def __init__(self) -> None:
        self.steps: list[tuple[UtteranceDouble, Callable[[], None], Callable[[], bool], Future[Hypothesis]]] = []
        self.created: list[UtteranceDouble] = []
        self.draft: Sequence[int] = ()

    def utterances(self, *, background: bool, scored: bool, draft: Sequence[int] = ()) -> NewUtterance:
        self.draft = draft

        def create(*, context: str, language: str | None, max_new_tokens: int) -> Any:
            if "<|im_end|>" in context:
                raise BadInput("It has a control token.")
            self.created.append(UtteranceDouble(transcribe_exactly, context, language, max_new_tokens))
            return self.created[-1]

        return create

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        if context == "long":
            raise BadInput("It is too long.")

    def submit(
        self, utterance: Any, on_start: Callable[[], None] | None = None, is_urgent: Callable[[], bool] = lambda: True
    ) -> Future[Hypothesis]:
        assert on_start is not None
        self.steps.append((utterance, on_start, is_urgent, Future()))
        return self.steps[-1][-1]

    def align(self, clip: Clip, *, background: bool = False) -> Future[tuple[Word, ...]]:
        done: Future[tuple[Word, ...]] = Future()
        done.set_result(words_of(clip.text, 0, len(clip.samples)))
        return done

    def start(self) -> bool:
        """Start the last step, or start it again. Returns whether it was urgent."""
        _, on_start, is_urgent, future = self.steps[-1]
        urgent = is_urgent()
        if not future.running():
            future.set_running_or_notify_cancel()
        on_start()
        return urgent

    @property
    def is_urgent(self) -> bool:
        """What the host says of the last step now."""
        return self.steps[-1][2]()

    def end(self) -> None:
        """End the last step, with what its utterance holds."""
        utterance, *_, future = self.steps[-1]
        future.set_result(utterance.finish())


@pytest.fixture
def engine() -> SteppedEngine:
    return SteppedEngine()


@pytest.fixture
def host(engine: SteppedEngine) -> Iterator[EngineHost]:
    made = EngineHost(engine)
    yield made
    made.close()


def request(
    host: EngineHost, number: int, offset: int, end: int, *, samples: Samples = SAMPLES, urgent: bool = False,
    uid: str = "u", holder: str | None = None,
) -> StepRequest:  # fmt: skip
    holder = (host.engine_id if offset else "") if holder is None else holder
    settings = None if offset else SETTINGS
    return StepRequest(uid, number, holder, offset, samples[offset:end], 100, urgent, settings)


def answer(reply: Future[Reply]) -> Reply:
    assert reply.done()
    return reply.result()


def run(engine: SteppedEngine, reply: Future[Reply]) -> Reply:
    """The answer to a request, once its step has run."""
    engine.start()
    engine.end()
    return answer(reply)


def text(reply: Reply) -> str:
    assert isinstance(reply, Done)
    return reply.hypothesis.text


def test_an_utterance_grows_is_cut_and_grows_again(host: EngineHost, engine: SteppedEngine) -> None:
    assert text(run(engine, host.call(request(host, 1, 0, 8_000)))) == text_of(SAMPLES[:8_000])
    assert text(run(engine, host.call(request(host, 2, 8_000, 20_000)))) == text_of(SAMPLES[:20_000])
    other = -SAMPLES
    expected = np.concatenate((SAMPLES[:12_000], other[12_000:30_000]))
    assert text(run(engine, host.call(request(host, 3, 12_000, 30_000, samples=other)))) == text_of(expected)
    assert len(engine.created) == 1


def test_the_same_request_again_changes_nothing(host: EngineHost, engine: SteppedEngine) -> None:
    first = run(engine, host.call(request(host, 1, 0, 8_000)))
    assert text(run(engine, host.call(request(host, 2, 0, 8_000)))) == text(first)
    assert engine.created[0].length == 8_000
    assert len(engine.created) == 1


def test_what_the_engine_does_not_have_is_asked_for(host: EngineHost, engine: SteppedEngine) -> None:
    assert answer(host.call(request(host, 1, 8_000, 9_000))) == Have(host.engine_id, 0)
    run(engine, host.call(request(host, 2, 0, 8_000)))
    assert answer(host.call(request(host, 3, 9_000, 10_000))) == Have(host.engine_id, 8_000)
    assert text(run(engine, host.call(request(host, 4, 8_000, 10_000)))) == text_of(SAMPLES[:10_000])


def test_what_another_engine_confirmed_is_not_taken_from_here(host: EngineHost, engine: SteppedEngine) -> None:
    run(engine, host.call(request(host, 1, 0, 8_000)))
    assert answer(host.call(request(host, 2, 8_000, 9_000, holder="another"))) == Have(host.engine_id, 0)
    assert text(run(engine, host.call(request(host, 3, 0, 9_000, samples=-SAMPLES)))) == text_of(-SAMPLES[:9_000])


def test_a_request_that_is_overtaken_is_superseded(host: EngineHost, engine: SteppedEngine) -> None:
    run(engine, host.call(request(host, 5, 0, 8_000)))
    assert answer(host.call(request(host, 4, 0, 4_000))) == Superseded()
    assert engine.created[0].length == 8_000


def test_an_urgent_request_makes_the_step_start_again_with_what_is_new(host: EngineHost, engine: SteppedEngine) -> None:
    first = host.call(request(host, 1, 0, 8_000))
    assert not engine.start()
    engine.created[0].busy = True
    urgent = host.call(request(host, 2, 0, 20_000, urgent=True))
    assert not urgent.done()
    engine.created[0].busy = False
    assert engine.start()
    engine.end()
    assert answer(first) == Superseded()
    assert text(answer(urgent)) == text_of(SAMPLES[:20_000])
    assert len(engine.steps) == 1


def test_the_same_request_again_during_a_step_gets_its_result(host: EngineHost, engine: SteppedEngine) -> None:
    run(engine, host.call(request(host, 1, 0, 4_000)))
    first = host.call(request(host, 2, 4_000, 8_000))
    engine.start()
    engine.created[0].busy = True
    again = host.call(request(host, 3, 0, 8_000, urgent=True))  # all samples: its sender knows nothing any more
    assert not engine.is_urgent, "the step need not start again"
    engine.created[0].busy = False
    engine.end()
    assert answer(first) == Superseded()
    assert text(answer(again)) == text_of(SAMPLES[:8_000])
    assert len(engine.steps) == 2


def test_other_samples_during_a_step_make_it_start_again(host: EngineHost, engine: SteppedEngine) -> None:
    first = host.call(request(host, 1, 0, 8_000))
    engine.start()
    second = host.call(request(host, 2, 0, 8_000, samples=-SAMPLES))
    assert engine.start(), "urgent is how a step starts again"
    engine.end()
    assert answer(first) == Superseded()
    assert text(answer(second)) == text_of(-SAMPLES[:8_000])
    assert len(engine.steps) == 1


def test_a_request_before_the_step_starts_is_part_of_it(host: EngineHost, engine: SteppedEngine) -> None:
    first = host.call(request(host, 1, 0, 8_000))
    second = host.call(request(host, 2, 0, 9_000))
    assert not engine.start()
    engine.end()
    assert answer(first) == Superseded()
    assert text(answer(second)) == text_of(SAMPLES[:9_000])
    assert len(engine.steps) == 1


def test_a_request_when_the_step_cannot_start_again_any_more_gets_one_of_its_own(
    host: EngineHost, engine: SteppedEngine
) -> None:
    first = host.call(request(host, 1, 0, 8_000))
    engine.start()
    second = host.call(request(host, 2, 0, 9_000))
    engine.end()  # the scheduler has not asked again
    assert not first.done()
    assert not second.done()
    assert host.busy
    engine.start()
    engine.end()
    assert answer(first) == Superseded()
    assert text(answer(second)) == text_of(SAMPLES[:9_000])
    assert not host.busy


def test_what_was_forgotten_does_not_return_with_an_old_request(host: EngineHost, engine: SteppedEngine) -> None:
    """It was under way for long, perhaps on a connection that broke, and its samples may be wrong by now."""
    run(engine, host.call(request(host, 3, 0, 8_000)))
    host.call(CloseRequest("u"))
    assert answer(host.call(request(host, 2, 0, 9_000, samples=-SAMPLES))) == Superseded()
    assert answer(host.call(request(host, 4, 8_000, 9_000))) == Have(host.engine_id, 0)
    assert text(run(engine, host.call(request(host, 5, 0, 9_000)))) == text_of(SAMPLES[:9_000])


def test_an_engine_that_refuses_a_step_at_once(host: EngineHost, engine: SteppedEngine) -> None:
    def refuse(*_: object) -> Future[Hypothesis]:
        raise StepFailed("It takes no steps.")

    engine.submit = refuse  # type: ignore[method-assign,assignment]  # an engine in another state
    assert answer(host.call(request(host, 1, 0, 8_000))) == Refused("StepFailed", "It takes no steps.")
    assert len(host) == 0
    assert not host.busy


def test_an_utterance_is_forgotten_after_a_step_that_failed(host: EngineHost, engine: SteppedEngine) -> None:
    reply = host.call(request(host, 1, 0, 8_000))
    engine.start()
    engine.steps[-1][-1].set_exception(StepFailed("It hung."))
    assert answer(reply) == Refused("StepFailed", "It hung.")
    assert len(host) == 0
    assert engine.created[0].closed


def test_nobody_waits_any_more(host: EngineHost, engine: SteppedEngine) -> None:
    reply = host.call(request(host, 1, 0, 8_000))
    engine.start()
    assert reply.cancel()
    assert len(host) == 0
    again = host.call(request(host, 2, 0, 9_000))
    assert len(engine.created) == 2  # a thread may still be in the first
    assert text(run(engine, again)) == text_of(SAMPLES[:9_000])


def test_closing_forgets(host: EngineHost, engine: SteppedEngine) -> None:
    run(engine, host.call(request(host, 1, 0, 8_000)))
    assert answer(host.call(CloseRequest("u"))) == Empty()
    assert answer(host.call(CloseRequest("u"))) == Empty()
    assert len(host) == 0
    assert engine.created[0].closed


def test_a_host_that_drains_ends_what_is_under_way(host: EngineHost, engine: SteppedEngine) -> None:
    reply = host.call(request(host, 1, 0, 8_000))
    engine.start()
    host.drain()
    assert answer(host.call(request(host, 1, 0, 8_000, uid="other"))) == Draining()
    assert not host.wait_idle(0.01)
    engine.end()
    assert text(answer(reply)) == text_of(SAMPLES[:8_000])
    assert host.wait_idle(0)
    assert answer(host.call(request(host, 2, 8_000, 9_000))) == Draining()
    assert answer(host.call(AlignRequest(Clip(SAMPLES, "Hallo", None), False))) == Draining()


def test_idle_utterances_and_too_many_are_forgotten(engine: SteppedEngine) -> None:
    now = 0.0
    host = EngineHost(engine, idle_seconds=10, most_utterances=3, clock=lambda: now)
    for index in range(5):
        run(engine, host.call(request(host, 1, 0, 8_000, uid=str(index))))
    assert len(host) == 3
    now = 11.0
    run(engine, host.call(request(host, 2, 8_000, 9_000, uid="4")))
    assert len(host) == 1


def test_other_requests(host: EngineHost, engine: SteppedEngine) -> None:
    assert answer(host.call(CheckRequest(30, 100, "", None))) == Empty()
    assert answer(host.call(CheckRequest(30, 100, "long", None))) == Refused("BadInput", "It is too long.")
    assert answer(host.call(AlignRequest(Clip(SAMPLES, "one two", None), False))) == Words(
        words_of("one two", 0, len(SAMPLES))
    )
    hello = answer(host.call(HelloRequest()))
    assert isinstance(hello, Hello)
    assert hello.info == engine.info
    refused = answer(host.call(HelloRequest(version=0)))
    assert isinstance(refused, Refused)
    assert "the same version" in refused.message
    moved = StepRequest("moved", 1, "", 0, SAMPLES, 100, False, Settings("", None, False, False, (1, 2, 3)))
    host.call(moved)
    assert engine.draft == (1, 2, 3)
    bad = StepRequest("u", 1, "", 0, SAMPLES, 100, False, Settings("<|im_end|>", None, False, False))
    assert answer(host.call(bad)) == Refused("BadInput", "It has a control token.")


def test_the_aligner_is_described_for_all_languages() -> None:
    described = describe_aligner(AlignerDouble(is_quick=True))
    assert described is not None
    assert described.reasons == {"Thai": "The double does not know Thai."}
    assert "German" in described.known
    assert describe_aligner(None) is None


def test_many_threads_ask_about_one_utterance(host: EngineHost, engine: SteppedEngine) -> None:
    """Requests that overtake each other: the newest wins, and each gets an answer."""
    replies: dict[int, Future[Reply]] = {}
    threads = [
        threading.Thread(target=lambda n: replies.update({n: host.call(request(host, n, 0, 100 * n))}), args=(number,))
        for number in range(1, 33)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while not all(reply.done() for reply in replies.values()):
        engine.start()
        engine.end()
    assert text(answer(replies[32])) == text_of(SAMPLES[:3200])
    assert all(isinstance(answer(reply), Done | Superseded) for reply in replies.values())
    assert engine.created[0].length == 3200
