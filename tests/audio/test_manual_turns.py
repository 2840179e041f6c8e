"""Turns that the client ends: the voice in them is kept, what surrounds it is skipped, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Ended, EndpointConfig, Skipped, Speech, Started, VoiceModel
from qwen_asr.audio.manual_turns import MARGIN_SECONDS, ManualTurnDetector
from qwen_asr.audio.vad import WINDOW, VoiceActivity
from qwen_asr.inference.qwen3_asr import _pieces
from tests.support.engine_double import Samples, ScriptedVoiceActivity
from training.voices import HELD_OUT, speak

QUICK = EndpointConfig(longest_seconds=1.0, pre_roll_seconds=0.1)
USUAL = EndpointConfig()
MARGIN = round(MARGIN_SECONDS * SAMPLE_RATE)
Range = tuple[int, int]


def detect(samples: Samples, voice: VoiceModel, config: EndpointConfig = USUAL, sizes: list[int] = []) -> list[Range]:  # noqa: B006 - it is only read
    """Feed the samples in chunks of `sizes`, check that the events tile them, and return the utterances' ranges."""
    detector, begin = ManualTurnDetector(config, voice), 0
    events: list[Any] = []
    for size in [*sizes, len(samples)]:
        events += detector.feed(samples[begin : begin + size])
        begin += size
    events += detector.finish()
    assert detector.finish() == []
    ranges: list[Range] = []
    position, heard = 0, np.zeros(0, np.float32)
    for event in events:
        match event:
            case Started(utterance, start):
                assert (utterance, start) == (len(ranges), position)
                heard = np.zeros(0, np.float32)
            case Speech(utterance, block):
                assert utterance == len(ranges)
                heard = np.concatenate((heard, block))
                assert len(heard) <= round(config.longest_seconds * SAMPLE_RATE)
            case Ended(utterance, start, end):
                assert (utterance, start) == (len(ranges), position)
                np.testing.assert_array_equal(heard[: end - start], samples[start:end])
                ranges.append((start, end))
                position = end
            case Skipped(start, end):
                assert start == position < end
                position = end
    assert position == len(samples)
    return ranges


def runs(*lengths: tuple[float, int]) -> list[float]:
    """Probabilities of windows: each of these, so many times."""
    return [probability for probability, count in lengths for _ in range(count)]


def noise(count: int, level: float = 0.1, seed: int = 0) -> Samples:
    return (np.random.default_rng(seed).standard_normal(count) * level).astype(np.float32)


@pytest.mark.slow
@settings(deadline=None)  # the time of an example depends on the load of the machine
@given(
    probabilities=st.lists(
        st.tuples(st.sampled_from((0.0, 0.2, 0.4, 1.0)), st.integers(1, 120)), min_size=1, max_size=6
    ).map(lambda lengths: runs(*lengths)),
    tail=st.integers(0, WINDOW - 1),
    sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20_000)), max_size=20),
    config=st.sampled_from((USUAL, QUICK, EndpointConfig(longest_seconds=4.0))),
)
def test_each_sample_is_recognized_or_skipped_once_for_any_chunks(
    probabilities: list[float], tail: int, sizes: list[int], config: EndpointConfig
) -> None:
    samples = noise(len(probabilities) * WINDOW + tail)
    at_once = detect(samples, ScriptedVoiceActivity(probabilities), config)
    assert detect(samples, ScriptedVoiceActivity(probabilities), config, sizes) == at_once
    voiced = [number for number, probability in enumerate(probabilities) if probability >= 0.3]
    for number in voiced:  # no voice is skipped
        assert any(start <= number * WINDOW and (number + 1) * WINDOW <= end for start, end in joined(at_once))
    if not voiced and len(samples) <= config.longest_seconds * SAMPLE_RATE:
        assert at_once == [(0, len(samples))]


def joined(ranges: list[Range]) -> list[Range]:
    """The ranges, where those that follow each other without a gap are one."""
    edges = [edge for one, two in pairwise(ranges) if one[1] != two[0] for edge in (one[1], two[0])]
    flat = [ranges[0][0], *edges, ranges[-1][1]] if ranges else []
    return list(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.slow
@settings(deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(WINDOW, 80_000), sizes=st.lists(st.integers(0, 30_000)))
def test_cuts_equal_those_of_the_python_api_for_any_chunks(seed: int, length: int, sizes: list[int]) -> None:
    samples = noise(length, seed=seed)
    samples *= np.random.default_rng(seed).uniform(0, 1, length // 1_600 + 1).repeat(1_600)[:length].astype(np.float32)
    ranges = detect(samples, ScriptedVoiceActivity([1.0]), QUICK, sizes)
    expected = list(_pieces(samples, SAMPLE_RATE))
    assert len(ranges) == len(expected)
    for (start, end), piece in zip(ranges, expected, strict=True):
        np.testing.assert_array_equal(samples[start:end], piece)


def test_an_utterance_of_the_maximum_length_is_not_cut() -> None:
    for voice in (0.0, 1.0):
        whole = np.ones(SAMPLE_RATE, np.float32)
        assert detect(whole, ScriptedVoiceActivity([voice]), QUICK) == [(0, SAMPLE_RATE)]
    assert len(detect(np.ones(SAMPLE_RATE + 1, np.float32), ScriptedVoiceActivity([1.0]), QUICK)) == 2
    assert detect(np.zeros(0, np.float32), ScriptedVoiceActivity([0.0]), QUICK) == []


def test_what_surrounds_the_voice_is_skipped_beyond_a_margin() -> None:
    probabilities = runs((0, 300), (1, 40), (0, 90), (1, 20), (0, 400))
    [(start, end)] = detect(noise(850 * WINDOW), ScriptedVoiceActivity(probabilities))
    assert (start, end) == (300 * WINDOW - MARGIN, 450 * WINDOW + MARGIN)


def test_a_long_pause_is_skipped_but_for_the_margins() -> None:
    probabilities = runs((1, 40), (0, 470), (1, 20))  # 15 s
    first, second = detect(noise(530 * WINDOW), ScriptedVoiceActivity(probabilities))
    assert first == (0, 40 * WINDOW + MARGIN)
    assert second == (510 * WINDOW - MARGIN, 530 * WINDOW)


@pytest.mark.parametrize("length", [1, WINDOW, 6_400, 30 * SAMPLE_RATE])
def test_a_turn_without_voice_is_one_utterance(length: int) -> None:
    assert detect(noise(length), ScriptedVoiceActivity([0.1])) == [(0, length)]


def test_a_turn_without_voice_beyond_the_longest_utterance_is_skipped() -> None:
    samples = noise(31 * SAMPLE_RATE)
    assert detect(samples, ScriptedVoiceActivity([0.1])) == []
    assert detect(samples, ScriptedVoiceActivity([0.1]), sizes=[4_000] * 200) == []
    # Voice that comes later is found all the same.
    late = detect(samples, ScriptedVoiceActivity(runs((0, 950), (1, 1))), sizes=[4_000] * 200)
    assert late == [(950 * WINDOW - MARGIN, len(samples))]


def test_speech_is_passed_on_while_it_is_spoken() -> None:
    detector, passed = ManualTurnDetector(USUAL, ScriptedVoiceActivity(runs((0, 40), (1, 1)))), []
    for number in range(60):
        for event in detector.feed(noise(WINDOW, seed=number)):
            passed += [number] if isinstance(event, Speech) else []
    assert passed == list(range(40, 60))


def test_memory_is_bounded_in_a_turn_without_voice() -> None:
    detector = ManualTurnDetector(USUAL, ScriptedVoiceActivity([0.0]))
    for second in range(90):
        detector.feed(np.zeros(SAMPLE_RATE, np.float32))
        assert len(detector._kept) <= 30
        assert len(detector._skipped) <= 1_000, second


# ---- with the Silero network


@pytest.fixture(scope="module")
def sentence(require_program: Callable[[str], None]) -> Samples:
    require_program("espeak-ng")
    return speak("Turn on the kitchen light.", HELD_OUT[0])


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.0, 0.003, 0.01])
def test_the_sentence_after_twenty_seconds_of_noise_is_what_the_model_hears(
    silero: Any, sentence: Samples, level: float
) -> None:
    before = 20 * SAMPLE_RATE
    samples = np.concatenate((np.zeros(before, np.float32), sentence, np.zeros(before, np.float32)))
    samples += noise(len(samples), level)
    [(start, end)] = detect(samples, VoiceActivity(silero))
    assert before - SAMPLE_RATE < start < before
    assert before + len(sentence) - SAMPLE_RATE // 10 < end < before + len(sentence) + SAMPLE_RATE
