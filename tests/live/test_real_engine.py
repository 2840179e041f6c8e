"""The session on the real engine: each final equals offline transcription of the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live import guards
from qwen_asr.live.runner import Runner, run_session
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from tests.support.engine_double import EventChecker, Loudness, Samples, make_audio
from training.model import build_model, build_processor

ENDPOINTS = EndpointConfig(silence_seconds=0.3, longest_seconds=4.0, pre_roll_seconds=0.1, hang_over_seconds=0.1)
SEGMENTS = [(False, 8000), (True, 30_000), (False, 9_000), (True, 5_000), (False, 9_000), (True, 90_000)]
TOKENS = 12


@pytest.fixture(scope="module")
def recognizer() -> Iterator[Recognizer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    processor = build_processor()
    model = build_model(processor, width=64, encoder_layers=2, decoder_layers=2, channels=8)
    yield Recognizer(model, processor, "random")
    torch.set_num_threads(threads)


def new_session(recognizer: Recognizer) -> Session:
    options = SessionOptions(language="English", max_new_tokens=TOKENS, chunk_seconds=0.7)
    return Session(partial(Utterance, recognizer), UtteranceDetector(ENDPOINTS, Loudness()), options)


def check_against_offline(recognizer: Recognizer, checker: EventChecker, audio: Samples) -> None:
    assert len(checker.finals) >= 3
    for final in checker.finals:
        offline = Utterance(recognizer, language="English", max_new_tokens=TOKENS).feed(audio[final.start : final.end])
        assert final.text == guards.clean_text(offline, False, TOKENS)[0]


def test_finals_equal_offline_transcription(recognizer: Recognizer) -> None:
    audio, session, checker = make_audio(SEGMENTS), new_session(recognizer), EventChecker()
    rng = np.random.default_rng(0)
    for event in run_session(session, np.split(audio, np.sort(rng.integers(0, len(audio), 60)))):
        checker.take([event])
    checker.check_complete(session)
    check_against_offline(recognizer, checker, audio)
    assert len(checker.events) > len(checker.finals) + 5  # there were partials too


@pytest.mark.slow
def test_three_sessions_share_a_scheduler(recognizer: Recognizer) -> None:
    sessions = []
    with Scheduler(recognizer) as scheduler:
        for seed in range(3):
            session, checker = new_session(recognizer), EventChecker()
            sessions.append((session, checker, Runner(session, scheduler, checker.take), make_audio(SEGMENTS, seed)))
        for block in range(40):
            for _, _, runner, audio in sessions:
                runner.feed(np.array_split(audio, 40)[block])
        for future in [runner.finish() for _, _, runner, _ in sessions]:
            future.result(timeout=120)
    for session, checker, _, audio in sessions:
        checker.check_complete(session)
        check_against_offline(recognizer, checker, audio)


def test_a_closed_scheduler_fails_every_utterance_with_a_message(recognizer: Recognizer) -> None:
    scheduler, session, checker = Scheduler(recognizer), new_session(recognizer), EventChecker()
    runner = Runner(session, scheduler, checker.take)
    scheduler.close()
    runner.feed(make_audio(SEGMENTS))
    runner.finish().result(timeout=60)
    checker.check_complete(session)
    assert {getattr(event, "message", "") for event in checker.closed} == {"The recognizer was stopped."}
