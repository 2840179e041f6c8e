"""CPU time of the streaming resampler, beside `scipy.signal.upfirdn` and `resample_poly` with the same filter.

`python -m benchmarks.resampling` resamples noise to 16 kHz in blocks of 40 ms, as the page's microphone sends them, in
three ways in one run: `StreamingResampler`; `upfirdn` over each block and the inputs before it that the filter needs;
and `resample_poly` over the whole clip at once. Times are milliseconds of one core for one second of audio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly, upfirdn

from benchmarks.speech import Samples
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler, phase_filters

RATES = (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
BLOCK_SECONDS = 0.04


def streamed(samples: Samples, rate: int) -> Samples:
    """Block by block by the package's own resampler."""
    resampler = StreamingResampler(rate)
    return np.concatenate([*(resampler.feed(block) for block in _blocks(samples, rate)), resampler.finish()])


def by_upfirdn(samples: Samples, rate: int) -> Samples:
    """Block by block by `upfirdn`, each with the inputs before it that its outputs need; without the clip's end."""
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


def at_once(samples: Samples, rate: int) -> Samples:
    """The whole clip by `resample_poly`."""
    common = gcd(rate, SAMPLE_RATE)
    lowpass, _ = _lowpass(rate)
    resampled: Samples = resample_poly(samples, SAMPLE_RATE // common, rate // common, window=lowpass / lowpass.sum())
    return resampled


WAYS: dict[str, Callable[[Samples, int], Samples]] = {
    "StreamingResampler": streamed,
    "upfirdn": by_upfirdn,
    "resample_poly, whole": at_once,
}


def measure(rate: int, seconds: float, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU for one second of audio, the best of `repeats`, for each way."""
    samples = np.random.default_rng(0).uniform(-1, 1, round(rate * seconds)).astype(np.float32)
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(repeats):
        for name, way in WAYS.items():
            begin = time.thread_time()
            way(samples, rate)
            best[name] = min(best[name], (time.thread_time() - begin) / seconds * 1000)
    return best


def _blocks(samples: Samples, rate: int) -> list[Samples]:
    size = round(rate * BLOCK_SECONDS)
    return [samples[begin : begin + size] for begin in range(0, len(samples), size)]


def _lowpass(rate: int) -> tuple[NDArray[np.float32], int]:
    """The resampler's filter as one low-pass of odd length at `up` times the input rate, and half of its taps a phase.

    Its first tap belongs to no phase (it weighs 1e-8) and is zero here.
    """
    table = phase_filters(rate)
    phases, taps = table.shape
    lowpass = np.zeros(phases * taps + 1, np.float32)
    for phase in range(phases):
        lowpass[phases * np.arange(1, taps + 1) - phase] = table[phase]
    return lowpass, taps // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of audio at each rate")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way, of which the quickest counts")
    arguments = parser.parse_args()
    print(f"| rate | {' | '.join(f'{name} (ms)' for name in WAYS)} | upfirdn / StreamingResampler |")
    print(f"|---|{'---|' * (len(WAYS) + 1)}")
    for rate in RATES:
        best = measure(rate, arguments.seconds, arguments.repeats)
        ratio = best["upfirdn"] / best["StreamingResampler"]
        print(f"| {rate} | {' | '.join(f'{milliseconds:.1f}' for milliseconds in best.values())} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
