"""Which sample format a stream has: each one is found when it is announced as another, and no sound raises an alarm."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import resample_poly

from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.stream_checks.sample_format import (
    NAMES,
    SHIFTED,
    FormatCheck,
    align_floats,
    decode,
    likely_name,
    roughness,
)
from tests.support.checkpoints import spoken

Signal = NDArray[np.float64]
SPEECH = np.concatenate([spoken("The meeting is on Monday the tenth of May."), spoken("Turn on the kitchen light.", 1)])
ANNOUNCED = ("s16le", "mulaw", "alaw", "f32le")
RATES = (8_000, 16_000, 48_000)


def speech(rate: int, level: float) -> Signal:
    """Two sentences with the noise of a quiet room; `level` is their peak."""
    samples = resample_poly(SPEECH.astype(np.float64), rate, 16_000)
    noise = np.random.default_rng(0).standard_normal(len(samples)) * 2e-4
    return np.asarray(samples / np.abs(samples).max() * level + noise, np.float64)


def encode(samples: Signal, encoding: str) -> bytes:
    """The samples in a format of `NAMES`."""
    clipped = np.clip(samples, -1, 1)
    if encoding in LAWS:
        order = np.argsort(LAWS[encoding], kind="stable")
        values = LAWS[encoding][order].astype(float)
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, clipped * 32_767)
        return bytes(order[nearest].astype("u1").tobytes())
    if encoding == "u8":
        return bytes((clipped * 127 + 128).round().astype("u1").tobytes())
    if encoding == "s24le":
        words = (clipped * (2**23 - 1)).round().astype("<i4")
        return bytes(words.view("u1").reshape(-1, 4)[:, :3].tobytes())
    kind = {"s16le": "<i2", "s16be": ">i2", "s32le": "<i4", "f32le": "<f4", "f32be": ">f4", "f64le": "<f8"}[encoding]
    if kind[1] == "f":
        return bytes(samples.astype(kind).tobytes())
    return bytes((clipped * (2 ** (8 * int(kind[2]) - 1) - 1)).round().astype(kind).tobytes())


def judge(data: bytes, announced: str, rate: int) -> str | None:
    """What the bytes look like, fed in pieces of 20 ms."""
    check = FormatCheck(announced, rate)
    size = len(decode(bytes(8), announced))
    piece = rate // 50 * (8 // size)
    for begin in range(0, len(data), piece):
        if (found := check.feed(data[begin : begin + piece])) is not None:
            return found
    return None


@pytest.mark.parametrize("name", NAMES)
def test_the_formats_are_read_as_they_are_written(name: str) -> None:
    samples = speech(16_000, 0.5)
    assert np.abs(decode(encode(samples, name), name) - samples).max() < (0.02 if name in (*LAWS, "u8") else 1e-4)
    assert roughness(samples) < 0.5


@pytest.mark.parametrize(
    ("rate", "level"), [(rate, level) for rate in RATES for level in (0.2 if rate == 48_000 else 0.05, 0.5, 0.9)]
)
def test_another_format_is_found(rate: int, level: float) -> None:
    samples = speech(rate, level)
    sent = {"s16le": ["s16be", "s24le", "s32le", "f32le", "f32be", "f64le"], "mulaw": ["s16le", "s16be", "f32le"]}
    sent["alaw"] = sent["mulaw"]
    if rate == 16_000:
        sent["s16le"] += ["mulaw", "alaw"]
    for announced, others in sent.items():
        for other in others:
            assert judge(encode(samples, other), announced, rate) == other, announced
    assert judge(b"\x07" + encode(samples, "s16le"), "s16le", rate) == SHIFTED


def test_an_8_bit_stream_is_found() -> None:
    for rate in RATES:
        for level in (0.3, 0.9):
            assert judge(encode(speech(rate, level), "u8"), "s16le", rate) == "u8"


@pytest.mark.parametrize("level", [0.001, 0.01, 0.1, 1.0, 4.0])  # the last is clipped
@pytest.mark.parametrize("announced", ANNOUNCED)
def test_speech_in_the_announced_format_is_no_alarm(announced: str, level: float) -> None:
    for rate in RATES:
        samples = np.clip(speech(rate, level), -1, 1)
        variants = [samples, np.diff(samples), samples * np.where(np.arange(len(samples)) % 2, 1, -1)]
        variants += [np.round(samples * 127) / 128, np.repeat(samples[::2], 2), np.where(samples > 0, 0.9, -0.9)]
        variants += [np.where(np.arange(len(samples)) % 2, samples, 0)]  # stereo with one silent channel
        for variant in variants:
            assert judge(encode(variant, announced), announced, rate) is None


def sounds(level: float, first: float, second: float, seed: int) -> Iterator[Signal]:
    """A second of everything that is no speech. Frequencies are shares of the sample rate, 0 to 0.5."""
    rng, time = np.random.default_rng(seed), np.arange(16_000)
    tone, other = np.sin(2 * np.pi * first * time + 0.3), np.sin(2 * np.pi * second * time)
    noise = rng.standard_normal(len(time))
    for sound in (
        tone, (tone + other) / 2, tone * other, np.sign(tone), 2 * ((first * time) % 1) - 1,
        (first * time) % 1 < 0.02, rng.uniform(-1, 1, len(time)), noise / 4, rng.choice([-1, 1], len(time)),
        rng.choice([-1, 0, 1], len(time)), np.diff(noise) / 6, np.cumsum(noise) / 300, rng.random(len(time)) < 0.01,
        np.round(noise * 30) / 128, tone * (rng.random(len(time)) < 0.5), 0.3 * tone + 0.1 * noise,
        np.sin(2 * np.pi * first * time * time / 32_000), np.zeros(len(time)), np.full(len(time), first),
    ):  # fmt: skip
        yield np.clip(np.asarray(sound, np.float64) * level, -1, 1)


frequencies = st.floats(0.001, 0.5) | st.sampled_from([0.5, 0.25, 1 / 3, 0.4999, 0.498, 0.125])
levels = st.floats(1e-4, 1.0) | st.sampled_from([1.0, 0.5, 16_000 / 32_768, 0.25, 1 / 256])


@settings(deadline=None, max_examples=int(os.environ.get("FUZZ_FRAMES", "400")) // 50)
@given(levels, frequencies, frequencies, st.integers(0, 1_000))
def test_no_sound_is_an_alarm(level: float, first: float, second: float, seed: int) -> None:
    for sound in sounds(level, first, second, seed):
        for announced in ANNOUNCED:
            assert judge(encode(sound, announced), announced, 16_000) is None


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=1, max_size=50), st.integers(0, 3))
def test_random_bytes_are_no_alarm(pattern: bytes, seed: int) -> None:
    random = np.random.default_rng(seed).bytes(32_000)
    for announced in ANNOUNCED:
        assert judge(random, announced, 16_000) is None
        repeated = pattern * (32_000 // len(pattern))
        assert judge(repeated, announced, 16_000) in (None, *NAMES, SHIFTED)  # whatever it is, it is answered


@pytest.mark.parametrize("stray", [1, 2, 3])
def test_floats_are_aligned_after_stray_bytes(stray: int) -> None:
    data = encode(speech(16_000, 0.5), "f32le")[:4_000]
    for begin in (0, 4, 1_000, 1_001, 3_500):
        aligned = align_floats(data[:begin] + b"\xff" * stray + data[begin:])
        assert aligned is not None
        assert len(aligned) in (len(data), len(data) - 4, len(data) + 4)
        assert aligned[-400:] == data[-400:]
    assert align_floats(data) is None


@pytest.mark.parametrize("name", ["s16le", "s16be", "s32le", "f32be", "f64le"])
def test_what_is_no_float_has_a_likely_name(name: str) -> None:
    data = encode(speech(16_000, 0.5)[4_000:6_000], name)
    assert align_floats(data) is None
    assert likely_name(data) == name
