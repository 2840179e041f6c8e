"""Speech synthesis with the voices of espeak-ng and flite, as float32 mono at 16 kHz.

Both are Debian packages. Training never uses the voices in `HELD_OUT`; benchmarks and tests use only those.
"""

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000

ESPEAK_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
ESPEAK_VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m8",
    "f1",
    "f2",
    "f4",
    "f5",
    "Alex",
    "Alicia",
    "Andrea",
    "Michael",
    "Mike",
    "adam",
    "belinda",
    "david",
    "linda",
    "steph",
    "victor",
    "klatt2",
    "klatt4",
)
FLITE_VOICES = ("kal16", "awb", "rms", "slt")

HELD_OUT_VARIANTS = ("m5", "m7", "f3", "Annie", "edward", "paul", "robert", "anika")


@dataclass(frozen=True)
class Voice:
    """A voice. `engine` is "espeak" or "flite"; `speed` is in words per minute; `pitch` is 0..99 (espeak only)."""

    engine: str
    name: str
    speed: int = 160
    pitch: int = 50


HELD_OUT = tuple(
    Voice("espeak", f"{accent}+{variant}", speed, 50)
    for (accent, variant), speed in zip(
        ((accent, variant) for variant in HELD_OUT_VARIANTS for accent in ("en-us", "en-gb")),
        (150, 165, 140, 175) * 4,
        strict=True,
    )
)


def require(*programs: str) -> None:
    """Raise `FileNotFoundError` with the name of the Debian package if a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not installed: run `apt-get install {program}`")


def speak(text: str, voice: Voice) -> NDArray[np.float32]:
    """Synthesize `text`: float32 mono at 16 kHz, shape (samples,), about -1..1."""
    if voice.engine == "espeak":
        command = ["espeak-ng", "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout", text]
    else:
        stretch = 160 / voice.speed
        command = [
            "flite",
            "-voice",
            voice.name,
            "--setf",
            f"duration_stretch={stretch:.3f}",
            "-t",
            text,
            "-o",
            "/dev/stdout",
        ]
    require(command[0])
    done = subprocess.run(command, check=True, capture_output=True)
    return to_16k(*read_wave(done.stdout))


def read_wave(data: bytes) -> tuple[NDArray[np.float32], int]:
    """16-bit mono WAV bytes → (samples, rate). Ignores the length in the header, which is wrong for a stream."""
    with wave.open(io.BytesIO(data)) as reader:
        rate = reader.getframerate()
    body = data[data.index(b"data") + 8 :]
    pcm = np.frombuffer(body[: len(body) // 2 * 2], dtype="<i2")
    samples: NDArray[np.float32] = pcm.astype(np.float32) / np.float32(32768)
    return samples, rate


def to_16k(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample a whole clip to 16 kHz (polyphase)."""
    if rate == SAMPLE_RATE:
        return samples
    common = gcd(rate, SAMPLE_RATE)
    resampled: NDArray[np.float32] = resample_poly(samples, SAMPLE_RATE // common, rate // common).astype(np.float32)
    return resampled
