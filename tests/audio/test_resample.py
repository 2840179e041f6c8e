"""Resampling: exact in pieces, exact in length, true in pitch, clean of aliases, soon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler, to_mono
from qwen_asr.errors import AudioError

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
ODD_RATES = (4_000, 7_919, 15_999, 16_001, 44_099)  # many phases: the interpolated table


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
def test_chunked_is_whole_bit_for_bit(rate, length, sizes, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    expected = whole(samples, rate)
    assert len(expected) == (2 * length * SAMPLE_RATE + rate) // (2 * rate)
    assert expected.dtype == np.float32
    assert np.array_equal(in_chunks(samples, rate, sizes), expected)


@pytest.mark.parametrize("rate", RATES + ODD_RATES)
def test_single_samples_are_whole(rate):
    samples = np.random.default_rng(rate).uniform(-1, 1, 3_001).astype(np.float32)
    assert np.array_equal(in_chunks(samples, rate, [1] * 3_000), whole(samples, rate))


@pytest.mark.parametrize("rate", RATES + ODD_RATES)
def test_a_tone_keeps_its_pitch_place_and_level(rate):
    frequency = min(1_000, rate * 0.2)
    error = whole(tone(frequency, rate), rate) - tone(frequency, SAMPLE_RATE)
    assert np.abs(error[400:-400]).max() < 1e-4


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate != SAMPLE_RATE])
def test_a_constant_stays_that_constant(rate):
    out = whole(np.full(rate, 0.5, np.float32), rate)
    assert np.abs(out[400:-400] - 0.5).max() < 1e-4


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate > 17_000])
def test_nothing_above_8_khz_folds_back(rate):
    for frequency in (8_050, min(9_500, rate * 0.49)):
        out = whole(tone(frequency, rate), rate)[400:-400]
        assert 20 * np.log10(np.sqrt(np.mean(out**2))) < -75


@pytest.mark.parametrize("rate", [rate for rate in RATES + ODD_RATES if rate != SAMPLE_RATE])
def test_the_band_of_speech_passes_whole(rate):
    out = whole(tone(0.9 * min(rate, SAMPLE_RATE) / 2, rate), rate)[400:-400]
    assert abs(20 * np.log10(np.sqrt(2 * np.mean(out**2)))) < 0.1


@pytest.mark.parametrize("rate", RATES)
def test_little_is_held_back(rate):
    resampler, given_out = StreamingResampler(rate), 0
    block = np.zeros(rate // 50, np.float32)
    for _ in range(50):
        given_out += len(resampler.feed(block))
        assert resampler.received / rate - given_out / SAMPLE_RATE <= 0.0081


def test_memory_stays_small_in_a_long_stream():
    resampler = StreamingResampler(48_000)
    for _ in range(100):
        resampler.feed(np.zeros(48_000, np.float32))
    assert len(resampler._held) < 1_000


def test_16_khz_passes_untouched():
    samples = np.random.default_rng(1).uniform(-1, 1, 777).astype(np.float32)
    assert np.array_equal(in_chunks(samples, SAMPLE_RATE, [1, 5, 0, 300]), samples)


def test_finish_twice_gives_nothing_more_and_feed_after_it_is_refused():
    resampler = StreamingResampler(48_000)
    resampler.feed(np.zeros(4_800, np.float32))
    resampler.finish()
    assert len(resampler.finish()) == 0
    with pytest.raises(RuntimeError, match="finished"):
        resampler.feed(np.zeros(1, np.float32))


@pytest.mark.parametrize("rate", [0, -16_000, 3_999, 384_001, 44_100.5, "48000", True, None])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(AudioError, match="sample rate"):
        StreamingResampler(rate)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_integers_are_scaled(dtype):
    top = np.iinfo(dtype).max
    mono = to_mono(np.array([np.iinfo(dtype).min, 0, top // 2 + 1, top], dtype))
    assert mono.dtype == np.float32
    assert np.allclose(mono, [-1, 0, 0.5, 1], atol=1e-4)


def test_unsigned_bytes_have_their_zero_at_128():
    assert to_mono(np.array([0, 128, 192], np.uint8)).tolist() == [-1, 0, 0.5]


def test_channels_are_averaged():
    assert to_mono(np.array([[0.5, -0.5], [1.0, 0.0]], np.float64)).tolist() == [0, 0.5]
    assert to_mono(np.full((3, 6), 0.25, np.float32)).tolist() == [0.25] * 3
    assert to_mono(np.zeros((0, 2), np.int16)).shape == (0,)


def test_averaging_does_not_depend_on_the_block():
    samples = np.random.default_rng(2).uniform(-1, 1, (999, 6)).astype(np.float32)
    expected = to_mono(samples)
    assert np.array_equal(np.concatenate([to_mono(row[None]) for row in samples]), expected)
    assert np.array_equal(to_mono(np.asfortranarray(samples)), expected)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.array([0, np.nan], np.float32), "NaN"),
        (np.array([np.inf, 0], np.float64), "infinite"),
        (np.array([1e300], np.float64), "infinite"),
        (np.array([20_000.0, -3.0], np.float32), "32768"),
        (np.zeros((2, 16_000), np.float32), "transpose"),
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.float32(0.5), "shape"),
        (np.zeros(4, np.complex64), "type"),
        (np.array(["a"]), "type"),
    ],
)
def test_what_is_no_audio_is_refused(samples, says):
    with pytest.raises(AudioError, match=says):
        to_mono(samples)
