"""G.711 decoding: equal to ffmpeg for every code, and independent of the chunks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from qwen_asr.audio.g711 import LAWS, RATE
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono

CODES = bytes(range(256))


@pytest.mark.parametrize("law", LAWS)
def test_every_code_equals_the_output_of_ffmpeg(law: str, program: Callable[[str], str]) -> None:
    read = ["-f", law, "-ar", str(RATE), "-ac", "1", "-i", "pipe:0"]
    command = [program("ffmpeg"), "-loglevel", "error", *read, "-f", "s16le", "pipe:1"]
    decoded = subprocess.run(command, input=CODES, capture_output=True, check=True).stdout
    np.testing.assert_array_equal(LAWS[law], np.frombuffer(decoded, "<i2"))


def test_the_extremes_match_the_recommendation() -> None:
    # G.711 (11/88), table 2: ±8031 of 14 bits are the extremes of µ-law; table 1: ±4032 of 13 bits are those of A-law.
    assert (LAWS["mulaw"].min(), LAWS["mulaw"].max()) == (-8031 * 4, 8031 * 4)
    assert (LAWS["alaw"].min(), LAWS["alaw"].max()) == (-4032 * 8, 4032 * 8)
    assert LAWS["mulaw"][0xFF] == LAWS["mulaw"][0x7F] == 0
    assert (LAWS["alaw"][0xD5], LAWS["alaw"][0x55]) == (8, -8)


@pytest.mark.parametrize("law", LAWS)
def test_a_stream_of_codes_equals_its_resampled_samples(law: str) -> None:
    data = np.random.default_rng(0).bytes(4_000)
    stream, resampler = PcmStream(law, RATE), StreamingResampler(RATE)
    whole = to_mono(LAWS[law][np.frombuffer(data, np.uint8)])
    expected = np.concatenate([resampler.feed(whole), resampler.finish()])
    pieces = [stream.feed(data[begin : begin + 333]) for begin in range(0, len(data), 333)]
    np.testing.assert_array_equal(np.concatenate([*pieces, stream.finish()]), expected)
    assert (stream.received, stream.bytes_per_second) == (len(data), RATE)
