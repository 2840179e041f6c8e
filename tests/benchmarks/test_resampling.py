"""The three methods of the resampling benchmark give the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.resampling import RATES, measure, streamed, whole_clip, with_upfirdn


@pytest.mark.parametrize("rate", RATES)
def test_all_methods_give_the_same_samples(rate: int) -> None:
    samples = np.random.default_rng(rate).uniform(-1, 1, rate).astype(np.float32)
    ours, pieces, whole = streamed(samples, rate), with_upfirdn(samples, rate), whole_clip(samples, rate)
    assert len(ours) == len(whole) == 16_000
    assert len(ours) - 200 < len(pieces) <= len(ours)  # it omits the end, where the filter lacks inputs
    # Tolerance: sums of a few hundred float32 products of up to 1, in a different order.
    assert np.abs(ours[: len(pieces)] - pieces).max() < 1e-4
    assert np.abs(ours[200:-200] - whole[200:-200]).max() < 1e-4


def test_each_method_is_measured() -> None:
    best = measure(48_000, seconds=0.2, repeats=1)
    assert len(best) == 3
    assert all(0 < milliseconds < float("inf") for milliseconds in best.values())
