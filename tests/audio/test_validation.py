"""Validation of samples: valid types and shapes become float32 mono; everything else raises."""

import logging

import numpy as np
import pytest
import torch

from qwen_asr.audio.validation import ArrayReader, to_mono
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


STEREO = np.random.default_rng(5).uniform(-0.5, 0.5, (4_000, 2)).astype(np.float32)
INT16 = (STEREO[:, 0] * 32_767).astype(np.int16)


@pytest.mark.parametrize(
    ("array", "mono"),
    [
        (STEREO.T, STEREO.mean(axis=1)),
        (STEREO, STEREO.mean(axis=1)),
        (STEREO[:, :1], STEREO[:, 0]),
        (STEREO[:, :1].T, STEREO[:, 0]),
        (np.zeros((2, 2)), np.zeros(2)),
        (torch.from_numpy(STEREO.T.copy()), STEREO.mean(axis=1)),
        (STEREO[:, 0].tolist(), STEREO[:, 0]),
        (np.zeros((0, 2), np.int32), np.zeros(0)),
    ],
)
def test_an_array_may_have_channels_first_or_last(array, mono):
    read = ArrayReader().read(array)
    assert read.dtype == np.float32
    assert read.shape == mono.shape
    assert np.allclose(read, mono, atol=1e-6)


@pytest.mark.parametrize("layout", [lambda block: block, lambda block: block.T])
def test_the_layout_of_a_stream_holds_for_its_last_block(layout):
    reader = ArrayReader()
    blocks = [STEREO[:1_000], STEREO[1_000:3_999], STEREO[3_999:]]
    read = np.concatenate([reader.read(layout(block)) for block in blocks])
    assert np.array_equal(read, to_mono(STEREO))


@pytest.mark.parametrize(
    ("array", "bits"),
    [
        (INT16.astype(np.int32), 16),
        (INT16.astype(np.int64), 16),
        (np.array([-32_768, 1], np.int32), 16),
        (INT16.astype(np.int64) << 16, 32),
    ],
)
def test_wide_integers_of_a_smaller_scale_are_read_at_that_scale(array, bits, caplog):
    with caplog.at_level(logging.INFO):
        read = ArrayReader().read(array)
    assert np.array_equal(read, (array / 2.0 ** (bits - 1)).astype(np.float32))
    assert f"read as {bits}-bit samples" in caplog.text


@pytest.mark.parametrize(
    "array",
    [
        INT16.astype(np.int32) << 16,  # 16 bits in 32, as soundfile gives them
        np.array([-3, 2, 5], np.int32) << 8,  # the silence of a 24-bit recording
        np.array([0, 0], np.int32),
        np.array([32_769, -5], np.int32),
    ],
)
def test_integers_at_the_scale_of_their_type_stay(array, caplog):
    with caplog.at_level(logging.INFO):
        read = ArrayReader().read(array)
    assert np.array_equal(read, to_mono(array))
    assert caplog.text == ""


def test_the_scale_of_a_stream_holds_for_its_quiet_blocks_and_follows_louder_ones(caplog):
    reader = ArrayReader()
    with caplog.at_level(logging.INFO):
        assert reader.read(np.array([512, 256], np.int32)).max() < 1e-5  # not known yet
        assert reader.read(np.array([16_384, 1], np.int32))[0] == 0.5
        assert reader.read(np.array([512, 256], np.int32))[0] == 1 / 64
        assert caplog.text.count("16-bit") == 1
        assert reader.read(np.array([1 << 30, 16_384], np.int32)).tolist() == [0.5, 2.0**-17]
        assert reader.read(np.array([16_384, 1], np.int32))[0] == 2.0**-17


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_with_the_values_of_int16_are_scaled(dtype, caplog):
    reader = ArrayReader()
    for block in (INT16, np.array([1, 0, -1], np.int16)):
        assert np.array_equal(reader.read(block.astype(dtype)), to_mono(block))
    assert caplog.text.count("read as 16-bit samples") == 1


@pytest.mark.parametrize("samples", [[1.0, -1.0, 0.0], [1.5, 0.25], [0.0], [-256.0, 0.5]])
def test_other_floats_are_not_scaled(samples, caplog):
    assert ArrayReader().read(np.array(samples)).tolist() == samples
    assert caplog.text == ""


@pytest.mark.parametrize("samples", [[40_000.0, 3.0], [20_000.5, 3.0], [np.nan, 20_000.0], [np.inf]])
def test_floats_of_no_known_scale_raise(samples):
    with pytest.raises(AudioError):
        ArrayReader().read(np.array(samples))


@pytest.mark.parametrize("samples", [[[0.0, 1.0], [0.5]], None, "sound", torch.zeros(4, requires_grad=True)])
def test_what_is_no_array_raises(samples):
    with pytest.raises(AudioError, match="samples"):
        ArrayReader().read(samples)


def test_bytes_are_no_array() -> None:
    with pytest.raises(AudioError, match=r"The samples are bytes; expected an array, such as np.frombuffer"):
        ArrayReader().read(bytes(640))
