"""Any rate to 16 kHz, in pieces of any size: the result does not depend on how the samples were chunked.

A polyphase windowed-sinc filter. Output sample `n` stands at input position ``n * rate / 16000`` and is the dot
product of the inputs around that position with the filter shifted to it. Each is computed from its absolute
position and always from the same number of inputs, so chunked == whole holds bit for bit. (`soxr` streams exactly
too, but holds back 37 to 118 ms at the qualities that suit speech; this one holds back 4 ms from 48 kHz, 8 ms
from 8 kHz.)
"""

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.errors import AudioError

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
MOST_CHANNELS = 64
# Far above any real recording, far below what overflows: int16 values in a float array, or bytes of one sample
# format read as another, are named as such instead of being transcribed as noise.
LOUDEST = 256.0

# The filter: 64 zero crossings a side, 80 dB down at the lower of the two Nyquist frequencies, flat to 0.92 of it.
_CROSSINGS = 64
_CUTOFF = 0.96
_KAISER_BETA = 7.857
# Rates with more phases than this share the phases of a fine grid, interpolated linearly (-106 dB): 44,099 Hz has
# 16,000 phases, and a table of its own for each odd rate that somebody names would cost tens of megabytes.
_MOST_PHASES = 640
_GRID = 512
_BLOCK = 4_096  # outputs computed at once, which bounds the scratch memory


def to_mono(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of shape (n,) or (n, channels) as float32 mono (n,), the mean of the channels.

    uint8 (128 is zero), int16, int32 and int64 are scaled to -1..1; float32 and float64 are taken as they are.
    Raises `AudioError` for another shape or type, for NaN or infinity, and for floats beyond any recording.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS):
        raise AudioError(
            f"The samples have the shape {samples.shape}; expected (samples,) or (samples, channels) with at most "
            f"{MOST_CHANNELS} channels: transpose the array if channels come first."
        )
    scaled = _scaled(samples)
    if scaled.ndim == 2:
        # Channel after channel: the order of the additions must not depend on the block's length or layout.
        total = scaled[:, 0].copy()
        for channel in range(1, scaled.shape[1]):
            total += scaled[:, channel]
        scaled = total / np.float32(scaled.shape[1])
    if samples.dtype.kind == "f":
        _check(scaled)
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _scaled(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The same shape in float32, integers scaled to -1..1."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinity and is reported by `_check`
            return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype.kind == "i":
        # A power of two: the division is exact, whether before or after the rounding to float32.
        return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    raise AudioError(f"The samples are of type {samples.dtype}; expected float32, float64, int16, int32 or uint8.")


def _check(mono: NDArray[np.float32]) -> None:
    """Raise `AudioError` unless every sample is finite and of a believable level."""
    if mono.size == 0:
        return
    peak = float(np.max(np.abs(mono)))  # NaN if any sample is
    if not np.isfinite(peak):
        raise AudioError(
            "The audio holds NaN or infinite samples; expected numbers in -1..1: check that the sample format is the "
            "one announced (16-bit integers read as floats look like this)."
        )
    if peak > LOUDEST:
        raise AudioError(
            f"The audio has floating-point samples of {peak:.0f}; expected -1..1: divide 16-bit values by 32768, or "
            "pass them as int16."
        )


class StreamingResampler:
    """One stream of float32 mono at `rate` Hz to 16 kHz; `feed` gives what is now known, `finish` the rest.

    The outputs of all calls together are ``round_half_up(fed * 16000 / rate)`` samples, aligned with the input in
    time. 16 kHz passes through untouched. Raises `AudioError` for a rate outside 4,000 to 384,000 Hz.
    """

    def __init__(self, rate: int) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"A sample rate of {rate!r} Hz cannot be used; expected a whole number from {LOWEST_RATE} to "
                f"{HIGHEST_RATE}: record at 16000 or 48000."
            )
        self.rate = int(rate)
        self.received = 0
        self._done = 0
        self._finished = False
        common = gcd(self.rate, SAMPLE_RATE)
        self._up, self._down = SAMPLE_RATE // common, self.rate // common
        if self.rate != SAMPLE_RATE:
            self._table = _filters(self.rate)
            self._half = self._table.shape[1] // 2
            self._base = 1 - self._half  # absolute position of _held[0]; before the stream there is silence
            self._held = np.zeros(self._half - 1, np.float32)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take float32 mono (n,), n >= 0; return the 16 kHz samples that are now certain, (m,), m >= 0."""
        if self._finished:
            raise RuntimeError("this resampler was finished; make a new one for a new stream")
        samples = np.asarray(samples, dtype=np.float32)
        self.received += len(samples)
        if self.rate == SAMPLE_RATE:
            self._done = self.received
            return samples
        self._held = np.concatenate((self._held, samples))
        # Output n needs the inputs up to floor(n * down / up) + half.
        return self._upto(-(-max(0, self.received - self._half) * self._up // self._down))

    def finish(self) -> NDArray[np.float32]:
        """The rest, as if silence followed; may be called once more in vain."""
        total = (2 * self.received * SAMPLE_RATE + self.rate) // (2 * self.rate)
        if self.rate == SAMPLE_RATE or self._finished:
            self._finished = True
            return np.zeros(0, np.float32)
        self._finished = True
        # The last output may stand up to one output period behind the last input.
        silence = np.zeros(self._half + self._down // self._up + 2, np.float32)
        self._held = np.concatenate((self._held, silence))
        return self._upto(total)

    def _upto(self, end: int) -> NDArray[np.float32]:
        """Outputs from the first not yet computed to `end`; forget the inputs that none needs any more."""
        blocks = [self._outputs(n, min(n + _BLOCK, end)) for n in range(self._done, end, _BLOCK)]
        self._done = max(self._done, end)
        keep = self._done * self._down // self._up - self._half + 1
        self._held = self._held[keep - self._base :]
        self._base = keep
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _outputs(self, begin: int, end: int) -> NDArray[np.float32]:
        """Outputs [begin, end). `vecdot` is one dot product of fixed length a row, so rows cannot influence another."""
        windows = sliding_window_view(self._held, 2 * self._half)
        places = np.arange(begin, end, dtype=np.int64) * self._down
        first = places // self._up - self._half + 1 - self._base  # index in _held of each output's first input
        if self._up == 1:
            rows = windows[first[0] : first[-1] + 1 : self._down]  # a view: no copy for 32, 48, 96 kHz
            return np.asarray(np.vecdot(rows, self._table[0]), dtype=np.float32)
        rows = windows[first]
        phase = places % self._up
        if self._up <= _MOST_PHASES:
            return np.asarray(np.vecdot(rows, self._table[phase]), dtype=np.float32)
        grid, between = np.divmod(phase * _GRID, self._up)
        share = (between / self._up).astype(np.float32)
        low, high = np.vecdot(rows, self._table[grid]), np.vecdot(rows, self._table[grid + 1])
        return np.asarray(low + share * (high - low), dtype=np.float32)


@lru_cache(maxsize=16)
def _filters(rate: int) -> NDArray[np.float32]:
    """The filter at each phase, shape (phases, taps): row p weighs the inputs around a point p/phases past one.

    Kaiser-windowed sinc; each row sums to one, so that a constant stays that constant at every phase.
    """
    up = SAMPLE_RATE // gcd(rate, SAMPLE_RATE)
    steps = up if up <= _MOST_PHASES else _GRID
    rows = up if up <= _MOST_PHASES else _GRID + 1
    width = _CROSSINGS * max(1.0, rate / SAMPLE_RATE)
    half = int(np.ceil(width))
    distance = np.arange(1 - half, half + 1)[None, :] - np.arange(rows)[:, None] / steps  # in input samples
    cutoff = _CUTOFF * min(1.0, SAMPLE_RATE / rate)  # 1 is the input's Nyquist frequency
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (distance / width) ** 2)))
    table = np.sinc(cutoff * distance) * np.where(np.abs(distance) <= width, window, 0.0)
    return np.asarray(table / table.sum(axis=1, keepdims=True), dtype=np.float32)
