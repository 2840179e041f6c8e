"""Validation of samples: valid types and shapes become float32 mono; everything else raises."""

import numpy as np
import pytest

from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError


def test_valid_samples_are_not_copied():
    samples = np.array([0.5, -256.0], np.float32)
    assert np.shares_memory(to_mono(samples), samples)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_integers_are_scaled(dtype):
    top = np.iinfo(dtype).max
    mono = to_mono(np.array([np.iinfo(dtype).min, 0, top // 2 + 1, top], dtype))
    assert mono.dtype == np.float32
    assert np.allclose(mono, [-1, 0, 0.5, 1], atol=1e-4)


def test_unsigned_bytes_are_centered_at_128():
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
    ("samples", "message"),
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
def test_invalid_samples_raise(samples, message):
    with pytest.raises(AudioError, match=message):
        to_mono(samples)
