"""Sound is where its container says: late tracks, gaps, rounded and wrong times."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame

from qwen_asr.audio import SAMPLE_RATE, timeline
from qwen_asr.audio.containers import samples_of
from qwen_asr.audio.decode import decode_blocks
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.timeline import Timeline, with_times
from qwen_asr.audio.tracks import SoundChoice
from qwen_asr.audio.validation import to_mono
from tests.support.media import Samples, Track, container, onsets, tone

FORMATS = [
    ("matroska", "pcm_s16le", 16_000),
    ("matroska", "flac", 44_100),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 44_100),
    ("mov", "alac", 48_000),
    ("mpegts", "aac", 48_000),
    ("mpegts", "mp2", 32_000),
    ("ogg", "libopus", 48_000),
    ("flv", "aac", 44_100),
]
LATE = 4.94


def decoded(content: bytes, choice: SoundChoice | None = None) -> Samples:
    return np.concatenate(list(decode_blocks(io.BytesIO(content), choice=choice)))


def without_times(content: bytes) -> Samples:
    """All frames of the first audio track, one behind the other."""
    with av.open(io.BytesIO(content), "r") as opened:
        frames = [frame for frame in opened.decode(audio=0) if isinstance(frame, AudioFrame)]
    resampler = StreamingResampler(frames[0].sample_rate)
    return np.concatenate([*(resampler.feed(to_mono(samples_of(frame))) for frame in frames), resampler.finish()])


@pytest.mark.parametrize(("form", "codec", "rate"), FORMATS)
def test_sound_without_gaps_is_unchanged(form: str, codec: str, rate: int) -> None:
    content = container(form, Track(tone(2, (1,), rate), rate, codec))
    assert np.array_equal(decoded(content), without_times(content))


@pytest.mark.parametrize(("form", "codec", "rate"), FORMATS)
def test_a_track_that_begins_late_is_heard_late(form: str, codec: str, rate: int) -> None:
    late = Track(tone(4, (1, 3), rate), rate, codec, start=LATE)
    others = [] if form == "flv" else [Track(tone(2, (), rate), rate, codec)]  # flv has one audio track
    samples = decoded(container(form, late, *others), SoundChoice(track=1))
    assert onsets(samples) == pytest.approx([LATE + 1, LATE + 3], abs=0.05)
    assert not samples[: round((LATE - 0.1) * SAMPLE_RATE)].any()


@pytest.mark.parametrize(("form", "codec", "rate"), FORMATS)
def test_packets_that_are_missing_leave_a_gap(form: str, codec: str, rate: int) -> None:
    gaps = [(2.0, 4.5), (6.0, 8.9)]
    samples = decoded(container(form, Track(tone(10, (1, 5, 9.2), rate), rate, codec, gaps=gaps)))
    assert onsets(samples) == pytest.approx([1, 5, 9.2], abs=0.05)
    assert len(samples) / SAMPLE_RATE == pytest.approx(10, abs=0.1)
    assert not samples[round(2.3 * SAMPLE_RATE) : round(4.3 * SAMPLE_RATE)].any()


@pytest.fixture
def ffmpeg(tmp_path: Path, require_program: Callable[[str], None]) -> Callable[..., None]:
    """`ffmpeg(arguments…)` runs it in the test's folder."""
    require_program("ffmpeg")

    def run(*arguments: str) -> None:
        subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], cwd=tmp_path, check=True)

    return run


BURSTS = ("-f", "lavfi", "-i", "aevalsrc='0.8*sin(2*PI*1000*t)*(between(t,1,1.1)+between(t,6,6.1))':s=48000:d=8")
CODECS = [("mkv", "libopus"), ("mp4", "aac"), ("ts", "aac"), ("webm", "libopus")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sound", "picture"),
    [
        ("a.mkv", "libopus", "mpeg4"),
        ("a.mp4", "aac", "mpeg4"),
        ("a.ts", "aac", "mpeg2video"),
        ("a.webm", "libopus", "libvpx"),
        ("a.ogg", "libvorbis", "libtheora"),
        ("a.mpg", "mp2", "mpeg2video"),
        ("a.wmv", "wmav2", "wmv2"),
    ],
)
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), (LATE + 1, LATE + 6)),
        # The times that a filter sees include the offset.
        (("-af", f"aselect='not(between(t,{LATE + 2},{LATE + 5}))'"), (LATE + 1, LATE + 6)),
        (("-af", "adelay=4940,asetpts=N/SR/TB"), (LATE + 1, LATE + 6)),
    ],
    ids=("late", "late with a gap", "delayed"),
)
def test_a_film_by_ffmpeg(
    name: str,
    sound: str,
    picture: str,
    filters: tuple[str, ...],
    expected: tuple[float, ...],
    ffmpeg: Callable[..., None],
    tmp_path: Path,
) -> None:
    picture_input = ("-f", "lavfi", "-i", "testsrc=size=32x32:rate=25:duration=2")
    codecs = ("-map", "0", "-map", "1", "-c:v", picture, "-c:a", sound)
    ffmpeg(*picture_input, "-itsoffset", str(LATE), *BURSTS, *codecs, *filters, name)
    samples = decoded((tmp_path / name).read_bytes())
    assert onsets(samples) == pytest.approx(list(expected), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "codec"), CODECS)
def test_parts_that_ffmpeg_joins_with_a_gap(form: str, codec: str, ffmpeg: Callable[..., None], tmp_path: Path) -> None:
    ffmpeg(*BURSTS, "-c:a", codec, f"part.{form}")
    (tmp_path / "list.txt").write_text(f"file part.{form}\nduration 20\nfile part.{form}\n")
    ffmpeg("-f", "concat", "-i", "list.txt", "-c", "copy", f"whole.{form}")
    samples = decoded((tmp_path / f"whole.{form}").read_bytes())
    assert onsets(samples) == pytest.approx([1, 6, 21, 26], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "codec"), CODECS)
def test_a_part_that_ffmpeg_cuts_out(form: str, codec: str, ffmpeg: Callable[..., None], tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc=size=32x32:rate=25:duration=13")
    codecs = ("-c:v", "libvpx" if form == "webm" else "mpeg4", "-c:a", codec, "-map", "0", "-map", "1")
    ffmpeg(*picture, "-itsoffset", str(LATE), *BURSTS, *codecs, f"film.{form}")
    ffmpeg("-ss", "3", "-i", f"film.{form}", *codecs[:4], f"cut.{form}")
    samples = decoded((tmp_path / f"cut.{form}").read_bytes())
    assert onsets(samples) == pytest.approx([LATE + 1 - 3, LATE + 6 - 3], abs=0.05)


@pytest.mark.slow
def test_opus_that_sends_less_in_silence(ffmpeg: Callable[..., None], tmp_path: Path) -> None:
    ffmpeg(*BURSTS, "-c:a", "libopus", "-application", "voip", "-b:a", "12k", "-dtx", "1", "dtx.webm")
    assert onsets(decoded((tmp_path / "dtx.webm").read_bytes())) == pytest.approx([1, 6], abs=0.05)


def test_a_file_that_begins_hours_late_was_cut_out_and_begins_at_its_first_packet() -> None:
    near = container("matroska", Track(tone(1), start=599))
    assert len(decoded(near)) == 600 * SAMPLE_RATE
    cut = container("matroska", Track(tone(1), start=9000), Track(tone(2, (1,)), start=9001.5))
    assert onsets(decoded(cut, SoundChoice(track=2))) == pytest.approx([2.5], abs=0.01)


def test_joined_transport_streams_follow_each_other(caplog: pytest.LogCaptureFixture) -> None:
    part = container("mpegts", Track(tone(5, (1, 4), 48_000), 48_000, "mp2", gaps=[(2, 3)]))
    samples = decoded(part + part)
    assert onsets(samples) == pytest.approx([1, 4, 6, 9], abs=0.08)
    assert "go back by" in caplog.text


@pytest.mark.parametrize("years", [1, 100])
def test_an_absurd_gap_is_no_silence(years: int, caplog: pytest.LogCaptureFixture) -> None:
    seconds = years * 365 * 86_400
    line = Timeline("film.mkv")
    assert line.silence_before(0.0, 16_000, 16_000) == 0
    assert line.silence_before(1.0 + seconds, 16_000, 16_000) == 0
    assert line.silence_before(4.0 + seconds, 16_000, 16_000) == 2 * SAMPLE_RATE  # times count anew from there
    assert "too much to be silence" in caplog.text


def test_the_silence_of_a_file_has_a_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(timeline, "MAX_SILENCE_SECONDS", 10.0)
    gaps = [(1, 5), (6, 10), (11, 15), (16, 17.5)]
    samples = decoded(container("matroska", Track(tone(20, (0.5, 5.5, 10.5, 15.5, 18)), gaps=gaps)))
    assert onsets(samples) == pytest.approx([0.5, 5.5, 10.5, 11.5, 14], abs=0.01)
    assert "jump by 4 s" in caplog.text


def fed(line: Timeline, frames: Iterator[tuple[float | None, int]], rate: int) -> Iterator[tuple[float | None, float]]:
    """Each frame's time, and the second at which it is put out."""
    for time, samples in frames:
        line.silence_before(time, samples, rate)
        yield time, line.seconds - samples / rate


def test_three_hours_of_rounded_times_do_not_drift() -> None:
    rate, size = 44_100, 2048
    count = 3 * 3600 * rate // size
    line = Timeline("film.mkv")
    assert not any(line.silence_before(round(n * size / rate, 3), size, rate) for n in range(count))
    assert line.seconds == pytest.approx(count * size / rate, abs=1e-6)


def test_a_recorder_with_a_slow_clock_stays_within_50_ms_over_three_hours() -> None:
    rate, size, slow = 48_000, 2880, 1.0001
    frames = ((round(n * size / rate * slow, 3), size) for n in range(3 * 3600 * rate // size))
    assert max(abs(put - (time or 0)) for time, put in fed(Timeline("film.webm"), frames, rate)) < 0.05


def test_jitter_inserts_nothing() -> None:
    rng = np.random.default_rng(1)
    line = Timeline("film.webm")
    assert not any(line.silence_before(n * 0.02 + rng.uniform(0, 0.02), 320, 16_000) for n in range(5000))


def test_overlapping_sound_is_kept_and_makes_the_next_gap_shorter(caplog: pytest.LogCaptureFixture) -> None:
    line = Timeline("film.mkv")
    assert line.silence_before(0.0, 16_000, 16_000) == 0
    assert line.silence_before(0.6, 16_000, 16_000) == 0  # 0.4 s too early
    assert "overlaps by 0.40 s" in caplog.text
    assert line.silence_before(5.0, 16_000, 16_000) == 3 * SAMPLE_RATE
    assert line.seconds == 6.0


def test_a_single_wrong_time_is_ignored() -> None:
    frames = [AudioFrame("s16", "mono", 160) for _ in range(4)]
    for frame, time in zip(frames, (0, 1, 500, 3), strict=True):
        frame.time_base, frame.pts = Fraction(1, 100), time
    assert [time for _, time in with_times(iter(frames))] == [0.0, 0.01, None, 0.03]


def test_frames_without_times_follow_each_other(caplog: pytest.LogCaptureFixture) -> None:
    line = Timeline("film.ts")
    assert not any(line.silence_before(None, 160, 16_000) for _ in range(3))
    assert line.silence_before(9.0, 160, 16_000) == 0  # nothing says where the first ones were
    assert line.silence_before(10.01, 160, 16_000) == SAMPLE_RATE
    assert caplog.records == []


def test_formats_without_times_are_unchanged() -> None:
    line = Timeline("a.wav", timed=False)
    assert not any(line.silence_before(time, 160, 16_000) for time in (0.0, 5.0, 99.0, 1.0))


def test_silence_is_exact_at_any_rate() -> None:
    """Positions count at 16 kHz, so a thousand gaps do not add up to an error."""
    line, resampled = Timeline("film.mkv"), 0
    for number in range(1000):
        resampled += line.silence_before(number * 0.1, 441, 44_100) + 160
    assert abs(resampled - (999 * 1600 + 160)) <= 1
