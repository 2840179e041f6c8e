"""Messages on their way to a client that may read slowly: put there on any thread, sent by the event loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from qwen_asr.service.notifier import Notifier

if TYPE_CHECKING:
    from qwen_asr.web.sockets.messages import ServerMessage

_WAIT_SECONDS = 60.0  # timeout of a wait for a notification; any value works, since every change notifies


class Outbox:
    """The messages of one connection, in order. `put` from any thread, never waits; `take` from one coroutine.

    A message may replace the last one that still waits (`ServerMessage.replaces`), so that only the newest partial of
    an utterance waits and the number of messages is bounded by the number of utterances. The producer checks `full`
    before it goes on.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: deque[ServerMessage] = deque()
        self._ended = False
        self._notifier = Notifier()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether more than `max_waiting` messages wait."""
        return len(self._waiting) > self._max_waiting

    def put(self, message: ServerMessage) -> None:
        """Append a message."""
        with self._lock:
            if self._waiting and message.replaces(self._waiting[-1]):
                self._waiting.pop()
            self._waiting.append(message)
        self._notifier.notify()

    def end(self) -> None:
        """No more messages come: `take` returns None after the last one."""
        self._ended = True
        self._notifier.notify()

    async def take(self) -> ServerMessage | None:
        """The next message, as soon as there is one; None at the end."""
        while not (self._waiting or self._ended):
            await self._notifier.wait(lambda: bool(self._waiting) or self._ended, _WAIT_SECONDS)
        with self._lock:
            return self._waiting.popleft() if self._waiting else None
