"""What a connection holds while its app is busy: joined audio, in order, and a bounded amount of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from qwen_asr.web.transport.uvicorn_server import bind
from qwen_asr.web.transport.websocket_protocol import websocket_options
from tests.support.sockets import TIMEOUT

KIB = 1 << 10


class BusyApp:
    """An ASGI app that takes no message until `free` is set, and then all of them."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.received: list[str | bytes] = []
        self.news = asyncio.Event()  # set at each message

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Takes a WebSocket."""
        await receive()
        await send({"type": "websocket.accept"})
        await self.free.wait()
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            self.received.append(message["bytes"] if text is None else text)
            self.news.set()


def converse(client: Callable[[ClientConnection, BusyApp], Awaitable[None]]) -> list[str | bytes]:
    """Runs `client` against a server, and returns what its app received."""

    async def run() -> list[str | bytes]:
        app = BusyApp()
        sock = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, **websocket_options()))
        serving = asyncio.create_task(server.serve([sock]))
        async with asyncio.timeout(TIMEOUT):
            async with connect(f"ws://127.0.0.1:{sock.getsockname()[1]}", max_queue=None) as connection:
                await client(connection, app)
            server.should_exit = True
            await serving
            sock.close()
        return app.received

    return asyncio.run(run())


async def has_arrived(connection: ClientConnection) -> None:
    """Returns when the server has read everything before: its pong comes after it."""
    await (await connection.ping())


def test_audio_that_waits_for_the_app_is_joined_and_stays_in_order() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        for message in (b"a", b"bc", "text", b"d", b"", b"e"):
            await connection.send(message)
        await has_arrived(connection)
        app.free.set()
        for message in ("between", b"f"):
            await connection.send(message)

    assert converse(client) == [b"abc", "text", b"de", "between", b"f"]


def test_a_message_on_its_own_is_not_held_back() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        app.free.set()
        for number in range(3):
            await connection.send(bytes([number]))
            await app.news.wait()
            app.news.clear()

    assert converse(client) == [b"\0", b"\1", b"\2"]


def test_messages_in_fragments_and_large_ones_arrive_whole() -> None:
    large = bytes(range(256)) * 4 * KIB  # 1 MiB

    async def client(connection: ClientConnection, app: BusyApp) -> None:
        await connection.send([b"a", b"b"])
        await connection.send(["c", "d"])
        await connection.send([b"e", b"f"])
        await has_arrived(connection)
        sending = asyncio.create_task(connection.send(large))
        app.free.set()
        await sending

    assert converse(client) == [b"ab", "cd", b"ef", large]


def test_reading_pauses_while_a_second_of_audio_waits() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(4 * KIB):  # 64 MiB, far above what the kernel holds
                await connection.send(bytes([number % 256]) * 16 * KIB)
                sent += 1

        sending = asyncio.create_task(send())
        seen = -1
        while sent > seen:  # until nothing more is sent
            seen = sent
            await asyncio.sleep(1)
        assert not sending.done()
        app.free.set()
        await sending

    received = converse(client)
    audio = b"".join(part for part in received if isinstance(part, bytes))
    assert audio == b"".join(bytes([number % 256]) * 16 * KIB for number in range(4 * KIB))
    assert max(map(len, received)) <= 64 * KIB


def test_empty_messages_that_wait_are_bounded_too() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        for _ in range(3 * KIB):
            await connection.send("")
        pong = await connection.ping()
        done, _ = await asyncio.wait([asyncio.ensure_future(pong)], timeout=0.5)
        assert not done  # the server does not read on
        app.free.set()
        await pong

    assert converse(client) == [""] * 3 * KIB
