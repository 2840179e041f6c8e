"""Graceful shutdown: no new sessions, then the texts of the open ones, and only then are connections closed.

Whatever has sessions takes part as a `Part`. All parts finish together, within `ShutdownLimits.seconds`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from qwen_asr.service.service import Service

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


class Part(Protocol):
    """The sessions of one kind. Everything is called on the server's event loop."""

    @property
    def unfinished(self) -> int:
        """How many sessions have not sent everything to their clients yet."""

    async def stop(self) -> None:
        """Accept no more audio, and have what was received transcribed. Returns without waiting for the texts."""

    def give_up(self) -> None:
        """The time is over: tell the clients, even if texts are missing."""


class Stopping:
    """What a server does before it closes its connections. `parts` may be added until then."""

    def __init__(self, service: Service, *parts: Part) -> None:
        self.parts = list(parts)
        self._service = service
        self._limits = service.limits.shutdown

    def announce(self) -> None:
        """Refuses new sessions from now on. Safe in a signal handler: it only sets a flag."""
        self._service.stopping = True

    async def run(self, hurry: Callable[[], bool]) -> None:
        """Returns once all sessions have their texts, the time is over, or `hurry()` returns true."""
        self.announce()
        for part in self.parts:
            await part.stop()
        if count := self._unfinished():
            log.info(
                "Shutting down: %d sessions wait for their last texts. A second signal stops the server at once.", count
            )
        if not await self._finished(self._limits.seconds, hurry):
            log.warning("Shutting down: %d sessions did not get all of their texts in time.", self._unfinished())
            for part in self.parts:
                part.give_up()
            await self._finished(self._limits.notice_seconds, hurry)

    def _unfinished(self) -> int:
        return sum(part.unfinished for part in self.parts)

    async def _finished(self, seconds: float, hurry: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while self._unfinished() and not hurry():
            if time.monotonic() > end:
                return False
            await anyio.sleep(_POLL_SECONDS)
        return not self._unfinished()
