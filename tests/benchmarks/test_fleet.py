"""The benchmark of engines in other processes runs the same steps on both sides."""

from __future__ import annotations

import pytest

from benchmarks.fleet import compare


@pytest.mark.slow
def test_steps_run_here_and_in_another_process() -> None:
    here, there = compare(sessions=2, pass_seconds=0.002, seconds=1.0)
    assert here[0] > 0
    assert there[0] > 0
    assert min(here[1], there[1]) >= 3 * 2.0  # a step has three passes of 2 ms
