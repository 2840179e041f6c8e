"""CPU time of the streaming resampler, `scipy.signal.upfirdn` and `resample_poly` with the same filter.

`python -m benchmarks.resampling` resamples noise to 16 kHz in blocks of 40 ms, as the page's microphone sends them, in
three ways: `StreamingResampler`; `upfirdn` on each block and the preceding inputs that the filter needs; and
`resample_poly` on the whole clip at once. Times are milliseconds of one core for one second of audio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly, upfirdn

from benchmarks.arguments import count, positive
from benchmarks.speech import Samples
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler, phase_filters

RATES = (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
BLOCK_SECONDS = 0.04


def streamed(samples: Samples, rate: int) -> Samples:
    """Resample block by block with `StreamingResampler`."""
    resampler = StreamingResampler(rate)
    return np.concatenate([*(resampler.feed(block) for block in _blocks(samples, rate)), resampler.finish()])


def with_upfirdn(samples: Samples, rate: int) -> Samples:
    """Resample block by block with `upfirdn`, each with the preceding inputs it needs. Omits the end of the clip."""
    common = gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    lowpass, half = _lowpass(rate)
    # `upfirdn` gives the outputs at multiples of `down` on the filter's grid. Zeros in front of the filter put its
    # middle on such a multiple; `base`, the input position of held[0], is another.
    middle = -(-half * up // down) * down
    lowpass = np.concatenate([np.zeros(middle - half * up, np.float32), lowpass])
    base, done, received = -2 * half // down * down, 0, 0
    held = np.zeros(-base, np.float32)
    parts = []
    for block in _blocks(samples, rate):
        received += len(block)
        held = np.concatenate((held, block))
        end = max(done, -(-(received - half) * up // down))
        first = (middle - base * up) // down + done
        parts.append(upfirdn(lowpass, held, up, down)[first : first + end - done])
        done = end
        keep = (done * down // up - 2 * half) // down * down
        held, base = held[keep - base :], keep
    return np.concatenate(parts)


def whole_clip(samples: Samples, rate: int) -> Samples:
    """Resample the whole clip with `resample_poly`."""
    common = gcd(rate, SAMPLE_RATE)
    lowpass, _ = _lowpass(rate)
    resampled: Samples = resample_poly(samples, SAMPLE_RATE // common, rate // common, window=lowpass / lowpass.sum())
    return resampled


METHODS: dict[str, Callable[[Samples, int], Samples]] = {
    "StreamingResampler": streamed,
    "upfirdn": with_upfirdn,
    "resample_poly, whole": whole_clip,
}


def measure(rate: int, seconds: float, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time per second of audio for each method, the best of `repeats` runs."""
    samples = np.random.default_rng(0).uniform(-1, 1, round(rate * seconds)).astype(np.float32)
    best = dict.fromkeys(METHODS, float("inf"))
    for _ in range(repeats):
        for name, resample in METHODS.items():
            begin = time.thread_time()
            resample(samples, rate)
            best[name] = min(best[name], (time.thread_time() - begin) / seconds * 1000)
    return best


def _blocks(samples: Samples, rate: int) -> list[Samples]:
    size = round(rate * BLOCK_SECONDS)
    return [samples[begin : begin + size] for begin in range(0, len(samples), size)]


def _lowpass(rate: int) -> tuple[NDArray[np.float32], int]:
    """The resampler's filter as one low-pass of odd length at `up` times the input rate, and half its taps per phase.

    The first tap (about 1e-8) belongs to no phase and is set to zero.
    """
    table = phase_filters(rate)
    phases, taps = table.shape
    lowpass = np.zeros(phases * taps + 1, np.float32)
    for phase in range(phases):
        lowpass[phases * np.arange(1, taps + 1) - phase] = table[phase]
    return lowpass, taps // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive, default=10.0, help="seconds of audio at each rate")
    parser.add_argument("--repeats", type=count, default=5, help="runs of each method; the fastest counts")
    arguments = parser.parse_args()
    print(f"| rate | {' | '.join(f'{name} (ms)' for name in METHODS)} | upfirdn / StreamingResampler |")
    print(f"|---|{'---|' * (len(METHODS) + 1)}")
    for rate in RATES:
        best = measure(rate, arguments.seconds, arguments.repeats)
        ratio = best["upfirdn"] / best["StreamingResampler"]
        print(f"| {rate} | {' | '.join(f'{milliseconds:.1f}' for milliseconds in best.values())} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
