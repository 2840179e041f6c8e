"""Free ports, a listener that nobody should ask, and a TCP proxy that cuts connections at any byte, or freezes them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable

_random = random.SystemRandom()  # no test repeats its numbers


def free_ports(count: int) -> list[int]:
    """Free ports that stay free until they are used.

    They lie below those that the system gives to a program that asks for any port (on Linux from 32768).
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = _random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            ports.add(port)
    return list(ports)


class Canary:
    """Listens on a port of this machine and counts connections. Whoever connects was made to."""

    def __init__(self) -> None:
        self.visits = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listening.accept()
                self.visits += 1
                connection.close()

    def close(self) -> None:
        """Listens no more."""
        self._listening.close()


class Proxy:
    """Forwards to a port of this machine.

    `budget()` is how many bytes the client of the next connection may send; after them the connection is reset in both
    directions. None: it is never cut.
    """

    def __init__(self, port: int, budget: Callable[[], int | None]) -> None:
        self._port = port
        self._budget = budget
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.connections = 0
        self.cuts = 0

    @property
    def url(self) -> str:
        """The address of the socket behind the proxy."""
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws/asr"

    def freeze(self) -> None:
        """Forward nothing more on the existing connections, in either direction. New connections work."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Close every connection."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.connections += 1
        try:
            on_reader, on_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        flowing = self._flowing
        up = asyncio.create_task(self._forward(reader, on_writer, flowing, self._budget()))
        down = asyncio.create_task(self._forward(on_reader, writer, flowing, None))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in (up, down):
                part.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            writer.transport.abort()
            on_writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event, budget: int | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4_096 if budget is None else max(1, min(4_096, budget))):
                await flowing.wait()
                writer.write(data)
                await writer.drain()
                if budget is not None:
                    budget -= len(data)
                    if budget <= 0:
                        self.cuts += 1
                        return


@contextlib.asynccontextmanager
async def proxy(url: str, budget: Callable[[], int | None] = lambda: None) -> AsyncIterator[Proxy]:
    """A proxy in front of the server with that `/ws/asr`."""
    between = Proxy(int(url.removesuffix("/ws/asr").rpartition(":")[2]), budget)
    await between.start()
    try:
        yield between
    finally:
        await between.stop()
