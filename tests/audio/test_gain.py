"""The detector's gain: what it raises, how far and how fast, and that it does not depend on the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_asr.audio.gain import MAX_GAIN, GainControl
from qwen_asr.audio.vad import WINDOW


def at(*levels: float) -> NDArray[np.float32]:
    """Windows whose root mean square is so many dBFS, as far as float32 has it."""
    signs = np.where(np.arange(WINDOW) % 2, 1.0, -1.0)
    return np.outer([10 ** (level / 20) for level in levels], signs).astype(np.float32)


def decibels(gains: NDArray[np.float32]) -> list[float]:
    return [round(20 * float(np.log10(gain)), 1) for gain in gains]


@settings(max_examples=50, deadline=None)
@given(
    levels=st.lists(st.floats(-120, 0), max_size=150),
    sizes=st.lists(st.integers(0, 40), max_size=20),
    seed=st.integers(0, 1000),
)
def test_the_gains_do_not_depend_on_the_blocks(levels: list[float], sizes: list[int], seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((len(levels), WINDOW)).astype(np.float32)
    windows = noise * at(*levels) if levels else noise
    expected = GainControl().feed(windows)
    assert len(expected) == len(windows)
    assert np.all(np.isfinite(expected) & (expected >= 1) & (expected <= np.float32(MAX_GAIN)))
    control, begin, parts = GainControl(), 0, []
    for size in [*sizes, len(windows)]:
        parts.append(control.feed(windows[begin : begin + size]))
        begin += size
    assert np.array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize(("level", "gain"), [(0, 0), (-20, 0), (-36, 0), (-50, 14), (-65, 29), (-66, 30), (-80, 30)])
def test_speech_after_silence_is_raised_from_its_first_window_on(level: float, gain: float) -> None:
    gains = GainControl().feed(at(*[-120] * 100, *[level, level - 20] * 8))
    # The weaker half of the windows shows that the gain is not that of the window alone.
    assert decibels(gains[100::2]) == pytest.approx([gain] * 8, abs=0.11)
    assert max(decibels(gains[105::2])) <= gain + 2 + 0.11


def test_noise_that_goes_on_is_raised_to_the_level_of_noise() -> None:
    for level, gain in ((-30, 0), (-60, 0), (-65, 5), (-75, 15), (-90, 30), (-120, 30)):
        assert decibels(GainControl().feed(at(*[level] * 100))[63:]) == pytest.approx([gain] * 37, abs=0.11)
    # Speech above it is raised as far as the noise, and no further.
    assert decibels(GainControl().feed(at(*[-80] * 100, -50, -50))[100:]) == pytest.approx([14, 14], abs=0.11)
    assert decibels(GainControl().feed(at(*[-65] * 100, -50, -50))[100:]) == pytest.approx([5, 5], abs=0.11)


def test_a_click_does_not_lower_the_gain_of_what_follows_it() -> None:
    gains = decibels(GainControl().feed(at(*[-100] * 70, -3, -3, *[-65] * 10)))
    assert gains[70:72] == [0, 0]
    assert gains[72:] == pytest.approx([29] * 10, abs=0.11)


def test_after_a_loud_speaker_the_gain_rises_step_by_step() -> None:
    gains = GainControl().feed(at(*[-100] * 10, *[-20] * 100, *[-100] * 30))
    assert decibels(gains[10:112]) == [0] * 102  # of the last five windows three are loud
    assert decibels(gains[112:]) == pytest.approx([min(2 * step, 30) for step in range(1, 29)], abs=0.11)


def test_digital_silence_stays_silent_and_full_scale_stays_as_it_is() -> None:
    silence = np.zeros((80, WINDOW), np.float32)
    assert not (silence * GainControl().feed(silence)[:, None]).any()
    assert np.array_equal(GainControl().feed(at(*[0] * 80)), np.ones(80, np.float32))
    assert GainControl().feed(silence[:0]).shape == (0,)
