"""Rate limiting: at most so many requests of each sender in a moving window, in the memory of this process."""

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
"""Names in memory at which those without a hit in their window are removed; `limits` itself keeps them."""


class Rates:
    """At most as many hits for each name as `limit` allows, such as ``60/minute`` or ``5/second; 1000/day``.

    None allows any number. `Config` has validated `limit`. Thread-safe.
    """

    def __init__(self, limit: str | None, sweep_at: int = SWEEP_AT) -> None:
        self._windows = parse_many(limit) if limit else []
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._lock = threading.RLock()
        self._sweep_at = self._next_sweep_at = sweep_at

    def check(self, *names: str) -> None:
        """Raises LimitExceeded, with the seconds to wait, if one of the names has no hit left."""
        with self._lock:
            exhausted = [
                (window, self._limiter.get_window_stats(window, name).reset_time)
                for window in self._windows
                for name in names
                if not self._limiter.test(window, name)
            ]
        if exhausted:
            window, reset = max(exhausted, key=lambda one: one[1])
            seconds = max(1, math.ceil(reset - time.time()))
            raise LimitExceeded(
                f"This server accepts {window.amount} requests in {window.get_expiry()} seconds from one sender: "
                f"try again in {seconds} seconds.",
                seconds,
            )

    def hit(self, *names: str) -> None:
        """Counts one hit for each name. Raises as `check` does, and then counts nothing."""
        with self._lock:
            self.check(*names)
            for window in self._windows:
                for name in names:
                    self._limiter.hit(window, name)
            if len(self._storage.events) > self._next_sweep_at:
                for key in [key for key, events in list(self._storage.events.items()) if not events]:
                    self._storage.clear(key)
                # Not at every hit where hardly any can be removed.
                self._next_sweep_at = max(self._sweep_at, 2 * len(self._storage.events))


def sender(scope: Mapping[str, Any]) -> str:
    """The name under which a request counts: the address of its client, or for IPv6 the /64 network. Empty: unknown."""
    client = scope.get("client")
    return client_prefix(str(client[0])) if client else ""
