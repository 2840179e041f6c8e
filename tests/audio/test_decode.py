"""Decoding: common formats are read, and everything else raises an error that names the source."""

import base64
import http.server
import io
import logging
import subprocess
import threading
import tracemalloc
import wave
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE, decode
from qwen_asr.audio.decode import decode_blocks, load_audio
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError

SECONDS = 3.0
TWICE = ("-af", "pan=stereo|c0=c0|c1=c0")  # ffmpeg's `-ac 2` would reduce the level by 3 dB


def melody(rate, seconds=SECONDS):
    """A frequency sweep with a slow change of level, so that each position is unique; (n,) float32."""
    t = np.arange(round(rate * seconds)) / rate
    swell = 0.4 * np.sin(np.pi * t / seconds) ** 2
    return (swell * np.sin(2 * np.pi * (300 + 250 * t) * t)).astype(np.float32)


def write_wav(path, samples, rate):
    pcm = (np.asarray(samples) * 32767).round().astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return path


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return write_wav(tmp_path_factory.mktemp("sound") / "original.wav", melody(48_000), 48_000)


@pytest.fixture(scope="session")
def convert(require_program, original, tmp_path_factory):
    """Convert the original with ffmpeg and the given arguments."""
    require_program("ffmpeg")
    folder = tmp_path_factory.mktemp("converted")

    def make(name, *arguments, before=()):
        path = folder / name
        command = ["ffmpeg", "-v", "error", "-y", *before, "-i", str(original), *arguments, str(path)]
        subprocess.run(command, check=True)
        return path

    return make


def assert_is_melody(samples, lossy=False):
    expected = melody(SAMPLE_RATE)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - len(expected)) <= (0.06 * SAMPLE_RATE if lossy else 0)
    length = min(len(samples), len(expected))
    error = samples[:length] - expected[:length]
    assert np.sqrt(np.mean(error**2)) < (0.02 if lossy else 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("channels", [(), TWICE], ids=("mono", "stereo"))
def test_wav_of_every_depth(convert, codec, channels):
    assert_is_melody(load_audio(convert(f"{codec}{len(channels)}.wav", *channels, "-c:a", codec)))


def test_wav_of_8_bit(convert):
    assert_is_melody(load_audio(convert("8bit.wav", "-c:a", "pcm_u8")), lossy=True)


def test_six_channels_are_averaged(tmp_path):
    six = np.stack([melody(48_000) * gain for gain in (1.5, 1.5, 0.5, 0.5, 1, 1)], axis=1)
    assert_is_melody(load_audio(write_wav(tmp_path / "six.wav", six, 48_000)))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_wav_of_every_rate(tmp_path, rate):
    assert_is_melody(load_audio(write_wav(tmp_path / "rate.wav", melody(rate), rate)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.flac", ()),
        ("stereo.flac", (*TWICE, "-ar", "44100")),
        ("a.mp3", ("-b:a", "128k")),
        ("a.m4a", ("-c:a", "aac", "-b:a", "128k")),
        ("a.ogg", ("-c:a", "libvorbis", "-q:a", "6")),
        ("a.opus", ("-c:a", "libopus", "-b:a", "96k")),
        ("opus.ogg", ("-c:a", "libopus", "-b:a", "96k")),
        ("a.webm", ("-c:a", "libopus", "-b:a", "96k")),
        ("a.mka", ("-c:a", "flac")),
        ("a.aiff", ()),
        ("a.au", ()),
        ("a.caf", ()),
    ],
)
def test_common_formats(convert, name, arguments):
    lossless = name.endswith(("flac", "mka", "aiff", "au", "caf"))
    assert_is_melody(load_audio(convert(name, *arguments)), lossy=not lossless)


@pytest.fixture(scope="session")
def video(convert):
    return convert(
        "video.mp4",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-t",
        str(SECONDS),
        "-c:a",
        "aac",
        "-b:a",
        "128k",
        before=("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10"),
    )


def test_the_sound_of_a_video(video):
    assert_is_melody(load_audio(video), lossy=True)


def test_a_video_without_sound_raises(convert, tmp_path):
    path = convert(
        "silent.mp4", "-map", "0:v", "-an", "-t", "1", before=("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10")
    )
    with pytest.raises(AudioError, match=r"silent\.mp4' contains no audio track"):
        load_audio(path)


def test_a_file_gives_the_same_samples_as_a_live_stream(original):
    with wave.open(str(original)) as reader:
        pcm = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
    resampler, blocks = StreamingResampler(48_000), []
    for begin in range(0, len(pcm), 960):
        blocks.append(resampler.feed(to_mono(pcm[begin : begin + 960])))
    blocks.append(resampler.finish())
    assert np.array_equal(load_audio(original), np.concatenate(blocks))


@pytest.mark.slow
def test_every_source_type_gives_the_same_samples(original):
    expected = load_audio(original)
    data = original.read_bytes()
    text = base64.b64encode(data).decode()
    samples = np.frombuffer(data[44:], "<i2")
    for source in (
        str(original),
        data,
        text,
        text.rstrip("="),
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        base64.urlsafe_b64encode(data).decode(),
        "data:audio/wav;base64," + text,
        "data:audio/wav;base64," + quote(text),
        "data:audio/wav," + quote(data),
        (samples, 48_000),
        (np.stack([samples, samples], axis=1), 48_000),
        (samples.astype(np.float64) / 32_768, 48_000),
    ):
        assert np.array_equal(load_audio(source), expected)
    with original.open("rb") as file:
        assert np.array_equal(np.concatenate(list(decode_blocks(file))), expected)


@pytest.mark.slow
def test_a_long_file_is_decoded_in_constant_memory(tmp_path):
    path = write_wav(tmp_path / "long.wav", np.tile(melody(16_000, 60), 10), 16_000)
    tracemalloc.start()
    total = sum(len(block) for block in decode_blocks(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 600 * SAMPLE_RATE
    assert peak < 4_000_000


# ---- sources that cannot be read


@pytest.mark.parametrize("as_text", [True, False])
def test_a_missing_file_a_folder_and_an_empty_file_raise(tmp_path, as_text):
    kind = str if as_text else lambda path: path
    with pytest.raises(AudioError, match=r"There is no file '.*missing\.wav'"):
        load_audio(kind(tmp_path / "missing.wav"))
    with pytest.raises(AudioError, match="is a folder"):
        load_audio(kind(tmp_path))
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav' is empty"):
        load_audio(kind(tmp_path / "empty.wav"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"Dear Anna,\nthis is a letter.\n" * 50),
        ("page.html", b"<!doctype html><html><body>404</body></html>"),
        ("numbers.json", b'{"a": [1, 2, 3]}'),
        ("zeros.wav", bytes(10_000)),
        ("short.mp3", b"ID3"),
        (
            "picture.png",
            base64.b64decode(
                "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
            ),
        ),
        ("header.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0"),
    ],
)
def test_content_that_is_not_audio_raises(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    with pytest.raises(AudioError, match="The audio"):
        load_audio(content)


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXTINF:3,\n{}\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_a_playlist_does_not_read_other_files(original, playlist):
    text = playlist.format(original) + "#EXT-X-ENDLIST\n"
    with pytest.raises(AudioError):
        load_audio(text.encode())


@pytest.mark.parametrize("name", ["concat:{}|{}", "file:{}", "subfile,,start,0,end,0,,:{}"])
def test_a_file_name_is_not_treated_as_a_protocol(original, name):
    with pytest.raises(AudioError, match="There is no file"):
        load_audio(name.format(original, original))


@pytest.mark.parametrize("rate", [16_000, 16_000.0, np.float32(16_000), np.int64(16_000), np.array(16_000.0)])
def test_arrays_are_read_with_their_rate_on_either_side(rate):
    samples = melody(4_000)
    for clip in (
        samples,
        samples[None],
        np.stack([samples, samples]),
        (samples * 32_768).astype(np.int64),
        samples[:, None],
    ):
        for pair in ((clip, rate), (rate, clip)):
            assert np.allclose(load_audio(pair), samples, atol=1e-4)


def test_nan_samples_raise(tmp_path):
    samples = melody(16_000)
    samples[100] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        load_audio((samples, 16_000))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((np.zeros(10), np.zeros(10)), "pair"),
        ((16_000, 16_000), "pair"),
        (([[0.0], [0.0, 1.0]], 16_000), "array"),
        ((np.zeros(10), 16_000.5), "sample rate"),
        ((np.zeros(10), "16000"), "sample rate"),
        ((np.zeros(0, np.float32), 16_000), "no samples"),
        ((np.zeros(1, np.float32), 48_000), "no samples"),
        ((np.zeros(10, np.float32), 0), "sample rate"),
        ((np.zeros(10, np.float32), 16_000, 1), "pair"),
        (None, "NoneType"),
        (3.5, "float"),
        ("data:audio/wav;base64", "comma"),
        ("data:audio/wav;base64,*", "base64"),
        ("ä" * 5_000, "neither"),
        ("a\0b", "no file|opened"),
        (b"", "empty"),
        ("", "folder|no file"),
    ],
)
def test_invalid_sources_raise(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source)


@pytest.mark.slow
def test_a_truncated_file_gives_the_samples_it_has(convert):
    for name, arguments in (("cut.mp3", ()), ("cut.flac", ()), ("cut.wav", ()), ("cut.opus", ("-c:a", "libopus"))):
        data = convert(name, *arguments).read_bytes()
        samples = load_audio(data[: len(data) // 2])
        assert 0.3 * SECONDS < len(samples) / SAMPLE_RATE < 0.75 * SECONDS


def test_a_damaged_tail_does_not_lose_the_valid_part(convert, caplog):
    data = bytearray(convert("damaged.mp3", "-b:a", "128k").read_bytes())
    data[len(data) * 3 // 4 :] = b"\xff\xfb\x90\x44" + b"\xff" * (len(data) - len(data) * 3 // 4 - 4)
    with caplog.at_level(logging.WARNING, logger="qwen_asr.audio.decode"):
        samples = load_audio(bytes(data))
    valid = melody(SAMPLE_RATE)[: 2 * SAMPLE_RATE]
    assert np.sqrt(np.mean((samples[: len(valid)] - valid) ** 2)) < 0.02


def test_an_unfinished_video_raises(video):
    data = video.read_bytes()
    with pytest.raises(AudioError, match="expected a recording"):
        load_audio(data[: data.index(b"moov")])


def assert_audio_or_error(data):
    """Any bytes give either samples or `AudioError`."""
    try:
        samples = load_audio(data)
    except AudioError:
        return
    assert samples.dtype == np.float32
    assert len(samples)
    assert np.isfinite(samples).all()


HEADERS = (b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3_000), header=st.sampled_from(HEADERS))
def test_any_bytes_give_audio_or_an_audio_error(data, header):
    assert_audio_or_error(header + data)


@pytest.fixture(scope="session")
def sounds(convert):
    return {kind: convert(f"any.{kind}").read_bytes() for kind in ("wav", "flac", "mp3", "m4a", "ogg")}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=60),
    kind=st.sampled_from(("wav", "flac", "mp3", "m4a", "ogg")),
)
def test_any_damage_gives_audio_or_an_audio_error(sounds, changes, kind):
    data = bytearray(sounds[kind])
    for position, value in changes:
        data[int(position * (len(data) - 1))] = value
    assert_audio_or_error(bytes(data))


# ---- URLs


@pytest.fixture
def server(original):
    """A local web server with a sound file, redirects and an endless file."""
    sound = original.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/sound.wav":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(sound)
            elif self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/sound.wav")
                self.end_headers()
            elif self.path == "/file":
                self.send_response(302)
                self.send_header("Location", original.as_uri())
                self.end_headers()
            elif self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                while not stop.wait(0.001):
                    try:
                        self.wfile.write(bytes(10_000))
                    except OSError:
                        return
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    stop = threading.Event()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    stop.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.slow
def test_a_url_is_fetched(server, original):
    expected = load_audio(original)
    assert np.array_equal(load_audio(f"{server}/sound.wav"), expected)
    assert np.array_equal(load_audio(f"{server}/moved"), expected)


@pytest.mark.slow
def test_a_404_response_raises(server):
    with pytest.raises(AudioError, match="answered 404"):
        load_audio(f"{server}/nothing.wav")


@pytest.mark.slow
def test_a_redirect_to_a_local_file_is_refused(server):
    with pytest.raises(AudioError, match="cannot be fetched"):
        load_audio(f"{server}/file")


@pytest.mark.slow
def test_a_download_is_limited_in_size_and_time(server, monkeypatch):
    monkeypatch.setattr(decode, "FETCH_BYTES", 100_000)
    with pytest.raises(AudioError, match="over 100000 bytes"):
        load_audio(f"{server}/endless")
    monkeypatch.setattr(decode, "FETCH_BYTES", 10**9)
    monkeypatch.setattr(decode, "FETCH_SECONDS", 0.3)
    with pytest.raises(AudioError, match=r"took over 0\.3 s"):
        load_audio(f"{server}/endless")


def test_a_refused_connection_raises():
    with pytest.raises(AudioError, match="cannot be fetched"):
        load_audio("http://127.0.0.1:1/sound.wav")


def test_an_open_file_in_memory_is_read(original):
    blocks = list(decode_blocks(io.BytesIO(original.read_bytes())))
    assert sum(map(len, blocks)) == round(SECONDS * SAMPLE_RATE)


def test_a_file_of_one_sample_raises(tmp_path):
    with pytest.raises(AudioError, match="no samples"):
        load_audio(write_wav(tmp_path / "one.wav", np.zeros(1), 48_000))
