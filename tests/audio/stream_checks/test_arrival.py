"""Live audio that comes faster or slower than its announced rate; files, pauses and slow clients are no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.stream_checks.arrival import USUAL_RATES, ArrivalRate, rate_sentence


def found(announced: int, times: list[float], sizes: list[int]) -> set[int | None]:
    """What is found when pieces of these sizes come at these times."""
    rate, received, answers = ArrivalRate(announced), 0, set()
    for now, size in zip(times, sizes, strict=True):
        received += size
        answers.add(rate.feed(received, now))
    return answers


def live(true: int, announced: int, piece: float = 0.1, jitter: float = 0.02, seconds: float = 20.0) -> set[int | None]:
    """What is found for a microphone of `true` Hz that sends pieces of so many seconds."""
    rng = np.random.default_rng(0)
    count = round(seconds / piece)
    times = np.maximum.accumulate(np.arange(count) * piece + rng.random(count) * jitter)
    return found(announced, [float(time) for time in times], [round(piece * true)] * count)


@pytest.mark.parametrize("announced", USUAL_RATES)
@pytest.mark.parametrize("true", USUAL_RATES)
def test_the_rate_of_a_microphone_is_found(true: int, announced: int) -> None:
    assert live(true, announced) == ({None} if true == announced else {None, true})


def test_it_takes_ten_seconds_of_steady_audio() -> None:
    assert live(48_000, 16_000, seconds=9.9) == {None}
    assert live(48_000, 16_000, piece=0.02, jitter=0.1) == {None, 48_000}
    assert live(48_000, 16_000, piece=0.25, jitter=0.01) == {None, 48_000}
    assert live(48_000, 16_000, piece=1.5) == {None}  # the pauses are too long to say anything


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 60.0), st.integers(0, 1_000))
def test_files_at_another_speed_are_no_alarm(speed: float, seed: int) -> None:
    """A sender that sleeps, which takes a little longer than it wants to."""
    near = min(USUAL_RATES, key=lambda usual: abs(usual / (16_000 * speed) - 1))
    if abs(near / (16_000 * speed) - 1) < 0.03:
        speed *= 1.05
    rng = np.random.default_rng(seed)
    times = np.cumsum(0.1 / speed * rng.uniform(1.0, 1.01, 2_000))
    assert found(16_000, [float(time) for time in times], [1_600] * 2_000) == {None}


def test_a_stream_with_pauses_is_no_alarm() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(600) * 0.1
    for share in (0.34, 0.5, 0.67):
        speaks = np.repeat(rng.random(60) < share, 10)  # a voice detection that sends whole seconds
        sizes = [1_600] * int(speaks.sum())
        assert found(16_000, [float(time) for time in times[speaks]], sizes) == {None}


def test_the_sentence_names_both_rates() -> None:
    sentence = rate_sentence(16_000, 48_000)
    assert "announced with 16000 samples a second, but comes with 48000" in sentence
