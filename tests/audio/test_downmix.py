"""Channels to mono: film sound as FFmpeg mixes it, inverted stereo, one channel; the same for frames of any length."""

from __future__ import annotations

import io
import logging
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_asr.audio.decode import decode_blocks, load_audio
from qwen_asr.audio.downmix import Downmix
from qwen_asr.audio.tracks import SoundChoice
from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError
from tests.support.media import Samples, Track, container, tone

FILMS = ["2.1", "3.0", "4.0", "quad", "5.0", "5.1", "5.1(side)", "6.1", "7.0", "7.1", "7.1(wide)"]
RATE = 16_000


def names(layout: str) -> list[str]:
    return [channel.name for channel in av.AudioLayout(layout).channels]


def mixed(samples: NDArray[Any], layout: list[str], sizes: list[int], channel: int | None = None) -> Samples:
    """The mix of samples in frames of these sizes, and the rest in one."""
    mix, parts, begin = Downmix(layout, RATE, "film.mkv", channel), [], 0
    for size in [*sizes, len(samples)]:
        parts += [*mix.feed(samples[begin : begin + size])]
        begin += size
    return np.concatenate([*parts, *mix.finish()])


def ffmpegs_weights(layout: str) -> list[float]:
    """What FFmpeg's resampler makes of a constant in each channel, in floating point, which it does not scale."""
    weights = []
    for index in range(len(names(layout))):
        block = np.zeros((64, len(names(layout))), np.float32)
        block[:, index] = 0.25
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = RATE
        (out,) = av.AudioResampler(format="fltp", layout="mono").resample(frame)
        weights.append(float(out.to_ndarray()[0, 32]) / 0.25)
    return weights


@pytest.mark.parametrize("layout", FILMS)
def test_film_sound_is_mixed_as_ffmpeg_does(layout: str) -> None:
    expected = np.array(ffmpegs_weights(layout))
    ours = mixed(np.eye(len(expected), dtype=np.float32), names(layout), [])
    assert ours == pytest.approx(expected / expected.sum(), abs=1e-6)


@pytest.mark.parametrize("layout", FILMS)
def test_film_sound_at_full_scale_does_not_clip(layout: str) -> None:
    loudest = np.full((10, len(names(layout))), -32768, np.int16)
    assert np.abs(mixed(loudest, names(layout), [])).max() <= 1 + 1e-6


def test_low_frequency_effects_are_left_out() -> None:
    samples = np.zeros((100, 6), np.float32)
    samples[:, 3] = 0.9
    assert not mixed(samples, names("5.1"), []).any()


@pytest.mark.parametrize("layout", [["NONE"] * 6, names("22.2"), ["FL", "FR", "FC", "???"]])
def test_channels_that_the_standard_does_not_name_are_averaged(layout: list[str]) -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, (1000, len(layout))).astype(np.float32)
    assert np.array_equal(mixed(samples, layout, [7, 100]), to_mono(samples))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize(("kind", "scale"), [("i2", 30_000), ("f4", 1), ("u1", 100)])
def test_mono_and_stereo_are_those_of_live_audio(layout: str, kind: str, scale: int) -> None:
    noise = np.random.default_rng(2).uniform(0, 1, (2 * RATE + 77, len(names(layout))))
    samples: NDArray[Any] = (noise * scale).astype(kind)
    assert np.array_equal(mixed(samples, names(layout), [1, 15_998, 1, 3]), to_mono(samples))


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 20_000), max_size=8), layout=st.sampled_from(["stereo", "5.1", "7.1"]))
def test_frames_of_any_length_give_the_same_samples(sizes: list[int], layout: str) -> None:
    rng = np.random.default_rng(3)
    samples = rng.uniform(-1, 1, (3 * RATE, len(names(layout)))).astype(np.float32)
    samples[RATE // 2 : 2 * RATE, 1] = -samples[RATE // 2 : 2 * RATE, 0]  # inverted for a while
    assert np.array_equal(mixed(samples, names(layout), sizes), mixed(samples, names(layout), []))


@pytest.mark.parametrize("gain", [-1, -0.99, -0.7, -1.4])
def test_inverted_stereo_is_heard_on_one_side(gain: float, caplog: pytest.LogCaptureFixture) -> None:
    speech = tone(3.3, (0.4, 1.2, 2.5))
    samples = np.stack([speech, speech * np.float32(gain)], axis=1)
    assert np.array_equal(mixed(samples, ["FL", "FR"], [100]), speech)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "inverted" in caplog.text
    content = container("wav", Track(samples, layout="stereo"))
    assert np.abs(load_audio(content) - speech).max() < 1e-4


def test_inverted_stereo_in_noise_is_found() -> None:
    rng = np.random.default_rng(6)
    speech, noise = rng.standard_normal(2 * RATE) * 0.1, rng.standard_normal((2 * RATE, 2)) * 0.03
    samples = np.stack([speech, -speech], axis=1) + noise
    assert np.array_equal(mixed(samples, ["FL", "FR"], []), to_mono(samples[:, 0]))


def test_stereo_that_is_inverted_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    left = np.random.default_rng(4).uniform(-1, 1, 6 * RATE).astype(np.float32)
    right = left * np.repeat(np.array([1, -1, 0, -1, 1, 1], np.float32), RATE)
    left[2 * RATE : 3 * RATE] = 0  # a silent window changes nothing
    out = mixed(np.stack([left, right], axis=1), ["FL", "FR"], [])
    second = np.arange(6 * RATE) // RATE
    assert np.array_equal(out[second == 0], left[second == 0])
    assert np.array_equal(out[(second >= 1) & (second <= 3)], left[(second >= 1) & (second <= 3)])
    assert np.array_equal(out[second >= 4], ((left + right) / 2)[second >= 4])


def test_one_side_alone_and_wide_stereo_are_averaged(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(5)
    for samples in (
        np.stack([rng.uniform(-1, 1, RATE), np.zeros(RATE)], axis=1),
        rng.uniform(-1, 1, (RATE, 2)),
        np.zeros((RATE, 2)),
        np.stack([np.full(RATE, 5e-5), np.full(RATE, -5e-5)], axis=1),  # noise of a converter, not sound
    ):
        assert np.array_equal(mixed(samples, ["FL", "FR"], []), to_mono(samples))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("channel", "index"),
    [(1, 0), (6, 5), ("left", 0), ("RIGHT", 1), ("center", 2), ("centre", 2), ("LFE", 3), ("fr", 1), ("BR", 5)],
)
def test_one_channel(channel: int | str, index: int) -> None:
    samples = np.stack([tone(0.2) * gain for gain in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)], axis=1)
    content = container("matroska", Track(samples, codec="flac", layout="5.1"))
    blocks = decode_blocks(io.BytesIO(content), choice=SoundChoice(channel=channel))
    assert np.concatenate(list(blocks)) == pytest.approx(samples[:, index], abs=1e-3)
    assert load_audio(content, channel=channel) == pytest.approx(samples[:, index], abs=1e-3)


@pytest.mark.parametrize("channel", [0, 3, -1, "center", "SL", "x"])
def test_a_channel_that_is_not_there(channel: int | str) -> None:
    content = container("wav", Track(np.zeros((100, 2), np.float32), layout="stereo"))
    with pytest.raises(AudioError, match=r"has no channel .*; its track has the channels 1 \(FL\), 2 \(FR\)"):
        load_audio(content, channel=channel)


@pytest.mark.parametrize(("codec", "layout"), [("aac", "7.1"), ("libopus", "7.1"), ("aac", "5.1"), ("flac", "7.1")])
def test_every_channel_of_a_coded_film_is_found(codec: str, layout: str) -> None:
    """Decoders give planes or packed samples. PyAV itself crashes on eight planes."""
    gains = np.linspace(0.1, 0.8, len(names(layout)))
    samples = (tone(0.5, rate=48_000, level=1.0)[:, None] * gains).astype(np.float32)
    content = container("matroska", Track(samples, 48_000, codec, layout))
    for index, name in enumerate(names(layout)):
        if name != "LFE":  # it is coded without the tone
            middle = load_audio(content, channel=name)[4000:5000]
            assert np.abs(middle).max() == pytest.approx(gains[index], rel=0.15)


def test_samples_of_64_bits() -> None:
    content = container("wav", Track(tone(0.2), codec="pcm_s64le"))
    assert load_audio(content) == pytest.approx(tone(0.2), abs=1e-6)
