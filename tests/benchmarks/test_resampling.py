"""The three ways that the resampling benchmark compares give the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.resampling import RATES, at_once, by_upfirdn, measure, streamed


@pytest.mark.parametrize("rate", RATES)
def test_all_ways_give_the_same_samples(rate: int) -> None:
    samples = np.random.default_rng(rate).uniform(-1, 1, rate).astype(np.float32)
    ours, pieces, whole = streamed(samples, rate), by_upfirdn(samples, rate), at_once(samples, rate)
    assert len(ours) == len(whole) == 16_000
    assert len(ours) - 200 < len(pieces) <= len(ours)  # it leaves the end out, which the filter has not seen whole
    # A few hundred float32 products of up to 1, added in another order.
    assert np.abs(ours[: len(pieces)] - pieces).max() < 1e-4
    assert np.abs(ours[200:-200] - whole[200:-200]).max() < 1e-4


def test_each_way_is_measured() -> None:
    best = measure(48_000, seconds=0.2, repeats=1)
    assert len(best) == 3
    assert all(0 < milliseconds < float("inf") for milliseconds in best.values())
