"""Streaming resampler: any sample rate to 16 kHz, in pieces of any size, with the same result for any pieces.

A polyphase FIR filter. Output sample `n` lies at input position ``n * rate / 16000``; it is the dot product of the
inputs around that position with the filter at that phase. The filter is a Kaiser-windowed sinc, the same as
`scipy.signal.firwin` designs. It is computed here because the import of `scipy.signal` takes about a second.

Chunked equals whole bit for bit: each output is computed from its absolute position in the stream, by one dot product
(`numpy.vecdot`) of a fixed number of inputs. The alternatives:

- `scipy.signal.upfirdn` on each piece and the inputs before it gives the same samples, also bit for bit in any pieces.
  With the same filter it takes 1.4 (24 kHz), 2.1 (44.1 kHz) and 5.1 times (48 kHz) the time, in blocks of 40 ms
  on an AMD EPYC with `python -m benchmarks.resampling`. It needs the filter at all phases in one array, which does not
  work for rates with thousands of phases, such as 44,099 Hz.
- Methods by FFT round differently for each length of a piece.
- `soxr` streams exactly, but holds back 37 to 118 ms at the qualities that suit speech. This filter holds back 4 ms
  from 16 kHz upwards and 8 ms from 8 kHz.
"""

from functools import lru_cache
from math import gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.validation import HIGHEST_RATE, LOWEST_RATE
from qwen_asr.errors import AudioError

# The filter: 64 zero crossings on each side, in units of the lower of the two Nyquist frequencies. It passes up to
# 0.908 of that frequency and rejects everything above it by `rejection_db()`, 92 dB, as Kaiser's formula gives.
_CROSSINGS = 64
_PASSBAND = 0.908
# A rate with more phases than this uses the phases of a fixed grid, interpolated linearly (-106 dB). 44,099 Hz has
# 16,000 phases: without this, each odd rate that a client names would have a table of tens of megabytes. Both numbers
# are for rates up to 16 kHz. Above, the filter is wider by rate / 16000, and so may be the distance of its phases: a
# table has at most about 640 * 128 weights, whatever the rate.
_MAX_PHASES = 640
_GRID = 512
_BLOCK = 1_024  # outputs computed at once: bounds the scratch memory and keeps it in the processor's cache


class StreamingResampler:
    """Resample one stream of validated float32 mono samples from `rate` Hz to 16 kHz.

    `feed` returns the output that the input so far determines, `finish` the rest: together
    ``round_half_up(received * 16000 / rate)`` samples, aligned with the input in time. 16 kHz passes through unchanged.
    Raises `AudioError` for a rate that is not a whole number from `LOWEST_RATE` to `HIGHEST_RATE`.
    """

    def __init__(self, rate: int) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"A sample rate of {rate!r} Hz cannot be used; expected a whole number from {LOWEST_RATE} to "
                f"{HIGHEST_RATE}: record at 16000 or 48000."
            )
        self.rate = int(rate)
        self.received = 0  # input samples
        self._done = 0  # output samples
        self._finished = False
        common = gcd(self.rate, SAMPLE_RATE)
        self._up, self._down = SAMPLE_RATE // common, self.rate // common
        if self.rate != SAMPLE_RATE:
            self._filters = phase_filters(self.rate)
            self._phases = _table_phases(self.rate)
            self._half = self._filters.shape[1] // 2
            self._base = 1 - self._half  # input position of _held[0]; the stream is preceded by silence
            self._held = np.zeros(self._half - 1, np.float32)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take validated float32 mono (n,), n >= 0; return the output (m,), m >= 0, that is now determined."""
        if self._finished:
            raise RuntimeError("This resampler is finished: make a new one for a new stream.")
        self.received += len(samples)
        if self.rate == SAMPLE_RATE:
            self._done = self.received
            return samples
        self._held = np.concatenate((self._held, samples))
        # Output n needs the inputs up to floor(n * down / up) + half.
        return self._outputs_until(-(-max(0, self.received - self._half) * self._up // self._down))

    def finish(self) -> NDArray[np.float32]:
        """Return the rest of the output, as if silence followed. A second call returns nothing."""
        total = (2 * self.received * SAMPLE_RATE + self.rate) // (2 * self.rate)
        if self.rate == SAMPLE_RATE or self._finished:
            self._finished = True
            return np.zeros(0, np.float32)
        self._finished = True
        # The last output may lie up to one output period behind the last input.
        silence = np.zeros(self._half + self._down // self._up + 2, np.float32)
        self._held = np.concatenate((self._held, silence))
        return self._outputs_until(total)

    def _outputs_until(self, end: int) -> NDArray[np.float32]:
        """Compute the outputs from the first missing one to `end`; drop the inputs that no later output needs."""
        blocks = [self._outputs(n, min(n + _BLOCK, end)) for n in range(self._done, end, _BLOCK)]
        self._done = max(self._done, end)
        keep = self._done * self._down // self._up - self._half + 1
        self._held = self._held[keep - self._base :]
        self._base = keep
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def _outputs(self, begin: int, end: int) -> NDArray[np.float32]:
        """Compute outputs [begin, end). `np.vecdot` is one dot product of fixed length per row, whatever the rows."""
        windows = sliding_window_view(self._held, 2 * self._half)
        positions = np.arange(begin, end, dtype=np.int64) * self._down
        first = positions // self._up - self._half + 1 - self._base  # index in _held of each output's first input
        if self._up == 1:
            rows = windows[first[0] : first[-1] + 1 : self._down]  # a view: 32, 48 and 96 kHz need no copy
            return np.asarray(np.vecdot(rows, self._filters[0]), dtype=np.float32)
        rows = windows[first]
        phase = positions % self._up
        if self._phases == self._up:
            return np.asarray(np.vecdot(rows, self._filters[phase]), dtype=np.float32)
        grid, remainder = np.divmod(phase * self._phases, self._up)
        fraction = (remainder / self._up).astype(np.float32)
        low, high = np.vecdot(rows, self._filters[grid]), np.vecdot(rows, self._filters[grid + 1])
        return np.asarray(low + fraction * (high - low), dtype=np.float32)


def rejection_db() -> float:
    """How far the filters reject what lies above the new Nyquist frequency, in dB, by Kaiser's formula.

    The formula is that of `scipy.signal.kaiser_atten` (Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3).
    """
    return float(2.285 * 2 * _CROSSINGS * np.pi * (1 - _PASSBAND) + 7.95)


def _table_phases(rate: int) -> int:
    """How many phases the table for `rate` Hz has: all of the rate's own, or else those of the grid."""
    up, width = SAMPLE_RATE // gcd(rate, SAMPLE_RATE), max(1.0, rate / SAMPLE_RATE)
    return up if up <= _MAX_PHASES / width else int(np.ceil(_GRID / width))


@lru_cache(maxsize=16)
def phase_filters(rate: int) -> NDArray[np.float32]:
    """The filter for `rate` Hz at each phase, (phases, taps): row p weighs the inputs around the position p / phases.

    One low-pass filter at `phases` times the input rate, taken apart. Each row is scaled to the sum 1, so that a
    constant stays that constant at every phase.
    """
    phases = _table_phases(rate)
    rows = phases if phases == SAMPLE_RATE // gcd(rate, SAMPLE_RATE) else phases + 1  # interpolation needs the next too
    half = int(np.ceil(_CROSSINGS * max(1.0, rate / SAMPLE_RATE)))
    cutoff = (1 + _PASSBAND) / 2 * min(1.0, SAMPLE_RATE / rate)  # 1 is the input's Nyquist frequency
    beta = 0.1102 * (rejection_db() - 8.7)  # Kaiser's formula for a rejection of more than 50 dB
    position = np.arange(half * phases + 1) / phases
    right = np.sinc(cutoff * position) * np.i0(beta * np.sqrt(1 - (position / half) ** 2)) / np.i0(beta)
    lowpass = np.concatenate((right[:0:-1], right))  # symmetric: half of it is computed, which takes half of the time
    table = lowpass[phases * np.arange(1, 2 * half + 1) - np.arange(rows)[:, None]]
    return np.asarray(table / table.sum(axis=1, keepdims=True), dtype=np.float32)
