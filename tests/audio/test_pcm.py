"""PCM streams: chunks of any length, including those that split a sample, give the same samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.audio.pcm import ENCODINGS, PcmStream
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError
from tests.support.checkpoints import spoken


@given(
    data=st.binary(max_size=4_000).map(bytes(2).__add__),  # else it finds the signatures of containers
    sizes=st.lists(st.integers(0, 700), max_size=20),
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
)
def test_chunked_equals_whole(data: bytes, sizes: list[int], rate: int) -> None:
    stream, pieces, begin = PcmStream("s16le", rate), [], 0
    for size in [*sizes, len(data)]:
        pieces.append(stream.feed(data[begin : begin + size]))
        begin += size
    held = stream.held
    whole = to_mono(np.frombuffer(data[: len(data) // 2 * 2], "<i2"))
    resampler = StreamingResampler(rate)
    expected = np.concatenate([resampler.feed(whole), resampler.finish()])
    rest = stream.finish()
    np.testing.assert_array_equal(np.concatenate([*pieces, rest]), expected)
    assert stream.received == len(whole)
    assert (len(rest), stream.held) == (held, 0)


def test_a_float_split_into_four_chunks_is_one_float() -> None:
    stream = PcmStream("f32le", 16_000)
    pieces = [stream.feed(bytes([byte])) for byte in np.array([0.25], "<f4").tobytes()]
    assert [len(piece) for piece in pieces] == [0, 0, 0, 1]
    assert pieces[3][0] == 0.25
    assert stream.received == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_invalid_floats_raise(value: float) -> None:
    stream = PcmStream("f32le", 16_000)
    with pytest.raises(AudioError):
        stream.feed(np.array([0.0, value], "<f4").tobytes())
    assert stream.received == 0


def test_supported_encodings() -> None:
    assert {name: PcmStream(name, 8_000).bytes_per_second for name in ENCODINGS} == {"f32le": 32_000, "s16le": 16_000}
    with pytest.raises(AudioError, match="unknown; give one of f32le, s16le"):
        PcmStream("mp3")
    with pytest.raises(AudioError, match="sample rate of 10 Hz"):
        PcmStream("s16le", 10)


S16 = (np.clip(spoken("The meeting is on Monday the tenth of May."), -1, 1) * 32_767).astype("<i2")


@pytest.mark.parametrize("second", [0.0, 0.3, 1.0])
def test_after_a_stray_byte_the_samples_are_aligned_again(second: float) -> None:
    data = np.tile(S16, 2).tobytes()
    place = round(second * 16_000) * 2
    stream = PcmStream("s16le", 16_000)
    broken = data[:place] + b"\x55" + data[place:]
    heard = np.concatenate([stream.feed(broken[begin : begin + 640]) for begin in range(0, len(broken), 640)])
    [warning] = stream.take_warnings()
    assert warning.code == "StrayByte"
    assert "was dropped" in warning.message
    assert stream.take_warnings() == []
    np.testing.assert_array_equal(heard[-16_000:], to_mono(np.frombuffer(data, "<i2"))[-16_000:])
    assert stream.received == len(data) // 2  # the stray byte is no part of any sample


def test_floats_are_aligned_again_too() -> None:
    samples = to_mono(S16)
    data = samples.astype("<f4").tobytes()
    stream = PcmStream("f32le", 16_000)
    broken = data[:40_000] + b"\x55" + data[40_000:]
    heard = np.concatenate([stream.feed(broken[begin : begin + 1_280]) for begin in range(0, len(broken), 1_280)])
    assert [warning.code for warning in stream.take_warnings()] == ["StrayByte"]
    np.testing.assert_array_equal(heard[-16_000:], samples[-16_000:])
    assert abs(stream.received - len(samples)) <= 1


def test_another_format_is_reported_once_and_its_name_is_in_the_error_for_floats() -> None:
    stream = PcmStream("s16le", 16_000)
    for _ in range(3):
        stream.feed(S16.astype(">i2").tobytes())
    [warning] = stream.take_warnings()
    assert warning.code == "SampleFormat"
    assert (
        "announced as signed 16-bit little endian (s16le), but looks like signed 16-bit big endian" in warning.message
    )
    with pytest.raises(AudioError, match=r"The bytes look like signed 16-bit little endian \(s16le\)\."):
        PcmStream("f32le", 16_000).feed(S16[8_000:16_000].tobytes())
