"""What a connection holds while its app is busy, how many frames it may send, and how long its messages may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from qwen_asr.config.limits import SocketLimits
from qwen_asr.web.transport.uvicorn_server import bind
from qwen_asr.web.transport.websocket_protocol import (
    allow_long_messages,
    last_sign_of_life,
    limit_first_message,
    websocket_options,
)
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
        allow_long_messages(scope)
        await self.free.wait()
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            self.received.append(message["bytes"] if text is None else text)
            self.news.set()


def converse(
    client: Callable[[ClientConnection, BusyApp], Awaitable[None]], limits: SocketLimits | None = None
) -> list[str | bytes]:
    """Runs `client` against a server, and returns what its app received."""

    async def run() -> list[str | bytes]:
        app = BusyApp()
        sock = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, **websocket_options(limits)))
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_empty_messages_that_wait_are_bounded_too() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        for _ in range(3 * KIB):
            await connection.send("")
        pong = await connection.ping()
        done, _ = await asyncio.wait([asyncio.ensure_future(pong)], timeout=0.5)
        assert not done  # the server does not read on
        app.free.set()
        await pong

    assert converse(client, SocketLimits(empty_frames_per_second=10 * KIB)) == [""] * 3 * KIB


# --- the budget of frames

NEVER = 2**-20  # frames in a second: none is added while a test runs


def spent(empty: int, frames: int = 10**6) -> SocketLimits:
    """Limits that allow so many frames in a test, and then no more."""
    return SocketLimits(
        empty_frames_per_second=NEVER,
        frames_per_second=frames // empty * NEVER,
        burst_seconds=empty / NEVER,
    )


class Wire(asyncio.Transport):
    """A protocol of the server, with the bytes that it writes and whether it reads."""

    def __init__(self, limits: SocketLimits, *, first_is_limited: bool = False, session_exists: bool = True) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.written = b""
        self.reads = True
        self.closed = False
        self.has_accepted = asyncio.Event()
        config = uvicorn.Config(self.app, interface="asgi3", log_config=None, **websocket_options(limits))
        config.load()
        kind: Any = config.ws_protocol_class
        self.protocol = kind(config=config, server_state=ServerState(), app_state={})
        self.protocol.connection_made(self)
        self.protocol.data_received(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        if first_is_limited:
            limit_first_message(self.protocol.scope)
        if session_exists:
            allow_long_messages(self.protocol.scope)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Accepts, and takes no message."""
        await receive()
        await send({"type": "websocket.accept"})
        self.has_accepted.set()
        await asyncio.Event().wait()

    async def accepted(self) -> None:
        """Returns when the handshake is over."""
        await self.has_accepted.wait()
        self.written = b""

    def receive(self, *frames: Frame) -> None:
        """These frames arrive at once."""
        self.protocol.data_received(b"".join(frame.serialize(mask=True) for frame in frames))

    @property
    def messages(self) -> int:
        """How many messages wait for the app."""
        return sum(message["type"] == "websocket.receive" for message in self.protocol.queue._queue)

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that the protocol has written."""
        return int.from_bytes(self.written[-125:].partition(b"\x88")[2][1:3]) if b"\x88" in self.written else None

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


def on_wire(check: Callable[[Wire], None], limits: SocketLimits, **options: bool) -> None:
    """Runs the check against a protocol that has accepted its handshake."""

    async def run() -> None:
        wire = Wire(limits, **options)
        await wire.accepted()
        check(wire)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(run())


PING, PONG = Frame(Opcode.PING, b""), Frame(Opcode.PONG, b"x")
EMPTY_TEXT, EMPTY_AUDIO = Frame(Opcode.TEXT, b""), Frame(Opcode.BINARY, b"")
AUDIO, TEXT = Frame(Opcode.BINARY, b"x"), Frame(Opcode.TEXT, b"x")


@pytest.mark.parametrize("frame", [PING, PONG, EMPTY_TEXT, EMPTY_AUDIO], ids=["ping", "pong", "text", "audio"])
def test_so_many_frames_that_carry_nothing_are_read_and_one_more_pauses_reading(frame: Frame) -> None:
    def check(wire: Wire) -> None:
        wire.receive(*[frame] * 9)
        wire.receive(frame)
        assert wire.reads
        wire.receive(frame)
        assert not wire.reads
        assert wire.close_code is None

    on_wire(check, spent(10))


@pytest.mark.parametrize("frame", [AUDIO, TEXT], ids=["audio", "text"])
def test_so_many_messages_are_read_and_one_more_pauses_reading(frame: Frame) -> None:
    def check(wire: Wire) -> None:
        wire.receive(*[frame] * 100)
        assert wire.reads
        wire.receive(frame)
        assert not wire.reads

    on_wire(check, spent(10, frames=100))


@pytest.mark.parametrize("frame", [PING, PONG, EMPTY_TEXT, EMPTY_AUDIO, AUDIO], ids=lambda frame: frame.opcode.name)
def test_every_frame_is_a_sign_of_life(frame: Frame) -> None:
    def check(wire: Wire) -> None:
        scope: Any = wire.protocol.scope
        wire.protocol._life.last_at = before = wire.protocol.loop.time() - 100.0
        assert last_sign_of_life(scope) == before
        wire.receive(frame)
        assert last_sign_of_life(scope) >= before + 100.0

    on_wire(check, spent(10))


def test_empty_fragments_count_and_fragments_are_joined_as_they_come() -> None:
    def check(wire: Wire) -> None:
        wire.receive(Frame(Opcode.BINARY, b"a", fin=False), *[Frame(Opcode.CONT, b"b", fin=False)] * 5_000)
        assert len(wire.protocol.frames) == 1
        wire.receive(*[Frame(Opcode.CONT, b"", fin=False)] * 10)
        assert wire.reads
        wire.receive(Frame(Opcode.CONT, b"", fin=False))
        assert not wire.reads

    on_wire(check, spent(10))


def test_what_arrives_at_once_is_parsed_only_as_far_as_the_budget_goes() -> None:
    def check(wire: Wire) -> None:
        wire.receive(*[PING] * 40_000)  # 240 kB, as they come from the kernel in one go
        assert not wire.reads
        assert wire.written.count(b"\x8a") <= 10 + 2048 // 6 + 1  # pongs

    on_wire(check, spent(10))


def test_frames_above_the_budget_are_read_later_and_none_is_lost() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        app.free.set()
        for number in range(1_000):
            await connection.send(str(number))
            if number % 10 == 0:
                await connection.ping()

    limits = SocketLimits(frames_per_second=2_000, empty_frames_per_second=200, burst_seconds=0.1)
    assert converse(client, limits) == [str(number) for number in range(1_000)]


@pytest.mark.slow
def test_a_client_that_does_not_stop_is_closed_with_1008() -> None:
    async def client(connection: ClientConnection, app: BusyApp) -> None:
        app.free.set()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.ping()
                await asyncio.sleep(0)
        assert connection.close_code == 1008
        assert connection.close_reason == "Too many pings or empty frames."

    converse(client, SocketLimits(empty_frames_per_second=1_000, burst_seconds=0.1, flood_seconds=0.2))


# --- the size of messages before a session exists

EARLY = 4 * SocketLimits().config_bytes


def text_of(frame_bytes: int) -> Frame:
    """A text whose frame has so many bytes, its 14 bytes of header included."""
    return Frame(Opcode.TEXT, b"x" * (frame_bytes - 14))


def test_a_first_message_may_have_so_many_bytes_and_one_more_is_closed_with_1009() -> None:
    def fits(wire: Wire) -> None:
        wire.receive(text_of(EARLY))
        assert (wire.messages, wire.close_code) == (1, None)

    def too_long(wire: Wire) -> None:
        wire.receive(text_of(EARLY + 1))
        assert (wire.messages, wire.close_code) == (0, 1009)

    on_wire(fits, SocketLimits(), first_is_limited=True, session_exists=False)
    on_wire(too_long, SocketLimits(), first_is_limited=True, session_exists=False)


def test_the_rest_of_a_long_message_stays_with_the_client_until_its_session_exists() -> None:
    def check(wire: Wire) -> None:
        wire.receive(TEXT)  # the config
        long = text_of(4 * EARLY).serialize(mask=True)
        sent = 0
        while wire.reads:
            wire.protocol.data_received(long[sent : sent + EARLY // 4])
            sent += EARLY // 4
        assert sent == EARLY
        assert (wire.messages, wire.close_code) == (1, None)
        allow_long_messages(wire.protocol.scope)
        assert wire.reads
        wire.protocol.data_received(long[sent:])
        assert wire.messages == 2

    on_wire(check, SocketLimits(), first_is_limited=True, session_exists=False)
