"""The budget of frames, with times of the test."""

from __future__ import annotations

from qwen_asr.config.limits import SocketLimits
from qwen_asr.web.transport.frame_budget import Budget, FrameBudget

LIMITS = SocketLimits(frames_per_second=100, empty_frames_per_second=10, burst_seconds=2.0, flood_seconds=5.0)


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    budget = Budget(per_second=10, burst_seconds=2.0)
    budget.spend(20, 100.0)
    assert budget.seconds_until_left(100.0) == 0.0
    budget.spend(1, 100.0)
    assert budget.seconds_until_left(100.0) == 0.1
    assert budget.seconds_until_left(100.1) <= 1e-9
    assert not budget.is_full(102.0)
    assert budget.is_full(103.0)
    assert budget.left(1000.0) == 20  # no more is saved up


def test_time_that_runs_backwards_adds_nothing() -> None:
    budget = Budget(per_second=10, burst_seconds=1.0)
    budget.spend(10, 100.0)
    assert budget.left(50.0) == 0
    assert budget.left(100.0) == 0


def test_frames_that_carry_nothing_have_less() -> None:
    budget = FrameBudget(LIMITS)
    budget.spend(20, 20, 100.0)
    assert budget.pause(100.0) == 0
    budget.spend(1, 1, 100.0)
    assert budget.pause(100.0) == 0.1
    audio = FrameBudget(LIMITS)
    audio.spend(200, 0, 100.0)
    assert audio.pause(100.0) == 0
    audio.spend(1, 0, 100.0)
    assert audio.pause(100.0) == 0.01


def seconds_until_flood(empty: int, audio: int, pause: bool = True) -> int | None:
    """When a client counts as a flood that sends so many frames in each second, read at the server's pace."""
    budget, now = FrameBudget(LIMITS), 100.0
    for second in range(100):
        budget.spend(audio + empty, empty, now)
        if budget.is_flood(now):
            return second
        now += max(1.0, budget.pause(now) if pause else 0.0)
    return None


def test_only_frames_that_carry_nothing_and_do_not_end_are_a_flood() -> None:
    assert seconds_until_flood(empty=10, audio=0) is None
    assert seconds_until_flood(empty=0, audio=1000) is None
    assert seconds_until_flood(empty=30, audio=0) is not None


def test_a_burst_now_and_then_is_no_flood() -> None:
    budget = FrameBudget(LIMITS)
    for minute in range(10):
        budget.spend(40, 40, 60.0 * minute)
        assert not budget.is_flood(60.0 * minute)
    budget.spend(40, 40, 1000.0)
    assert not budget.is_flood(1005.0)  # it has stopped, and is within its budget again
