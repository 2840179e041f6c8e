"""Validates audio samples at the edges: any array to float32 mono, or an error that says what is wrong.

Samples are validated once, where they enter: `load_audio` and `decode_blocks` (files), `PcmStream` (network), the
Python API and `Session.feed`. Everything behind these edges takes validated samples: float32, mono, finite, shape (n,).

`to_mono` is for samples whose format is known. `ArrayReader` is for arrays of a program, which may have channels first,
or 16-bit values in a wider integer type.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.errors import AudioError

log = logging.getLogger(__name__)

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
"""Sample rates that are accepted, in Hz."""
MAX_CHANNELS = 64
MAX_LEVEL = 256.0
"""Far above any recording and far below overflow. It detects int16 values in a float array, and bytes of one sample
format that are read as another: these get an error instead of being transcribed as noise."""

MOST_CHANNELS_FIRST = 8
"""An array (n, m) with n up to this and below m has channels first. The same rule is in Qwen's own package."""
_INT16_PEAK = 1 << 15
_INT32_PEAK = 1 << 31
_24_BIT_STEP = 1 << 8
"""24-bit samples in int32 are multiples of this: their lowest eight bits are zero."""


class ArrayReader:
    """Reads the arrays of one clip or stream: any layout and number type to float32 mono.

    Beyond what `to_mono` takes, it understands channels first, (channels, n) with at most `MOST_CHANNELS_FIRST`
    channels, and integers in a type that is wider than their scale: int32 or int64 with no value beyond ±32768 has the
    scale of int16, and int64 with none beyond ±2^31 that of int32. At the scale of their type such values are below
    -90 dB, which no speech is. Multiples of 256 are the exception: they are the silence of a 24-bit recording. Floats
    beyond ±1 that are all whole numbers have the scale of int16 too. What is found is logged once, and holds for the
    following arrays of the stream as long as they fit it.
    """

    def __init__(self) -> None:
        self._channels: tuple[int, int] | None = None  # the axis of the channels in the last array, and how many
        self._peak: int | None = None  # the full scale of integers, once it is known
        self._floats_of_int16 = False

    def read(self, samples: Any) -> NDArray[np.float32]:
        """The samples as float32 mono, (n,), n >= 0. Raises `AudioError` as `to_mono` does."""
        array = as_array(samples)
        if array.ndim == 2:
            array = self._with_channels_last(array) if array.size else array.reshape(-1)
        if array.dtype.kind == "i" and array.dtype.itemsize > 2 and array.size:
            array = self._at_its_scale(array)
        elif array.dtype.kind == "f" and array.size:
            array = self._without_int16_values(array)
        return to_mono(array)

    def _with_channels_last(self, array: NDArray[Any]) -> NDArray[Any]:
        # The last block of a stream may be shorter than it has channels: the one before it tells where they are.
        if self._channels is None or array.shape[self._channels[0]] != self._channels[1]:
            axis = 0 if array.shape[0] <= MOST_CHANNELS_FIRST and array.shape[0] < array.shape[1] else 1
            self._channels = axis, array.shape[axis]
        return array if self._channels[0] == 1 else array.T

    def _at_its_scale(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """Wide integers as numbers in -1..1."""
        peak = max(int(array.max()), -int(array.min()))
        if self._peak is not None and peak <= self._peak:
            return array / self._peak
        full = 1 << (8 * array.dtype.itemsize - 1)
        if peak <= _INT16_PEAK and not np.any(array % _24_BIT_STEP):  # silence, which tells nothing of what follows
            return array / min(full, _INT32_PEAK)
        self._peak = next(scale for scale in (_INT16_PEAK, _INT32_PEAK, full) if peak <= scale)
        if self._peak < full:
            text = "The samples are %s with values up to %d: read as %d-bit samples."
            log.warning(text, array.dtype, peak, self._peak.bit_length())
        return array / self._peak

    def _without_int16_values(self, array: NDArray[Any]) -> NDArray[Any]:
        """Floats in -1..1, where they had the values of int16; others as they are."""
        peak = float(np.abs(array).max())  # NaN if any sample is NaN, which compares false
        if not self._floats_of_int16 and 1 < peak <= _INT16_PEAK and np.array_equal(array, np.rint(array)):
            self._floats_of_int16 = True
            log.warning("The samples are %s with whole numbers up to %g: read as 16-bit samples.", array.dtype, peak)
        return array / _INT16_PEAK if self._floats_of_int16 and peak <= _INT16_PEAK else array


def as_array(samples: Any) -> NDArray[Any]:
    """The samples as an array of NumPy. Raises `AudioError` where that is not possible."""
    if isinstance(samples, bytes | bytearray | memoryview):
        raise AudioError(
            f"The samples are {type(samples).__name__}; expected an array, such as np.frombuffer(data, np.int16)."
        )
    try:
        return np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as problem:  # lists of different lengths; a tensor on a GPU
        reason = str(problem).partition("\n")[0].rstrip(".")
        raise AudioError(f"The samples cannot be read as an array ({reason}); expected a NumPy array.") from None


def to_mono(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of shape (n,) or (n, channels) as float32 mono (n,), the mean of the channels.

    uint8 (128 is zero), int16, int32 and int64 are scaled to -1..1; float32 and float64 are not scaled. Float32 mono
    that is contiguous is returned without a copy. Raises `AudioError` for another shape or type, for NaN or infinity,
    and for floats above `MAX_LEVEL`.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS):
        raise AudioError(
            f"The samples have the shape {samples.shape}; expected (samples,) or (samples, channels) with at most "
            f"{MAX_CHANNELS} channels: transpose the array if channels come first."
        )
    scaled = _scaled(samples)
    if scaled.ndim == 2:
        # Add channel by channel: the order of additions must not depend on the block's length or memory layout.
        total = scaled[:, 0].copy()
        for channel in range(1, scaled.shape[1]):
            total += scaled[:, channel]
        scaled = total / np.float32(scaled.shape[1])
    if samples.dtype.kind == "f":
        _check_level(scaled)
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _scaled(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The same shape in float32, integers scaled to -1..1."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # float64 values beyond float32 become infinity, which `_check_level` reports
            return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype.kind == "i":
        # The divisor is a power of two, so the division is exact before or after the rounding to float32.
        return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    raise AudioError(f"The samples are of type {samples.dtype}; expected float16 to float64, int8 to int64, or uint8.")


def _check_level(mono: NDArray[np.float32]) -> None:
    """Raise `AudioError` unless every sample is finite and at most `MAX_LEVEL`."""
    if mono.size == 0:
        return
    peak = max(float(mono.max()), -float(mono.min()))  # NaN if any sample is NaN
    if not np.isfinite(peak):
        raise AudioError(
            "The audio holds NaN or infinite samples; expected numbers in -1..1: check that the sample format is the "
            "one announced (16-bit integers read as floats look like this)."
        )
    if peak > MAX_LEVEL:
        raise AudioError(
            f"The audio has floating-point samples of {peak:.0f}; expected -1..1: divide 16-bit values by 32768, or "
            "pass them as int16."
        )
