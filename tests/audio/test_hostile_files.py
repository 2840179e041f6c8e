"""Files made to take a decoder's memory, or to make it read what they name."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwen_asr.audio.decode import decode_blocks, read_pcm_wav
from qwen_asr.errors import AudioError
from tests.support import bombs
from tests.support.network import Canary

MEMORY_BYTES = 50 << 20
MEASURE = """
import io, sys
from pathlib import Path
from qwen_asr.audio.decode import decode_blocks
from qwen_asr.errors import AudioError
from tests.support.bombs import wav_header
from tests.support.processes import peak_bytes, reset_peak

list(decode_blocks(io.BytesIO(wav_header(32_000) + bytes(32_000))))
before = reset_peak()
seconds = 0.0
with open(sys.argv[1], "rb") as file:
    try:
        seconds = sum(map(len, decode_blocks(file))) / 16_000
    except AudioError:
        pass
print(seconds, peak_bytes() - before)
"""


def hour() -> bytes:
    return bombs.silent_flac()


def six_channels_of_small_samples() -> bytes:
    return bombs.wav_header(20 << 20, rate=4_000, channels=6, bits=8) + bytes(20 << 20)


def packet_of_the_largest_size() -> bytes:
    return bombs.avi_of_one_chunk(bytes(8 << 20))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured with Linux's /proc")
@pytest.mark.parametrize(
    "bomb",
    [
        hour,
        six_channels_of_small_samples,
        packet_of_the_largest_size,
        lambda: bombs.avi_of_one_chunk(bytes(100 << 20)),
        lambda: bombs.matroska_of_gaps([0, 3.9, 3.9]),
        lambda: bombs.matroska_of_gaps([number * 1000 for number in range(1000)]),
        bombs.mp4_index,
        bombs.mp4_compressed_header,
        bombs.mp3_compressed_cover,
        lambda: bombs.wav_header(0xFFFFFFFF, channels=64, rate=384_000, bits=32) + bytes(1 << 20),
        lambda: bombs.zipped_zeros(1 << 30),
    ],
    ids=(
        "flac",
        "wav",
        "avi",
        "avi-large",
        "gap",
        "absurd-gaps",
        "mp4-index",
        "mp4-header",
        "mp3-cover",
        "wav-header",
        "zip",
    ),
)
def test_a_small_file_takes_little_memory(bomb: Callable[[], bytes], tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb())
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], cwd=repository, capture_output=True, text=True, check=True
    )
    _, peak = map(float, process.stdout.split())
    assert peak < MEMORY_BYTES


def test_the_largest_packet_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.audio.containers._MAX_PACKET", 1000)
    assert sum(map(len, decode_blocks(io.BytesIO(bombs.avi_of_one_chunk(bytes(1000)))))) == 2000
    with pytest.raises(AudioError):
        list(decode_blocks(io.BytesIO(bombs.avi_of_one_chunk(bytes(1001)))))


def test_the_most_streams_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.audio.containers._MAX_STREAMS", 3)
    with pytest.raises(AudioError, match="no audio that can be decoded"):  # opened: its frames are not AAC
        list(decode_blocks(io.BytesIO(bombs.mp4_index(5, tracks=3))))
    with pytest.raises(AudioError, match="cannot be read as audio"):
        list(decode_blocks(io.BytesIO(bombs.mp4_index(5, tracks=4))))


def test_the_sample_rate_may_change_so_often() -> None:
    rates = [15_001 + 2 * number for number in range(18)]
    end = [rates[17]] * 4  # FFmpeg needs what follows a frame to find it
    decoded = np.concatenate(list(decode_blocks(io.BytesIO(bombs.flac_of_rates(rates[1:] + end)))))
    assert len(decoded) > 300
    with pytest.raises(AudioError, match="changes its sample rate more than 16 times"):
        list(decode_blocks(io.BytesIO(bombs.flac_of_rates(rates + end))))
    alike = bombs.flac_of_rates([16_000] * 100)
    assert sum(map(len, decode_blocks(io.BytesIO(alike)))) > 1500


def test_decoding_ends_where_far_more_packets_are_damaged_than_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.audio.containers._MAX_BROKEN", 20)
    with pytest.raises(AudioError, match="31 of 41 packets cannot be decoded"):
        list(decode_blocks(io.BytesIO(bombs.matroska_of_broken_packets(10, 500))))
    fewer = bombs.matroska_of_broken_packets(100, 30)
    assert sum(map(len, decode_blocks(io.BytesIO(fewer)))) == 16_000


def test_the_silence_in_all_gaps_together_is_bounded() -> None:
    blocks = decode_blocks(io.BytesIO(bombs.matroska_of_gaps([0.0, 0.5, 2.0, 4.0, 6.0, 1e4, 1e6])))
    assert sum(map(len, blocks)) == pytest.approx(4 * 3600 * 16_000, abs=1000)
    blocks = decode_blocks(io.BytesIO(bombs.matroska_of_gaps([0.0, 1e3, 1e4, 1e5, 1e6])))
    assert sum(map(len, blocks)) == 5 * 160
    one = [number / 3600 for number in range(5000)]  # each takes a filter of its own
    assert sum(map(len, decode_blocks(io.BytesIO(bombs.matroska_of_gaps(one))))) == 4999 * 16_000 + 160


def test_a_long_frame_gives_the_same_samples_as_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(1).integers(0, 256, 10_001, dtype=np.uint8).tobytes()
    content = bombs.avi_of_one_chunk(samples)
    whole = np.concatenate(list(decode_blocks(io.BytesIO(content))))
    monkeypatch.setattr("qwen_asr.audio.downmix._PIECE", 64)
    assert np.array_equal(np.concatenate(list(decode_blocks(io.BytesIO(content)))), whole)


@pytest.mark.parametrize("name", bombs.naming(Path("x"), "http://127.0.0.1:9"))
def test_a_file_that_names_another_reads_and_asks_nothing(name: str, tmp_path: Path, canary: Canary) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(bombs.wav_header(32_000) + bytes(32_000))
    path = tmp_path / name
    path.write_bytes(bombs.naming(secret, canary.url)[name])
    with pytest.raises(AudioError):
        list(decode_blocks(path))
    with pytest.raises(AudioError), path.open("rb") as file:
        read_pcm_wav(file, "The block", 10)
    assert canary.visits == 0


def test_a_recorders_block_is_read_at_its_own_rate() -> None:
    samples = np.random.default_rng(1).integers(-32768, 32767, 24_000, dtype=np.int16)
    # The recorder repeats the header of its first block, which announces another length.
    for announced in (48_000, 0xFFFFFFFF, 0xFFFFFFFF - 36):
        block = bombs.wav_header(announced, rate=48_000) + samples.tobytes()
        rate, read = read_pcm_wav(io.BytesIO(block), "The block", 0.5)
        assert rate == 48_000
        assert np.array_equal(np.round(read * 32768).astype(np.int16), samples)


def test_the_length_of_a_block_is_exact() -> None:
    def block(samples: int) -> io.BytesIO:
        return io.BytesIO(bombs.wav_header(2 * samples) + bytes(2 * samples))

    assert len(read_pcm_wav(block(16_000), "The block", 1.0)[1]) == 16_000
    with pytest.raises(AudioError, match="longer than 1 seconds"):
        read_pcm_wav(block(16_001), "The block", 1.0)


@pytest.mark.parametrize("content", [b"", bombs.wav_header(0), bombs.wav_header(100, kind=2, bits=4) + bytes(512)])
def test_other_blocks_are_refused(content: bytes) -> None:
    with pytest.raises(AudioError, match="The block"):
        read_pcm_wav(io.BytesIO(content), "The block", 1.0)


def test_a_block_in_another_format_is_refused() -> None:
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read_pcm_wav(io.BytesIO(bombs.silent_flac(1)), "The block", 10)
