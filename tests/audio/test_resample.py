"""Resampling: independent of the chunks, exact length, correct pitch, no aliases, little delay."""

from math import gcd

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, kaiser_atten, kaiser_beta

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler, phase_filters, rejection_db
from qwen_asr.audio.validation import HIGHEST_RATE, LOWEST_RATE
from qwen_asr.errors import AudioError

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
ODD_RATES = (
    4_000,
    7_919,
    15_999,
    16_001,
    44_099,
    95_999,
    191_999,
    383_975,
)  # many phases: these use the interpolated table


def whole(samples, rate):
    resampler = StreamingResampler(rate)
    return np.concatenate((resampler.feed(samples), resampler.finish()))


def in_chunks(samples, rate, sizes):
    resampler, out, begin = StreamingResampler(rate), [], 0
    for size in sizes:
        out.append(resampler.feed(samples[begin : begin + size]))
        begin += size
    out += [resampler.feed(samples[begin:]), resampler.finish()]
    return np.concatenate(out)


def tone(frequency, rate, seconds=1.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from(RATES + ODD_RATES),
    length=st.integers(0, 30_000),
    sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 6_000)), max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunked_equals_whole_bit_for_bit(rate, length, sizes, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    expected = whole(samples, rate)
    assert len(expected) == (2 * length * SAMPLE_RATE + rate) // (2 * rate)
    assert expected.dtype == np.float32
    assert np.array_equal(in_chunks(samples, rate, sizes), expected)


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES + ODD_RATES)
def test_single_samples_equal_whole(rate):
    samples = np.random.default_rng(rate).uniform(-1, 1, 3_001).astype(np.float32)
    assert np.array_equal(in_chunks(samples, rate, [1] * 3_000), whole(samples, rate))


@pytest.mark.parametrize("rate", [*RATES, *ODD_RATES, 383_975])
def test_a_tone_keeps_its_pitch_phase_and_level(rate):
    frequency = min(1_000, rate * 0.2)
    error = whole(tone(frequency, rate), rate) - tone(frequency, SAMPLE_RATE)
    assert np.abs(error[400:-400]).max() < 1e-4


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate != SAMPLE_RATE])
def test_a_constant_is_preserved(rate):
    out = whole(np.full(rate, 0.5, np.float32), rate)
    assert np.abs(out[400:-400] - 0.5).max() < 1e-4


def level(samples):
    """The power in dB, relative to a sine with an amplitude of 1."""
    return 10 * np.log10(2 * np.mean(samples.astype(np.float64) ** 2))


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate > 17_000])
def test_frequencies_above_8_khz_are_rejected_by_90_db(rate):
    assert rejection_db() > 90
    for frequency in (8_001, 8_010, 8_050, 8_100, 8_200, 8_500, 9_500, 0.3 * rate, 0.4 * rate, 0.49 * rate):
        if 8_000 < frequency < 0.495 * rate:
            assert level(whole(tone(frequency, rate), rate)[400:-400]) < -90, frequency


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate < SAMPLE_RATE])
def test_images_above_the_inputs_band_are_rejected_by_90_db(rate):
    for frequency in (0.1 * rate, 0.3 * rate, 0.45 * rate):
        out = whole(tone(frequency, rate), rate)[400:-400].astype(np.float64)
        angle = 2 * np.pi * frequency * np.arange(400, 400 + len(out)) / SAMPLE_RATE
        wave = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        rest = out - wave @ np.linalg.lstsq(wave, out, rcond=None)[0]
        assert level(rest) < -90, frequency


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate != SAMPLE_RATE])
def test_the_pass_band_is_preserved(rate):
    out = whole(tone(0.9 * min(rate, SAMPLE_RATE) / 2, rate), rate)[400:-400]
    assert abs(level(out)) < 0.1


@pytest.mark.parametrize("rate", RATES + ODD_RATES)
def test_at_most_64_samples_of_the_lower_rate_are_held_back(rate):
    resampler, returned = StreamingResampler(rate), 0
    block = np.zeros(rate // 50, np.float32)
    for _ in range(50):
        returned += len(resampler.feed(block))
        # Half of the filter, and the one input that is partly after the last output.
        held_back = 64 / min(rate, SAMPLE_RATE) if rate != SAMPLE_RATE else 0
        assert resampler.received / rate - returned / SAMPLE_RATE <= held_back + 1 / rate


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8_000, 44_099, 44_100, 48_000, 96_000])
def test_only_the_inputs_that_the_filter_needs_are_kept(rate):
    resampler = StreamingResampler(rate)
    taps = 2 * 64 * max(1, rate / SAMPLE_RATE)
    for _ in range(20):
        resampler.feed(np.zeros(rate, np.float32))
        assert len(resampler._held) <= taps + rate / SAMPLE_RATE + 2


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_the_filter_is_that_of_scipy(rate):
    assert rejection_db() == pytest.approx(kaiser_atten(2 * 64 + 1, 1 - 0.908))
    filters = phase_filters(rate)
    phases, taps = filters.shape
    assert phases == SAMPLE_RATE // gcd(rate, SAMPLE_RATE)
    cutoff = (1 + 0.908) / 2 * min(1, SAMPLE_RATE / rate)
    lowpass = firwin(taps * phases + 1, cutoff / phases, window=("kaiser", kaiser_beta(rejection_db())))
    for row, weights in enumerate(filters):
        expected = lowpass[phases * np.arange(1, taps + 1) - row]
        # Tolerance: sines of another library may differ in their last bit, and so may a tap after it is rounded.
        assert np.abs(weights - expected / expected.sum()).max() < 1e-7


@given(rate=st.integers(LOWEST_RATE, HIGHEST_RATE))
@example(11_025)  # the most phases that are not interpolated
@example(44_099)
@example(191_999)
@example(383_975)  # 640 phases of 3,072 weights
@example(383_999)  # 16,000 phases
@settings(max_examples=30, deadline=None)
def test_the_filters_of_any_rate_are_small(rate):
    """A client names its rate: none may take the server long to prepare, or much memory to keep."""
    assert phase_filters(rate).size <= 1.05 * 640 * 128


def test_16_khz_passes_unchanged():
    samples = np.random.default_rng(1).uniform(-1, 1, 777).astype(np.float32)
    assert np.array_equal(in_chunks(samples, SAMPLE_RATE, [1, 5, 0, 300]), samples)


def test_a_second_finish_returns_nothing_and_a_later_feed_raises():
    resampler = StreamingResampler(48_000)
    resampler.feed(np.zeros(4_800, np.float32))
    resampler.finish()
    assert len(resampler.finish()) == 0
    with pytest.raises(RuntimeError, match="finished"):
        resampler.feed(np.zeros(1, np.float32))


@pytest.mark.parametrize("rate", [0, -16_000, 3_999, 384_001, 44_100.5, "48000", True, None])
def test_an_invalid_rate_raises(rate):
    with pytest.raises(AudioError, match="sample rate"):
        StreamingResampler(rate)
