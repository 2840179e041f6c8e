"""A server in this process with one WebSocket route, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from qwen_asr.config.limits import SocketLimits
from qwen_asr.service.service import Service
from qwen_asr.service.shutdown import Stopping
from qwen_asr.web.access.guard import AccessGuard
from qwen_asr.web.rest.routes import add_routes
from qwen_asr.web.sockets.asr.route import AsrRoute
from qwen_asr.web.sockets.deepgram.route import ListenRoute
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from qwen_asr.web.transport.uvicorn_server import Server, bind, create_server
from qwen_asr.web.transport.websocket_protocol import websocket_options
from tests.support.checkpoints import Samples

TIMEOUT = 120.0  # seconds; a busy machine is slow, and no test is about speed
PATIENT = SocketLimits(
    config_seconds=TIMEOUT,
    idle_seconds=600,
    send_seconds=600,
    close_seconds=60,
    resume_seconds=600,
    empty_frames_per_second=10_000,
)
"""For tests that are not about these limits: on a busy machine everything takes long. Pings fill buffers."""
FRAME = 1_600  # samples, 100 ms, as the original client sends them


@dataclass
class Listening:
    """A server that runs in this process, with one WebSocket route."""

    url: str
    route: Any  # AsrRoute, RealtimeRoute or ListenRoute, of which tests read private attributes
    server: Server
    service: Service
    app: FastAPI

    @property
    def http(self) -> str:
        """The address for plain HTTP."""
        return self.url.replace("ws://", "http://").removesuffix("/ws/asr")

    @property
    def connections(self) -> set[Any]:
        """All of uvicorn's connections, of any kind."""
        return self.server.server_state.connections


@contextlib.contextmanager
def listening(
    service: Service,
    limits: SocketLimits | None = None,
    send_buffer: int | None = None,
    route: type[AsrRoute | RealtimeRoute | ListenRoute] = AsrRoute,
    port: int = 0,
) -> Iterator[Listening]:
    """Serve the route on a free port, with patient limits by default.

    `send_buffer` is the kernel's send buffer for each connection, in bytes.
    """
    limits = limits or replace(PATIENT, session_seconds=service.config.max_session_seconds)
    app = FastAPI()
    app.add_middleware(AccessGuard(service.config, service.rates).middleware)
    app.state.end_streams = lambda: None
    served = route.add_to(app, service, limits)
    app.state.stopping = Stopping(service, served)
    add_routes(app, service)
    bound = bind("127.0.0.1", port)
    if send_buffer is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = create_server(app, timeout_graceful_shutdown=1, **websocket_options(limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield Listening(f"ws://localhost:{bound.getsockname()[1]}{route.path}", served, server, service, app)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        service.stopping = False  # it may be served again
        bound.close()
    assert not thread.is_alive()


class Client:
    """A client that sends, and keeps every message that it receives."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())
        self._news = asyncio.Event()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.connection:
                assert isinstance(message, str)
                self.messages.append(json.loads(message))
                self._news.set()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The messages of that type so far."""
        return [message for message in self.messages if message["type"] == kind]

    async def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Waits for the `count`-th message of that type."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.of_type(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of_type(kind)[count - 1]

    async def config(self, **settings: Any) -> str:
        """Opens the session; returns its id."""
        await self.send({"type": "config", **settings})
        created = await self.wait_for("session_created")
        return str(created["session_id"])

    async def send(self, message: dict[str, Any]) -> None:
        """Sends a text message."""
        await self.connection.send(json.dumps(message))

    async def audio(self, samples: Samples, pause: float = 0.0) -> None:
        """Sends frames of 100 ms of float32."""
        for begin in range(0, len(samples), FRAME):
            await self.connection.send(samples[begin : begin + FRAME].astype("<f4").tobytes())
            await asyncio.sleep(pause)

    async def finalize(self) -> int:
        """Finalizes, and reads to the close; returns the close code."""
        await self.send({"type": "finalize"})
        return await self.closed()

    async def closed(self) -> int:
        """Reads to the close; returns the close code."""
        async with asyncio.timeout(TIMEOUT):
            await self._reading
        assert self.connection.close_code is not None
        return self.connection.close_code


AnyClient = TypeVar("AnyClient", bound=Client)


@contextlib.asynccontextmanager
async def client_of(
    kind: type[AnyClient], url: str, trust: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[AnyClient]:
    """A connected client of that `kind`; `options` are those of `websockets`."""
    # Its pings would wait behind audio that the server does not read yet: see docs/protocol.md.
    async with connect(
        url, ssl=trust, **{"ping_timeout": None, "close_timeout": 5, "open_timeout": 60, **options}
    ) as connection:
        yield kind(connection)


client = partial(client_of, Client)


async def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
    """Polls until the condition holds; returns whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


def silence(seconds: float) -> Samples:
    """Samples of silence at 16 kHz."""
    return np.zeros(round(seconds * 16_000), np.float32)
