"""Sessions on engines in other processes: with any faults, the finals are those of an engine in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sleeping import SleepingEngine
from qwen_asr.audio.endpointing import UtteranceDetector
from qwen_asr.engine.interface import LoadedModel
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.messages import Done, Settings, StepRequest, Superseded
from qwen_asr.fleet.scheduler import RemoteScheduler
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.live.events import Final
from qwen_asr.live.runner import Runner
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.instruments import Instruments
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.engine_double import (
    QUICK,
    EventChecker,
    Loudness,
    Samples,
    make_audio,
    text_of,
    transcribe_exactly,
)
from tests.support.faulty_calls import FAULTS, FaultyCalls

SENTENCES = ("Turn on the kitchen light.", "Wake me up at half past six.", "My number is four seven one.")


@pytest.fixture(scope="module")
def double() -> Iterator[SleepingEngine]:
    """The real scheduler, and texts that are a function of all samples."""
    engine = SleepingEngine(0.001, 3, transcribe_exactly)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[WatchedEngine]:
    threads = torch.get_num_threads()
    engine = WatchedEngine(demo_recognizer(), Instruments())
    yield engine
    engine.close()
    torch.set_num_threads(threads)


def transcribe(engine: LoadedModel, audio: Samples, cuts: list[int], *, patient: bool = False) -> list[Final]:
    """The finals of a session whose audio comes in the pieces between the cuts. patient: each when a step has ended."""
    options = SessionOptions(chunk_seconds=0.2)
    new_utterance = engine.utterances(background=False, scored=False)
    session, checker = Session(new_utterance, UtteranceDetector(QUICK, Loudness()), options), EventChecker()
    runner = Runner(session, engine, checker.take)
    for block in np.split(audio, sorted(cuts)):
        runner.feed(block)
        while patient and runner.backlog:
            time.sleep(0.001)
    runner.finish().result(timeout=120)
    checker.check_complete(session)  # every sample is in one utterance, or was skipped
    assert len(checker.closed) == len(checker.finals)
    return checker.finals


def said(finals: list[Final]) -> list[tuple[int, int, str, str | None]]:
    return [(final.start, final.end, final.text, final.language) for final in finals]


class Drawn:
    """What the examples of a test did in all, so that it can say that they did something."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.finals = 0

    def check(self, engine: LoadedModel, audio: Samples, expected: list[Final], data: st.DataObject) -> None:
        """With whatever faults, and in whatever pieces the audio comes, the finals are those without."""
        position = st.integers(0, len(audio))
        cuts = [*range(0, len(audio), data.draw(st.sampled_from((1600, 4000, 9000)))), *data.draw(st.lists(position))]
        start = data.draw(position)
        cuts += range(start, min(start + 20, len(audio)))  # pieces of one sample
        share, seed = data.draw(st.sampled_from((0.2, 0.4, 0.6))), data.draw(st.integers(0, 2**32 - 1))
        calls = FaultyCalls(engine, share=share, seed=seed)
        remote = RemoteScheduler(calls)
        try:
            finals = transcribe(remote, audio, cuts, patient=data.draw(st.booleans()))
        finally:
            remote.close()
        assert said(finals) == said(expected)
        self.faults += calls.happened
        self.sent += calls.sent
        self.finals += len(finals)


LOUD, QUIET = st.integers(8000, 40_000), st.integers(1, 12_000)


def check_double(engine: SleepingEngine, examples: int) -> Drawn:
    drawn = Drawn()

    @given(segments=st.lists(st.tuples(LOUD, QUIET), min_size=1, max_size=3), data=st.data())
    @settings(max_examples=examples, deadline=None)
    def check(segments: list[tuple[int, int]], data: st.DataObject) -> None:
        lengths = [part for loud, quiet in segments for part in ((True, loud), (False, quiet))]
        audio = make_audio(lengths, data.draw(st.integers(0, 999)))
        expected = transcribe(engine, audio, [])
        assert [final.text for final in expected] == [text_of(audio[final.start : final.end]) for final in expected]
        drawn.check(engine, audio, expected, data)

    check()
    return drawn


def test_finals_are_those_of_a_local_engine_whatever_happens(double: SleepingEngine) -> None:
    drawn = check_double(double, 4)
    assert drawn.finals


@pytest.mark.slow
def test_finals_are_those_of_a_local_engine_in_many_more_cases(double: SleepingEngine) -> None:
    drawn = check_double(double, 120)
    assert len(drawn.faults) > 5
    assert drawn.faults.total() > 100
    assert drawn.sent["rest"] > 50


@pytest.mark.slow
def test_finals_of_the_demo_model_are_those_of_a_local_engine(demo: WatchedEngine) -> None:
    drawn = Drawn()
    pause = np.zeros(8000, np.float32)

    @given(voice=st.integers(0, 3), data=st.data())
    @settings(max_examples=8, deadline=None)
    def check(voice: int, data: st.DataObject) -> None:
        audio = np.concatenate([part for sentence in SENTENCES for part in (spoken(sentence, voice), pause)])
        expected = transcribe(demo, audio, [])
        assert len({final.text for final in expected if final.text}) > 3  # what nobody hears proves nothing
        drawn.check(demo, audio, expected, data)

    check()
    assert drawn.faults.total() > 10


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_costs_no_text(double: SleepingEngine, fault: str) -> None:
    audio = make_audio([(False, 4000), (True, 40_000), (False, 9000), (True, 20_000)], 3)
    calls = FaultyCalls(double, share=0.4, seed=1, faults=(fault,))
    remote = RemoteScheduler(calls)
    try:
        finals = transcribe(remote, audio, list(range(0, len(audio), 3200)), patient=True)
    finally:
        remote.close()
    assert calls.happened[fault] > 2
    assert calls.sent["rest"] > 2
    assert said(finals) == said(transcribe(double, audio, []))
    assert len(finals) > 2


def test_without_faults_samples_are_sent_once(double: SleepingEngine) -> None:
    audio = make_audio([(True, 20_000), (False, 9000), (True, 20_000)], 4)
    calls = FaultyCalls(double, share=0)
    remote = RemoteScheduler(calls)
    try:
        finals = transcribe(remote, audio, list(range(0, len(audio), 3200)), patient=True)
    finally:
        remote.close()
    assert calls.sent["whole"] == len(finals)
    assert calls.sent["rest"] > len(finals)


def test_many_utterances_with_many_calls_at_once(double: SleepingEngine) -> None:
    """32 utterances that grow, each with ten calls at the same time: the newest is answered, with all its samples."""
    host = EngineHost(double)
    rng = np.random.default_rng(5)
    audio = {f"u{index}": rng.uniform(-1, 1, 20_000).astype(np.float32) for index in range(32)}

    def call(uid: str, number: int) -> tuple[str, int, str | None]:
        samples = audio[uid][: 2000 * number]
        request = StepRequest(uid, number, "", 0, samples, 100, number == 10, Settings("", None, False, False))
        reply = host.call(request).result(60)
        assert isinstance(reply, Done | Superseded)
        return uid, number, reply.hypothesis.text if isinstance(reply, Done) else None

    with ThreadPoolExecutor(320) as pool:
        answers = list(pool.map(lambda call_of: call(*call_of), [(uid, n + 1) for n in range(10) for uid in audio]))
    for uid, number, text in answers:
        if number == 10 or text is not None:
            assert text == text_of(audio[uid][: 2000 * number])
    assert len(host) == len(audio)
    assert host.wait_idle(0)
    host.close()
