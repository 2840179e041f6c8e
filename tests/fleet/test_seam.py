"""Sessions on engines in other processes: with any faults, the finals are those of an engine in this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.engine.interface import Engine
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.fleet.scheduler import RemoteScheduler
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.live.events import Final
from qwen_asr.live.runner import Runner
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.instruments import Instruments
from tests.support.engine_double import EventChecker, Loudness, Samples, make_audio
from tests.support.faulty_calls import FAULTS, FaultyCalls
from training.model import build_model, build_processor

QUICK = EndpointConfig(
    silence_seconds=0.2, min_speech_seconds=0.1, longest_seconds=1.5, pre_roll_seconds=0.1, hang_over_seconds=0.1
)


@pytest.fixture(scope="module")
def engine() -> Iterator[WatchedEngine]:
    processor = build_processor()
    model = build_model(processor, width=64, encoder_layers=2, decoder_layers=2, channels=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = WatchedEngine(Recognizer(model, processor, "random"), Instruments())
    yield engine
    engine.close()
    torch.set_num_threads(threads)


def transcribe(engine: Engine, audio: Samples, cuts: list[int], language: str | None = "English") -> list[Final]:
    """The finals of a session whose audio comes in the pieces between the cuts."""
    options = SessionOptions(language=language, max_new_tokens=12, chunk_seconds=0.3)
    new_utterance = engine.utterances(background=False, scored=False)
    session, checker = Session(new_utterance, UtteranceDetector(QUICK, Loudness()), options), EventChecker()
    runner = Runner(session, engine, checker.take)
    for block in np.split(audio, sorted(cuts)):
        runner.feed(block)
    runner.finish().result(timeout=120)
    checker.check_complete(session)  # every sample is in one utterance, or was skipped
    return checker.finals


def said(finals: list[Final]) -> list[tuple[int, int, str, str | None]]:
    return [(final.start, final.end, final.text, final.language) for final in finals]


SEGMENTS = st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), min_size=1, max_size=5)


@given(segments=SEGMENTS, seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=6, deadline=None)
def test_finals_are_those_of_a_local_engine_whatever_happens(
    engine: WatchedEngine, segments: list[tuple[bool, int]], seed: int, data: st.DataObject
) -> None:
    check(engine, segments, seed, data)


@pytest.mark.slow
@given(segments=SEGMENTS, seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=60, deadline=None)
def test_finals_are_those_of_a_local_engine_in_many_more_cases(
    engine: WatchedEngine, segments: list[tuple[bool, int]], seed: int, data: st.DataObject
) -> None:
    check(engine, segments, seed, data)


def check(engine: WatchedEngine, segments: list[tuple[bool, int]], seed: int, data: st.DataObject) -> None:
    audio = make_audio(segments, seed)
    position = st.integers(0, len(audio))
    cuts = data.draw(st.lists(position, max_size=20))
    start = data.draw(position)
    cuts += range(start, min(start + 20, len(audio)))  # pieces of one sample
    calls = FaultyCalls(engine, share=data.draw(st.sampled_from((0.0, 0.2, 0.6))), seed=seed)
    remote = RemoteScheduler(calls)
    try:
        assert said(transcribe(remote, audio, cuts)) == said(transcribe(engine, audio, cuts))
    finally:
        remote.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_costs_no_text(engine: WatchedEngine, fault: str) -> None:
    segments = [(False, 4000), (True, 60_000), (False, 9000), (True, 20_000)]
    audio = make_audio(segments, 3)
    calls = FaultyCalls(engine, share=0.5, seed=1, faults=(fault,))
    remote = RemoteScheduler(calls)
    try:
        finals = transcribe(remote, audio, list(range(0, len(audio), 1600)))
    finally:
        remote.close()
    assert calls.happened[fault] > 2
    assert said(finals) == said(transcribe(engine, audio, []))
    assert len(finals) > 3
