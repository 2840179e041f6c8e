"""A bell that threads ring and coroutines wait for: how text made on the device's thread wakes a waiting request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Notifier:
    """Rung from any thread; waited for in any event loop.

    A waiting request must hold no thread: a hundred open pages would use up the pool of the web server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def notify(self) -> None:
        """Wakes all who wait now."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # that loop has ended meanwhile, and its waiters with it
                loop.call_soon_threadsafe(event.set)

    async def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns once `ready()` is true, asked again at each ring, or when `seconds` have passed."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    event = asyncio.Event()
                    entry = (asyncio.get_running_loop(), event)
                    with self._lock:
                        self._waiting.append(entry)
                    try:
                        # Asked after the event is in the list, so that a ring in between is not missed.
                        if ready():
                            return
                        await event.wait()
                    finally:
                        with self._lock, contextlib.suppress(ValueError):
                            self._waiting.remove(entry)
