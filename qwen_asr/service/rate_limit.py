"""How often somebody may come: a moving window for each name, in the memory of this process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from qwen_asr.errors import LimitExceeded
from qwen_asr.network import client_prefix

SWEEP_AT = 10_000
"""With so many names known, those of whom nothing was heard within their window are forgotten: `limits` keeps them."""


class Rates:
    """At most as many hits as `limit` says, such as ``60/minute`` or ``5/second; 1000/day``; None: any number.

    `limit` has been checked by `Config`. Safe to call from any thread.
    """

    def __init__(self, limit: str | None) -> None:
        self._windows = parse_many(limit) if limit else []
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._lock = threading.RLock()

    def check(self, *names: str) -> None:
        """Raises LimitExceeded, which says when to come again, where one of the names has no hit left."""
        with self._lock:
            used_up = [
                (window, self._limiter.get_window_stats(window, name).reset_time)
                for window in self._windows
                for name in names
                if not self._limiter.test(window, name)
            ]
        if used_up:
            window, reset = max(used_up, key=lambda one: one[1])
            seconds = max(1, math.ceil(reset - time.time()))
            raise LimitExceeded(
                f"This server takes {window.amount} requests in {window.get_expiry()} seconds from one sender: "
                f"try again in {seconds} seconds.",
                seconds,
            )

    def hit(self, *names: str) -> None:
        """Counts one for each name. Raises as `check` does, and then counts nothing."""
        with self._lock:
            self.check(*names)
            for window in self._windows:
                for name in names:
                    self._limiter.hit(window, name)
            if len(self._storage.events) > SWEEP_AT:
                for key in [key for key, events in list(self._storage.events.items()) if not events]:
                    self._storage.clear(key)


def sender(scope: Mapping[str, Any]) -> str:
    """Whom a request came from, as a name for `Rates`: its client's crowd."""
    client = scope.get("client")
    return client_prefix(str(client[0])) if client else ""
