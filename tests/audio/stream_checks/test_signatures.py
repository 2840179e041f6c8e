"""Files and text where raw samples belong: each is named, however its bytes are split, and no samples are."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.audio.pcm import PcmStream
from qwen_asr.audio.stream_checks.signatures import HEAD_BYTES, name_of, read_wav_header
from qwen_asr.errors import AudioError
from tests.support.checkpoints import spoken

SPEECH = np.tile(spoken("Turn on the kitchen light."), 2)
S16 = (np.clip(SPEECH, -1, 1) * 32_767).astype("<i2").tobytes()
FILES = {
    "WebM or Matroska": ["-f", "webm"],
    "Ogg": ["-f", "ogg"],
    "FLAC": ["-f", "flac"],
    "MP3": ["-f", "mp3"],
    "MP4": ["-f", "mp4", "-movflags", "frag_keyframe+empty_moov"],
    "AAC (ADTS)": ["-f", "adts"],
    "AIFF": ["-f", "aiff"],
    "AU": ["-f", "au"],
    "CAF": ["-f", "caf"],
}


def encoded(*options: str) -> bytes:
    """The speech as a file, by FFmpeg."""
    command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", "16000", "-i", "-", *options]
    if options[-1] == "caf":
        return b"caff\0\1\0\0desc" + S16  # FFmpeg writes it to files only
    return subprocess.run([*command, "-"], input=S16, check=True, capture_output=True).stdout


def wav(encoding: str = "s16le", rate: int = 16_000, channels: int = 1, extra: bytes = b"") -> bytes:
    """The header of a WAV file up to its samples."""
    tag, bits = {"s16le": (1, 16), "f32le": (3, 32), "mulaw": (7, 8), "alaw": (6, 8), "s24le": (1, 24)}[encoding]
    layout = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + layout + extra + b"data\xff\xff\xff\xff"


def refusal(data: bytes, piece: int, encoding: str = "s16le") -> str:
    """The error for a stream; every piece after it is refused too."""
    stream = PcmStream(encoding, 16_000)
    for begin in range(0, len(data), piece):
        try:
            stream.feed(data[begin : begin + piece])
        except AudioError as error:
            with pytest.raises(AudioError, match="The audio is"):
                stream.feed(b"\0\0")
            return str(error)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_files_are_named(name: str, require_program: Callable[[str], None]) -> None:
    require_program("ffmpeg")
    data = encoded(*FILES[name])
    assert name_of(data[:HEAD_BYTES]) == name
    for encoding in ("s16le", "f32le", "mulaw"):
        # Pieces too short for a signature are taken as samples, or refused because they are no floats.
        for piece in (100_000,) if encoding == "f32le" else (3, 320, 100_000):
            message = refusal(data, piece, encoding)
            assert message.startswith(f"The audio is {name}; expected raw samples as announced, {encoding} at 16000 Hz")


def test_an_mp3_without_its_tag_is_named(require_program: Callable[[str], None]) -> None:
    require_program("ffmpeg")
    for options in ([], ["-ar", "8000"], ["-ar", "24000", "-ac", "2"], ["-ar", "48000", "-b:a", "320k"]):
        data = encoded("-f", "mp3", "-id3v2_version", "0", *options)
        assert name_of(data[:HEAD_BYTES]) == "MP3"


def test_text_is_named() -> None:
    assert name_of(base64.b64encode(S16)[:HEAD_BYTES]) == "base64 text"
    assert name_of(b"data:audio/webm;base64,GkXf") == "a data URL"
    append = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(S16[:640]).decode()}).encode()
    assert (
        name_of(append)
        == name_of(b'{"event":"media"}')
        == name_of(json.dumps({"a": {"b": [1] * 90}}).encode())
        == "JSON"
    )
    assert refusal(S16[:3_200] + b'{"type": "finalize"}', 320).endswith("each): send text in text messages.")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["s16le", "f32le", "mulaw", "alaw"])
def test_the_header_of_a_wav_file_of_the_announced_format_is_skipped(encoding: str) -> None:
    rng = np.random.default_rng(0)
    data = {"s16le": S16, "f32le": SPEECH.astype("<f4").tobytes()}.get(encoding, rng.bytes(4_000))
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    for header in (wav(encoding), wav(encoding, extra=extra)):
        plain = PcmStream(encoding, 16_000)
        expected = plain.feed(data)
        for piece in (1, 13, 44, 1_000, len(header), len(data) + 100):
            stream = PcmStream(encoding, 16_000)
            whole = header + data
            got = np.concatenate([stream.feed(whole[begin : begin + piece]) for begin in range(0, len(whole), piece)])
            np.testing.assert_array_equal(got, expected)
            assert stream.received == plain.received


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (wav(rate=24_000), "a WAV file of s16le at 24000 Hz with 1 channel(s)"),
        (wav(channels=2), "a WAV file of s16le at 16000 Hz with 2 channel(s)"),
        (wav("f32le"), "a WAV file of f32le"),
        (wav("s24le"), "a WAV file of s24le"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "a WAV file without a format"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff", "without samples in its first 64 KiB"),
    ],
)
def test_a_wav_file_of_another_format_is_named(header: bytes, named: str) -> None:
    with pytest.raises(AudioError, match="expected raw samples") as refused:
        PcmStream("s16le", 16_000).feed(header + S16)
    assert named in str(refused.value)


@given(st.binary(max_size=200), st.integers(1, 60))
def test_any_header_is_answered(data: bytes, piece: int) -> None:
    stream = PcmStream("s16le", 16_000)
    whole = b"RIFF\0\0\0\0WAVE" + data
    with contextlib.suppress(AudioError):  # no other error
        read_wav_header(whole)
        for begin in range(0, len(whole), piece):
            stream.feed(whole[begin : begin + piece])


@given(st.lists(st.floats(-1, 1), min_size=30, max_size=60), st.sampled_from(["<i2", "<f4"]))
def test_samples_have_no_name(values: list[float], kind: str) -> None:
    samples = np.interp(np.linspace(0, len(values), 2_000), range(len(values)), values)
    data = (samples * (32_767 if kind == "<i2" else 1)).astype(kind).tobytes()
    assert name_of(data[:HEAD_BYTES]) is None
