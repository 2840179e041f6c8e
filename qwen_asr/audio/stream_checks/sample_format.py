"""Recognizes a stream of raw samples whose sample format is not the announced one, by how smooth its samples are.

Sound changes little from one sample to the next: `roughness`, the energy of the differences over that of the samples,
is 2 for white noise and 0.1 to 0.6 for voiced speech. Bytes that are read in a wrong format are noise, and smooth in
the right one. Sound in the announced format may be noise too, such as a fricative, but it is then not smooth in any
other format, because its low bytes are noise there. The other conditions exclude sound that is made of few values or
of exact steps. The thresholds were found with speech in each of the formats, read as each other one, at 8 to 48 kHz
and levels from -46 dB to clipping, and with tones, noise, clicks and square waves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.g711 import LAWS

_WINDOW_SECONDS = 0.1
_ROUGH, _ROUGHEST = 0.9, 2.6  # the announced format; a tone near half the sample rate is rougher than noise
_SMOOTH = 0.65  # another format
_PLAUSIBLE = 0.6  # the announced format is right
_AUDIBLE = 0.02  # root mean square below which a window says nothing; bytes in a wrong format are loud
_LOW_NOISE, _LOUD = 1.2, 0.05  # least roughness and level of the low part of the other format
_VOTES = 5

_CENTERED, _MOSTLY_QUIET = 0.1, 0.35  # of unsigned 8-bit speech: its mean, and its mean size; random bytes have 0.5
_WHITE_PEAK = 30.0  # 16-bit samples with exchanged bytes are noise without a tone, unlike some sawtooths
_DISTINCT_BYTES = 32  # least number in a window: clicks and square waves have a few, which any format may draw smooth

_TYPES = {"s16le": "<i2", "s16be": ">i2", "s32le": "<i4", "f32le": "<f4", "f32be": ">f4", "f64le": "<f8"}
_SIZES = {"s16le": 2, "s16be": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f32be": 4, "f64le": 8}  # in bytes; others 1
SHIFTED = "shifted"
"""The samples are the announced ones, but a stray byte came before them."""
NAMES = {
    "s16le": "signed 16-bit little endian (s16le)",
    "s16be": "signed 16-bit big endian (s16be)",
    "s24le": "signed 24-bit (s24le)",
    "s32le": "signed 32-bit (s32le)",
    "f32le": "float32 little endian (f32le)",
    "f32be": "float32 big endian (f32be)",
    "f64le": "float64 (f64le)",
    "u8": "unsigned 8-bit (u8)",
    "mulaw": "µ-law (mulaw)",
    "alaw": "A-law (alaw)",
}
_CANDIDATES = {
    "s16le": [(SHIFTED, "s16le", 1), *((name, name, 0) for name in NAMES if name != "s16le")],
    "mulaw": [("s16le", "s16le", 0), ("s16le", "s16le", 1), ("s16be", "s16be", 0), ("f32le", "f32le", 0)],
}
_CANDIDATES["alaw"] = [*_CANDIDATES["mulaw"], ("mulaw", "mulaw", 0)]
_CANDIDATES["mulaw"] = [*_CANDIDATES["mulaw"], ("alaw", "alaw", 0)]
_FLOAT_LEVEL = 8.0  # no recording in floats is louder; the limit of `validation` is far higher
_REALIGNED_SAMPLES = 16  # of random bytes an eighth pass for floats, so that so many never do


class FormatCheck:
    """Watches the bytes of a stream that is announced as `encoding`. It holds a tenth of a second of them.

    For float32 it does nothing: bytes of another format are soon no numbers, see `align_floats` and `likely_name`.
    """

    def __init__(self, encoding: str, rate: int) -> None:
        self._encoding = encoding
        # A multiple of all sizes, so that each window begins at the same place of a sample.
        self._window = max(24, round(_WINDOW_SECONDS * rate) * _SIZES.get(encoding, 1) // 24 * 24)
        self._held = bytearray()
        self._votes: dict[tuple[str, int], list[float]] = {}

    def feed(self, data: bytes) -> str | None:
        """Takes whole samples. Returns one of `NAMES`, or `SHIFTED`, once half a second of sound agrees; else None."""
        if self._encoding not in _CANDIDATES:
            return None
        self._held += data
        found = None
        while len(self._held) >= self._window and found is None:
            window = bytes(self._held[: self._window])
            del self._held[: self._window]
            found = self._judge(window)
        return found

    def restart(self) -> None:
        """Forgets what came before."""
        self._held.clear()
        self._votes.clear()

    def _judge(self, window: bytes) -> str | None:
        announced = decode(window, self._encoding)
        rough = roughness(announced)
        if not _level(announced) > _AUDIBLE:
            return None
        if self._encoding == "s16le" and _is_unsigned(window):
            candidates = [("u8", 0, roughness(decode(window, "u8")))]
        elif _ROUGH < rough < _ROUGHEST:
            candidates = smooth_candidates(window, self._encoding, rough)
        else:
            if rough < _PLAUSIBLE:
                self._votes.clear()
            return None
        for name, begin, other in candidates:
            self._votes.setdefault((name, begin), []).append(other)
        elected = {key: votes for key, votes in self._votes.items() if len(votes) >= _VOTES}
        if not elected:
            return None
        # Two short samples may pass for a long one. Of one length, the right format is the smoothest.
        found = min(elected, key=lambda key: (_SIZES.get(key[0], 2), float(np.median(elected[key]))))
        self.restart()
        return found[0]


def smooth_candidates(window: bytes, announced: str, rough: float) -> list[tuple[str, int, float]]:
    """The other formats in which these bytes are smooth: name, where samples begin, and roughness.

    `rough` is the roughness in the announced format.
    """
    found: list[tuple[str, int, float]] = []
    if len(set(window)) < _DISTINCT_BYTES:
        return found
    is_white = _spectral_peak(decode(window, announced)) < _WHITE_PEAK
    for name, encoding, begin in _CANDIDATES[announced]:
        if _SIZES.get(encoding, 1) == _SIZES.get(announced, 1) == 2 and not is_white:
            continue
        data = window[begin:]
        samples = decode(data, encoding)
        if encoding[0] == "f" and not _are_floats(samples):
            continue
        other = roughness(samples)
        if 0 < other < min(_SMOOTH, rough / 2) and _has_noisy_low_part(data, encoding, announced):
            found.append((name, begin, other))
    return found


def _is_unsigned(window: bytes) -> bool:
    """Whether the bytes are smooth around 128, as unsigned 8-bit samples are. Read as 16 bits they are not very rough,
    since half of them count; but those have their zero at 0, and low bytes that are noise."""
    samples = decode(window, "u8")
    is_centered = abs(float(samples.mean())) < _CENTERED and float(np.abs(samples).mean()) < _MOSTLY_QUIET
    return is_centered and len(set(window)) >= _DISTINCT_BYTES and 0 < roughness(samples) < _SMOOTH


def likely_name(data: bytes) -> str | None:
    """For bytes that are no float32 little endian: the smoothest of the other formats, if one is smooth."""
    if len(set(data)) < _DISTINCT_BYTES:
        return None
    found = []
    for name in NAMES:
        samples = decode(data, name)
        if name != "f32le" and (name[0] != "f" or _are_floats(samples)) and 0 < (rough := roughness(samples)) < _SMOOTH:
            found.append((rough, name))
    return min(found)[1] if found else None


def align_floats(data: bytes) -> bytes | None:
    """The bytes of a float32 stream without the stray ones, of which up to three came at one place; None if that is
    not what is wrong with them."""
    samples = decode(data, "f32le")
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~(np.abs(samples) < _FLOAT_LEVEL))
    if not len(wrong):
        return None
    begin = 4 * int(wrong[0])
    if len(data) - begin < 4 * (_REALIGNED_SAMPLES + 1):
        return None
    # Big endian floats, read from their last byte on, are nearly smooth too.
    found = [(roughness(decode(data[begin:], "f32be")), b"")] if _are_floats(decode(data[begin:], "f32be")) else []
    for stray in (1, 2, 3):
        rest = data[begin + stray :]
        if _are_floats(samples := decode(rest, "f32le")):
            found.append((roughness(samples), rest))
    rest = min(found)[1] if found else b""
    return data[:begin] + rest if rest else None


def roughness(samples: NDArray[np.float64]) -> float:
    """Energy of the differences of neighbors over that of the samples without their mean: 0 to 4, of noise 2."""
    centered = samples - samples.mean()
    energy = float(centered @ centered)
    differences = np.diff(samples)
    return float(differences @ differences) / energy if energy > 0 else 0.0


def _level(samples: NDArray[np.float64]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(samples * samples))) if len(samples) else 0.0


def _spectral_peak(samples: NDArray[np.float64]) -> float:
    """The strongest frequency's power over the mean power: 5 to 10 for noise, hundreds for a tone or a sawtooth."""
    power = np.abs(np.fft.rfft((samples - samples.mean()) * np.hanning(len(samples)))) ** 2
    mean = float(power.mean())
    return float(power.max()) / mean if mean > 0 else 0.0


def decode(data: bytes, encoding: str) -> NDArray[np.float64]:
    """The samples of these bytes, (n,), about -1..1. The bytes of an incomplete sample at the end are left out."""
    size = _SIZES.get(encoding, 1)
    data = data[: len(data) // size * size]
    if encoding in LAWS:
        return np.take(LAWS[encoding], np.frombuffer(data, "u1")).astype(np.float64) / 32768.0
    if encoding == "u8":
        return np.frombuffer(data, "u1") / 128.0 - 1.0
    if encoding == "s24le":
        triples = np.frombuffer(data, "u1").reshape(-1, 3).astype(np.int32)
        return ((triples[:, 0] << 8 | triples[:, 1] << 16 | triples[:, 2] << 24) >> 8) / 2.0**23
    values = np.frombuffer(data, _TYPES[encoding])
    if encoding[0] == "f":
        with np.errstate(all="ignore"):
            return values.astype(np.float64)
    return values.astype(np.float64) / 2.0 ** (8 * size - 1)


def _are_floats(samples: NDArray[np.float64]) -> bool:
    """Whether nearly all have sizes that audio has: of random bytes an eighth do."""
    with np.errstate(invalid="ignore"):
        level = np.abs(samples)
        usual = (level == 0) | ((level > 1e-9) & (level < 8.0))
    return bool(np.all(usual)) and bool(np.any(level > 1e-4))


def _has_noisy_low_part(data: bytes, encoding: str, announced: str) -> bool:
    """Where samples are longer than the announced ones: whether their low part is noise, unlike their high part.

    Samples of sound that are read two at a time have sound in both parts: a tone near half the sample rate then seems
    smooth.
    """
    size, short = _SIZES.get(encoding, 1), _SIZES.get(announced, 1)
    if size <= short:
        return True
    parts = np.frombuffer(data[: len(data) // size * size], "u1").reshape(-1, size)
    low = parts[:, size - short :] if encoding.endswith("be") else parts[:, :short]
    noise = decode(low.tobytes(), announced)
    return roughness(noise) > _LOW_NOISE and _level(noise) > _LOUD
