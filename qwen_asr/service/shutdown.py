"""The end of the server, in order: no new sessions, the texts of the open ones, and only then the connections.

Whoever has sessions is a `Part`. All of them end together, within `STOP_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import anyio

from qwen_asr.config.limits import STOP_SECONDS

if TYPE_CHECKING:
    from qwen_asr.service.service import Service

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
_LAST_WORD_SECONDS = 1.0  # for parts that were given up, to say so to their clients


class Part(Protocol):
    """Sessions of one kind. All is called in the server's event loop."""

    @property
    def unfinished(self) -> int:
        """How many sessions have not told their clients everything yet."""

    async def stop(self) -> None:
        """Take nothing more; have what was taken recognized, and tell it. Returns at once."""

    def give_up(self) -> None:
        """The time is over: tell the clients so, whatever is still missing."""


class Stopping:
    """What a server does before it closes its connections. `parts` may be added to until then.

    `seconds` is the time that it has for that, by default `STOP_SECONDS`.
    """

    def __init__(self, service: Service, *parts: Part, seconds: float | None = None) -> None:
        self.parts = list(parts)
        self._service = service
        self._seconds = STOP_SECONDS if seconds is None else seconds

    def announce(self) -> None:
        """From here on nobody gets a session. May be called in a signal handler: it sets a flag and nothing else."""
        self._service.stopping = True

    async def run(self, hurry: Callable[[], bool]) -> None:
        """Returns once every session has its texts, or the time is over, or `hurry()` says so."""
        self.announce()
        self._service.notifier.notify()
        for part in self.parts:
            await part.stop()
        if count := self._unfinished():
            log.info("Stopping: sessions that get their last texts: %d.", count)
        if not await self._finished(self._seconds, hurry):
            log.warning("Stopping: sessions that did not get all of their texts in time: %d.", self._unfinished())
            for part in self.parts:
                part.give_up()
            await self._finished(_LAST_WORD_SECONDS, hurry)

    def _unfinished(self) -> int:
        return sum(part.unfinished for part in self.parts)

    async def _finished(self, seconds: float, hurry: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while self._unfinished() and not hurry():
            if time.monotonic() > end:
                return False
            await anyio.sleep(_LOOK_SECONDS)
        return not self._unfinished()
