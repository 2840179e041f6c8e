"""Accepts connections, and limits how many are open, and how many pending: not yet handed to the app.

An `Acceptor` serves one listening socket in the event loop. A connection above the limits of `OpenConnections` is
closed at once. Each other one goes to a `handler`, and is pending until the handler returns. Above a limit, the oldest
pending connection of the address with the most is closed. A real client needs a few round trips, so the oldest is the
least likely to be one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.logs import SeldomLog
from qwen_asr.network import client_prefix
from qwen_asr.web.transport.open_connections import OpenConnections

log = logging.getLogger(__name__)

ACCEPT_RETRY_SECONDS = 1.0
"""Pause after a failed accept, which usually means that the system is out of file descriptors or memory."""
BACKLOG = 1024
"""Connections that the kernel queues while the event loop is busy."""

Handler = Callable[[socket.socket], Awaitable[None]]
"""Owns the connection it is called with: it closes it or passes it on, also when it is cancelled."""


class Acceptor:
    """Accepts connections from when it is created, in the running event loop, until `close`.

    `close` and `wait_closed` are those of `asyncio.Server`, so that `uvicorn.Server` can have it in `servers`.
    """

    def __init__(
        self, listening: socket.socket, handler: Handler, limits: AcceptorLimits, connections: OpenConnections
    ) -> None:
        self._listening, self._handler, self._connections = listening, handler, connections
        self._logged = SeldomLog()
        self._pending = PendingConnections(limits.waiting, limits.waiting_per_address)
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._accepting = asyncio.get_running_loop().create_task(self._accept_loop())

    def close(self) -> None:
        """Stops accepting, and cancels the handlers of pending connections."""
        self._accepting.cancel()
        # Not later, when the cancelled task runs: by then the socket may be closed and its descriptor reused.
        asyncio.get_running_loop().remove_reader(self._listening)
        self._pending.cancel()

    async def wait_closed(self) -> None:
        """Waits for what `close` cancelled."""
        await asyncio.gather(self._accepting, *self._pending.tasks(), return_exceptions=True)

    async def _accept_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except ConnectionAbortedError:  # the client left while it was queued
                continue
            except OSError as error:
                if self._logged.due(str(error.strerror), time.monotonic()):
                    log.warning("Connections cannot be accepted at the moment: %s", error.strerror)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            if (counted := self._connections.admit(connection, address[0])) is not None:
                self._pending.add(client_prefix(address[0]), loop.create_task(self._handle(counted)))
            await asyncio.sleep(0)  # lets running handlers go on before the next connection

    async def _handle(self, connection: socket.socket) -> None:
        try:
            await self._handler(connection)
        except OSError as error:  # also timeouts and failed handshakes
            log.debug("A connection ended before its first request: %r", error)


class PendingConnections:
    """The handlers that are running, by client prefix, oldest first."""

    def __init__(self, max_total: int, max_per_prefix: int) -> None:
        self._max_total, self._max_per_prefix = max_total, max_per_prefix
        self._by_prefix: dict[str, dict[asyncio.Task[None], None]] = {}

    def tasks(self) -> list[asyncio.Task[None]]:
        """All running handlers."""
        return [task for tasks in self._by_prefix.values() for task in tasks]

    def add(self, prefix: str, task: asyncio.Task[None]) -> None:
        """Adds a handler until it is done, and cancels an older one if there are too many."""
        self._by_prefix.setdefault(prefix, {})[task] = None
        task.add_done_callback(lambda done: self._remove(prefix, done))
        if len(self._by_prefix[prefix]) > self._max_per_prefix:
            self._cancel_oldest(prefix)
        elif sum(map(len, self._by_prefix.values())) > self._max_total:
            self._cancel_oldest(max(self._by_prefix, key=lambda key: len(self._by_prefix[key])))

    def cancel(self) -> None:
        """Cancels all of them."""
        for task in self.tasks():
            task.cancel()

    def _cancel_oldest(self, prefix: str) -> None:
        oldest = next(iter(self._by_prefix[prefix]))
        self._remove(prefix, oldest)
        oldest.cancel()

    def _remove(self, prefix: str, task: asyncio.Task[None]) -> None:
        tasks = self._by_prefix.get(prefix, {})
        tasks.pop(task, None)
        if not tasks:
            self._by_prefix.pop(prefix, None)
