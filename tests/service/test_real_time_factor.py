"""The real-time factor: recognition per second of audio, over the last minute only."""

from __future__ import annotations

import pytest

from qwen_asr.service.real_time_factor import RealTimeFactor


def test_it_is_that_of_the_last_minute() -> None:
    now = busy = 0.0
    factor = RealTimeFactor(lambda: now)
    assert factor.over_last_minute(busy, 0.0) is None
    for minute in range(5):  # in each minute 60 s of audio and 6 s of work; in the last 30 s of work
        busy += 30 if minute == 4 else 6
        now = 60.0 * (minute + 1)
        latest = factor.over_last_minute(busy, now)
    assert latest == pytest.approx(0.5)


def test_there_is_none_without_audio() -> None:
    now = 0.0
    factor = RealTimeFactor(lambda: now)
    assert factor.over_last_minute(0.0, 10.0) == 0.0
    now = 120.0
    factor.over_last_minute(1.0, 10.0)
    now = 130.0
    assert factor.over_last_minute(1.0, 10.0) is None
