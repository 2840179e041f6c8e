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


@given(
    data=st.binary(max_size=4_000),
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
