"""Validates audio samples at the edges: any array to float32 mono, or an error that says what is wrong.

Samples are validated once, where they enter: `load_audio` and `decode_blocks` (files), `PcmStream` (network), the
Python API and `Session.feed`. Everything behind these edges takes validated samples: float32, mono, finite, shape (n,).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.errors import AudioError

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
"""Sample rates that are accepted, in Hz."""
MAX_CHANNELS = 64
MAX_LEVEL = 256.0
"""Far above any recording and far below overflow. It detects int16 values in a float array, and bytes of one sample
format that are read as another: these get an error instead of being transcribed as noise."""


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
    raise AudioError(f"The samples are of type {samples.dtype}; expected float32, float64, int16, int32 or uint8.")


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
