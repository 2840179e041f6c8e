"""Messages on their way to a client that may read slowly: made on the device's thread, sent by the event loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from qwen_asr.service.notifier import Notifier

_LOOK_SECONDS = 60.0  # how long one wait for the bell may last; any number would do, every message rings


class Outbox:
    """The messages of one session, in order. `put` from any thread, never waits; `take` from one coroutine.

    A partial replaces the partial of the same utterance if that still waits, so the number of messages here is bounded
    by the number of utterances. Everything else is kept: who fills the outbox asks `full` before it goes on.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[dict[str, Any]] = deque()
        self._ended = False
        self._notifier = Notifier()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether more than `most` messages wait."""
        return len(self._waiting) > self._most

    def put(self, message: dict[str, Any]) -> None:
        """Append a message."""
        with self._lock:
            if self._waiting and _replaces(message, self._waiting[-1]):
                self._waiting.pop()
            self._waiting.append(message)
        self._notifier.notify()

    def end(self) -> None:
        """No more messages come: `take` gives None behind the last one."""
        self._ended = True
        self._notifier.notify()

    async def take(self) -> dict[str, Any] | None:
        """The next message, as soon as there is one; None at the end."""
        while not (self._waiting or self._ended):
            await self._notifier.wait(lambda: bool(self._waiting) or self._ended, _LOOK_SECONDS)
        with self._lock:
            return self._waiting.popleft() if self._waiting else None


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    both_partial: bool = new["type"] == old["type"] == "partial"
    return both_partial and bool(new["utterance"] == old["utterance"])
