"""Accepts connections and keeps those that have not said yet what they want from crowding out the others.

An `Acceptor` stands on a listening socket in the event loop. Each connection is handed to `admit`, and counts as
waiting until that returns. Where too many wait, the oldest goes, of the address from which most wait: somebody who
really wants in is through after a few round trips, so the oldest is the one that never will be.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.network import client_prefix

log = logging.getLogger(__name__)

OUT_OF_FILES_SECONDS = 1.0
"""How long nothing is accepted when the system has no file or memory for another connection."""
BACKLOG = 1024
"""Connections that the kernel accepts for us while the loop is busy."""

Admit = Callable[[socket.socket], Awaitable[None]]


class Acceptor:
    """`admit` owns the connection that it is given, and closes it or passes it on, cancelled too.

    `close` and `wait_closed` are those of `asyncio.Server`, so that uvicorn's server can hold it as one.
    """

    def __init__(self, listening: socket.socket, admit: Admit, limits: AcceptorLimits) -> None:
        """To be made in the running event loop; accepts from then on."""
        self._listening, self._admit = listening, admit
        self._waiting = Waiting(limits.waiting, limits.waiting_per_address)
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accepts no more, and ends those that wait."""
        self._accepting.cancel()
        # Now, and not when the cancelled task has its turn: the socket may be closed by then, and its number another's.
        asyncio.get_running_loop().remove_reader(self._listening)
        self._waiting.cancel()

    async def wait_closed(self) -> None:
        """Returns when `close` has come to its end."""
        await asyncio.gather(self._accepting, *self._waiting.all(), return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except ConnectionAbortedError:  # it went before it was its turn
                continue
            except OSError as error:
                log.warning("No connection can be accepted for a moment: %s", error.strerror)
                await asyncio.sleep(OUT_OF_FILES_SECONDS)
                continue
            admission = loop.create_task(self._admitted(connection))
            self._waiting.add(client_prefix(address[0]), admission)
            await asyncio.sleep(0)  # those that are through are served before the next one is let in

    async def _admitted(self, connection: socket.socket) -> None:
        try:
            await self._admit(connection)
        except OSError as error:  # timeouts and failed handshakes too
            log.debug("A connection ended before its first request: %r", error)


class Waiting:
    """The admissions that go on, by where they come from, oldest first."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._by_crowd: dict[str, dict[asyncio.Task[None], None]] = {}

    def all(self) -> list[asyncio.Task[None]]:
        """Those that go on."""
        return [task for crowd in self._by_crowd.values() for task in crowd]

    def add(self, crowd: str, task: asyncio.Task[None]) -> None:
        """Counts it until it is over; ends an older one where it is one too many."""
        self._by_crowd.setdefault(crowd, {})[task] = None
        task.add_done_callback(lambda done: self._remove(crowd, done))
        if len(self._by_crowd[crowd]) > self._most_per_address:
            self._end_oldest(crowd)
        elif sum(map(len, self._by_crowd.values())) > self._most:
            self._end_oldest(max(self._by_crowd, key=lambda name: len(self._by_crowd[name])))

    def cancel(self) -> None:
        """Ends all of them."""
        for task in self.all():
            task.cancel()

    def _end_oldest(self, crowd: str) -> None:
        oldest = next(iter(self._by_crowd[crowd]))
        self._remove(crowd, oldest)
        oldest.cancel()

    def _remove(self, crowd: str, task: asyncio.Task[None]) -> None:
        tasks = self._by_crowd.get(crowd, {})
        tasks.pop(task, None)
        if not tasks:
            self._by_crowd.pop(crowd, None)
