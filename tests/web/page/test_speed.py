"""The real-time factor of a recording, from events at known times."""

from __future__ import annotations

import pytest

from qwen_asr.live.events import Failed, Final, Partial, TextEvent
from qwen_asr.web.page.speed import WINDOW_SECONDS, Speed


def partial(utterance: int, end: float, lag: float, start: float = 0.0) -> Partial:
    return Partial(utterance, round(start * 16_000), round(end * 16_000), "English", "a", 0, lag)


def final(utterance: int, end: float, lag: float, start: float = 0.0) -> Final:
    return Final(utterance, round(start * 16_000), round(end * 16_000), "English", "a", lag)


def measured(*events: tuple[float, TextEvent], now: float) -> float | None:
    speed = Speed()
    for when, event in events:
        speed.take(event, when)
    return speed.value(now)


def test_a_slow_device_has_the_share_of_speech_that_became_text() -> None:
    steps = [(float(now), partial(0, 1 + 0.8 * now, 0.6 + 0.2 * now)) for now in range(10)]
    assert measured(*steps, now=9.0) == pytest.approx(0.8)


def test_a_device_that_catches_up_is_faster_than_real_time() -> None:
    assert measured((0, partial(0, 1, 20)), (2, partial(0, 5, 18)), (4, final(0, 11, 14)), now=4) == 2.5


def test_the_time_in_which_nothing_waited_does_not_count() -> None:
    events: list[tuple[float, TextEvent]] = [
        (0.0, partial(0, 1, 1.0)),
        (3.0, final(0, 4, 0.0)),
        (60.0, partial(1, 61, 1.0, 60)),
        (61.0, partial(1, 62, 0.2, 60)),
    ]
    speed = Speed()
    for when, event in events[:2]:
        speed.take(event, when)
    assert speed.value(3.0) == 1.0
    assert measured(*events, now=61.0) is None  # the last second alone says too little
    assert measured((0, partial(0, 1, 0.4)), (5, partial(0, 6, 0.4)), now=5) is None  # it waited for the speaker


def test_text_of_several_utterances_counts_once() -> None:
    events: list[tuple[float, TextEvent]] = [
        (0.0, partial(0, 1, 9)), (1.0, final(0, 2, 8)), (2.0, partial(1, 4, 7, 3)), (3.0, final(1, 5, 6, 3)),
        (4.0, Failed(2, 5 * 16_000, 9 * 16_000, "It broke.", 2)),
    ]  # fmt: skip
    assert measured(*events, now=4.0) == pytest.approx(3 / 4)


def test_only_the_last_seconds_count() -> None:
    slow = [(float(now), partial(0, 0.1 * now, 9)) for now in range(60)]
    fast = [(60.0 + now, partial(0, 6.0 + 2 * now, 9)) for now in range(int(WINDOW_SECONDS) + 2)]
    assert measured(*slow, *fast, now=fast[-1][0]) == pytest.approx(2.0)
    assert measured(*slow, now=slow[-1][0] + WINDOW_SECONDS + 1) is None
