"""Manual turns: the detector keeps the whole stream and cuts it where the Python API cuts a recording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import DetectorEvent, Ended, EndpointConfig, Speech, Started
from qwen_asr.audio.manual_turns import ManualTurnDetector
from qwen_asr.inference.qwen3_asr import _pieces

QUICK = EndpointConfig(longest_seconds=1.0, pre_roll_seconds=0.1)


def detect(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Feed the samples in chunks of `sizes`, check the order of the events, and return the utterances."""
    detector, begin = ManualTurnDetector(QUICK), 0
    events: list[DetectorEvent] = []
    for size in [*sizes, len(samples)]:
        events += detector.feed(samples[begin : begin + size])
        begin += size
    events += detector.finish()
    assert detector.finish() == []
    utterances: list[np.ndarray] = []
    position = 0
    for event in events:
        if isinstance(event, Started):
            assert (event.utterance, event.start) == (len(utterances), position)
            utterances.append(np.zeros(0, np.float32))
        elif isinstance(event, Speech):
            utterances[-1] = np.concatenate((utterances[-1], event.samples))
            assert len(utterances[-1]) <= SAMPLE_RATE
        elif isinstance(event, Ended):
            assert event.start == position
            position = event.end
            utterances[-1] = utterances[-1][: event.end - event.start]
    assert position == len(samples)
    return utterances


@pytest.mark.slow
@settings(deadline=None)  # the time of an example depends on the load of the machine
@given(seed=st.integers(0, 1000), seconds=st.floats(0, 5), sizes=st.lists(st.integers(0, 30_000), max_size=30))
def test_cuts_equal_those_of_the_python_api_for_any_chunks(seed: int, seconds: float, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)
    samples *= np.repeat(rng.uniform(0, 1, len(samples) // 1_600 + 1), 1_600)[: len(samples)].astype(np.float32)
    utterances = detect(samples, sizes)
    expected = list(_pieces(samples, SAMPLE_RATE)) if len(samples) else []
    assert len(utterances) == len(expected)
    for utterance, piece in zip(utterances, expected, strict=True):
        np.testing.assert_array_equal(utterance, piece)


def test_an_utterance_of_the_maximum_length_is_not_cut() -> None:
    assert [len(one) for one in detect(np.ones(SAMPLE_RATE, np.float32), [])] == [SAMPLE_RATE]
    assert len(detect(np.ones(SAMPLE_RATE + 1, np.float32), [])) == 2
    assert detect(np.zeros(0, np.float32), []) == []
