"""A coroutine waits for a condition that another thread brings about."""

from __future__ import annotations

import asyncio
import threading

import pytest

from qwen_asr.service.notifier import Notifier


def test_a_notification_from_another_thread_wakes_a_waiting_coroutine() -> None:
    notifier = Notifier()
    news: list[int] = []

    async def wait() -> None:
        def notify() -> None:
            news.append(1)
            notifier.notify()

        threading.Timer(0.05, notify).start()
        await asyncio.wait_for(notifier.wait(lambda: bool(news), 10_000), 60)

    asyncio.run(wait())
    assert news == [1]


def test_without_a_notification_the_wait_ends_after_its_time() -> None:
    asyncio.run(asyncio.wait_for(Notifier().wait(lambda: False, 0.01), 60))


def test_a_wait_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        asyncio.run(Notifier().wait(lambda: False, float("nan")))
