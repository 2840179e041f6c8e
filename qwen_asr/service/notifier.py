"""`Notifier`: wakes coroutines from any thread, as when the recognizer's thread has text for a waiting request."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable


class Notifier:
    """`notify` from any thread, `wait` in any event loop.

    A waiting request holds no thread: a hundred open pages would use up the thread pool of the web server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def notify(self) -> None:
        """Has every waiting coroutine check its condition."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and its coroutines with it
                loop.call_soon_threadsafe(event.set)

    async def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns once `ready()` is true, checked at each `notify`, or after `seconds`. Raises ValueError for NaN."""
        if math.isnan(seconds):
            raise ValueError("seconds is not a number")
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    event = asyncio.Event()
                    entry = (asyncio.get_running_loop(), event)
                    with self._lock:
                        self._waiting.append(entry)
                    try:
                        # Checked only once the event is in the list, so that a `notify` in between is not missed.
                        if ready():
                            return
                        await event.wait()
                    finally:
                        with self._lock, contextlib.suppress(ValueError):
                            self._waiting.remove(entry)
