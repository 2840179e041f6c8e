"""`SocketCalls`: engines that are reached over our own socket, see `server`.

A thread with an event loop keeps one connection to each engine, and connects again for ever. It completes the calls, so
their callbacks must be quick. An engine joins once its hello has been checked, and leaves when its connection breaks,
when it does not answer pings, or when it says that it is about to stop. A key belongs to the engine that wins its
rendezvous (the highest hash of key and engine; Thaler and Ravishankar, 1998), so one that joins or leaves moves only
its own share of the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from itertools import count
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.config.limits import FleetLimits
from qwen_asr.errors import BadInput, QwenASRError
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.frames import HEADER, LONG_MESSAGES, NOTICE, PART_BYTES, Assembler, frames
from qwen_asr.fleet.messages import VERSION, Draining, Hello, HelloRequest, Refused, Reply, Request, decode, encode

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.websockets")
_quiet.setLevel(logging.CRITICAL)  # what matters of a connection is logged here, as a sentence


class CannotJoin(QwenASRError):
    """The engine answers, but cannot be used: another checkpoint or version, or a wrong key."""


class SocketCalls:
    """See `Calls`. It connects from the start; `wait` waits for the first engine.

    `api_key` is sent to every engine. `context` checks the certificates of `wss://` addresses, by default like any
    program: against the authorities of the system, or those in `SSL_CERT_FILE`. A host name that has several addresses
    (a headless service of Kubernetes) stands for as many engines; of a name with both kinds the IPv4 addresses count.
    `on_close` is called at the end.
    """

    def __init__(
        self,
        addresses: Sequence[EngineAddress],
        *,
        api_key: str | None = None,
        context: ssl.SSLContext | None = None,
        limits: FleetLimits | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits = limits or FleetLimits()
        self.lost = 0
        """How often an engine that had joined was lost."""
        self._addresses = tuple(addresses)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._on_close = on_close
        self._context = context or ssl.create_default_context()
        self._joined: tuple[_Connection, ...] = ()  # replaced, never changed, so that any thread may read it
        self._links: dict[EngineAddress, _Link] = {}
        self._hello: Hello | None = None
        self._has_joined = threading.Event()
        self._none_left = asyncio.Event()  # set for a moment, when the last engine has left
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="qwen-asr-engines", daemon=True)
        self._thread.start()

    @property
    def hello(self) -> Hello:
        """See `Calls`. Raises `NoEngine` before the first engine has joined."""
        if self._hello is None:
            raise NoEngine(self.unavailable_reason() or "No engine has joined yet.")
        return self._hello

    @property
    def joined(self) -> tuple[str, ...]:
        """The addresses of the engines that can be asked now, sorted."""
        return tuple(sorted(str(connection.address) for connection in self._joined))

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until an engine has joined; returns whether one has."""
        return self._has_joined.wait(seconds)

    def engine_for(self, key: str) -> str | None:
        """The address of the engine that `key` belongs to now; None if there is none."""
        connection = _winner(self._joined, key)
        return None if connection is None else str(connection.address)

    def call(self, request: Request, key: str) -> Future[Reply]:
        """See `Calls`."""
        future: Future[Reply] = Future()
        connection = _winner(self._joined, key)
        if connection is None:
            future.set_exception(NoEngine(self.unavailable_reason() or "No engine can be reached now."))
            return future
        message = encode(request)
        try:
            self._loop.call_soon_threadsafe(connection.start, message, future)
        except RuntimeError:  # the loop is closed
            future.set_exception(EngineLost("The connections to the engines are closed."))
        return future

    def unavailable_reason(self) -> str | None:
        """See `Calls`."""
        if self._joined:
            return None
        links = list(self._links.values())
        described = []
        for address in self._addresses:
            reasons = dict.fromkeys(link.reason for link in links if link.named == address and link.reason)
            described.append(f"{address} ({'; '.join(reasons)})" if reasons else str(address))
        return f"Waiting for an engine at {', '.join(described)}."

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why engines cannot be asked now, each once and without addresses."""
        return tuple(dict.fromkeys(link.reason for link in list(self._links.values()) if link.reason))

    def close(self) -> None:
        """See `Calls`."""
        self._closed = True
        with contextlib.suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()
        self._on_close()

    # --- on the event loop

    def _run(self) -> None:
        self._main = self._loop.create_task(self._keep_connected())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _keep_connected(self) -> None:
        async with asyncio.TaskGroup() as group:
            for address in self._addresses:
                if address.socket or _is_number(address.host):
                    self._follow(group, address, address.host)
                else:
                    group.create_task(self._resolve(group, address))

    def _follow(self, group: asyncio.TaskGroup, address: EngineAddress, host: str) -> None:
        one = replace(address, host=host)
        if one not in self._links:
            link = self._links[one] = _Link(self, one, address)
            group.create_task(link.run()).add_done_callback(lambda _: self._links.pop(one, None))

    async def _resolve(self, group: asyncio.TaskGroup, address: EngineAddress) -> None:
        """Follows the addresses of a name, which may change. One that is no longer listed is left when it is lost."""
        while True:
            try:
                found = await self._loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                if not any(link.named == address for link in self._links.values()):
                    log.warning("%s: the name cannot be resolved (%s).", address, error)
            else:
                numbers = {(family, str(target[0])) for family, _, _, _, target in found}
                families = [family for family, _ in numbers]
                chosen = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
                hosts = {number for family, number in numbers if family == chosen}
                for host in sorted(hosts):
                    self._follow(group, address, host)
                for link in self._links.values():
                    link.is_listed = link.is_listed if link.named != address else link.address.host in hosts
            await asyncio.sleep(self.limits.resolve_seconds)

    async def open(self, link: _Link) -> ClientConnection:
        """A new connection for a link."""
        address, limits = link.address, self.limits
        where: dict[str, Any] = (
            {"unix": True, "path": address.socket}
            if address.socket
            else {"host": address.host, "port": address.port} | ({"ssl": self._context} if address.tls else {})
        )
        return await connect(
            link.named.url,
            additional_headers=self._headers,
            proxy=None,
            compression=None,
            max_size=HEADER.size + PART_BYTES,
            open_timeout=limits.connect_seconds,
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.pong_seconds,
            close_timeout=limits.close_seconds,
            logger=_quiet,
            **where,
        )

    def join(self, connection: _Connection, hello: Hello) -> None:
        """Lets calls go to an engine. Raises CannotJoin for one that its siblings, or this version, do not match."""
        if hello.version != VERSION:
            raise CannotJoin(
                f"it speaks version {hello.version} of the messages, and this server {VERSION}: run the same version "
                "of the program on both sides."
            )
        known = self._hello
        if known is not None and known.info.digest != hello.info.digest:
            ours, theirs = _described(known), _described(hello)
            if self._joined:
                others = ", ".join(self.joined)
                raise CannotJoin(
                    f"it has the checkpoint {theirs}, but {others} has {ours}: run the same "
                    "checkpoint on all engines, with the same --dtype and --quantize."
                )
            log.warning("The engines have another checkpoint now: %s instead of %s.", theirs, ours)
        self._hello = hello
        self._joined = (*self._joined, connection)
        self._has_joined.set()

    def leave(self, connection: _Connection) -> bool:
        """No more calls go to the engine. Returns whether it had joined."""
        before = self._joined
        self._joined = tuple(other for other in before if other is not connection)
        if before and not self._joined:
            self._none_left.set()  # wakes who waits now
            self._none_left.clear()
        return len(self._joined) < len(before)

    async def pause(self, seconds: float) -> None:
        """Waits before another attempt at an engine that was refused, for its siblings' sake at most until they go."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none_left.wait(), seconds)


class _Link:
    """Connects to one engine, again and again. `reason` is why it cannot be asked now, "" if it can."""

    def __init__(self, calls: SocketCalls, address: EngineAddress, named: EngineAddress) -> None:
        self.address, self.named = address, named
        self.is_listed = True  # False once its name has other addresses
        self.reason = "connecting"
        self._calls = calls
        self._logged = ""
        self._has_joined = False

    async def run(self) -> None:
        """Ends only with its name: see `SocketCalls._resolve`."""
        limits = self._calls.limits
        wait = limits.retry_seconds
        while True:
            try:
                await self._serve()
                wait = limits.retry_seconds
            except CannotJoin as error:
                self._failed(str(error).rstrip("."), logging.ERROR)
                await self._calls.pause(limits.refused_seconds)
                wait = limits.retry_seconds
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                is_busy = isinstance(error, InvalidStatus)  # it answers, and only loads, or stops
                self._failed(_sentence(error, limits), logging.INFO if is_busy else logging.WARNING)
                wait = min(wait * 2, limits.retry_most_seconds)
            except Exception as error:  # the other engines go on
                log.exception("The connection to %s failed", self.address)
                self.reason = f"{type(error).__name__}, see the log"
                wait = limits.refused_seconds
            if not self.is_listed:
                return
            await asyncio.sleep(wait * random.uniform(0.7, 1))  # noqa: S311 - so that many do not come at once

    def _failed(self, reason: str, level: int) -> None:
        self.reason = reason
        if reason != self._logged:
            if self.address.socket and not self._has_joined:
                level = logging.DEBUG  # this server has just started it, and tells by itself if that fails
            log.log(level, "The engine at %s cannot be used: %s", self.address, reason)
            self._logged = reason

    async def _serve(self) -> None:
        """One connection, from its start to its end."""
        calls = self._calls
        try:
            opened = await calls.open(self)
        except InvalidStatus as error:
            if (refusal := _refusal(error)) is not None:
                raise CannotJoin(refusal) from None
            raise
        async with opened:
            connection = _Connection(calls, self.address, opened)
            reading = asyncio.create_task(connection.read())
            try:
                hello = await connection.hello(calls.limits.connect_seconds)
                calls.join(connection, hello)
                self.reason = self._logged = ""
                self._has_joined = True
                log.info("The engine at %s has joined: %s", self.address, _described(hello))
                self.reason = await reading
            finally:
                reading.cancel()
                self._left(connection, self.reason or "this server stops")

    def _left(self, connection: _Connection, reason: str) -> None:
        had_joined = self._calls.leave(connection) or connection.is_draining
        under_way = connection.fail(EngineLost(f"The engine at {self.address} is lost: {reason}."))
        if had_joined and not self._calls._closed:
            self._calls.lost += not connection.is_draining
            level = logging.INFO if connection.is_draining else logging.WARNING
            log.log(level, "The engine at %s has left: %s; calls under way: %d.", self.address, reason, under_way)
            if not self._calls.joined:
                log.error("No engine is left: sessions wait until one is back.")


class _Connection:
    """A connection to an engine, and the calls that are under way on it."""

    def __init__(self, calls: SocketCalls, address: EngineAddress, opened: ClientConnection) -> None:
        self.address = address
        self.name = str(address).encode()
        self.is_draining = False
        self._calls, self._opened = calls, opened
        self._numbers = count(NOTICE + 1)
        self._waiting: dict[int, Future[Reply]] = {}
        self._lost: EngineLost | None = None
        self._long = asyncio.Semaphore(LONG_MESSAGES)
        self._sending: set[asyncio.Task[None]] = set()

    def start(self, message: bytes, future: Future[Reply]) -> None:
        """Sends a request; its answer completes `future`."""
        if self._lost is not None:
            _fail(future, self._lost)
            return
        number = next(self._numbers)
        self._waiting[number] = future
        task = asyncio.create_task(self._send(number, message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, number: int, message: bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # `fail` tells the caller
            if len(message) <= PART_BYTES:
                await self._opened.send(next(frames(number, message)))
                return
            async with self._long:
                for frame in frames(number, message):
                    await self._opened.send(frame)

    async def hello(self, seconds: float) -> Hello:
        """Asks the engine who it is. Raises CannotJoin, TimeoutError."""
        future: Future[Reply] = Future()
        self.start(encode(HelloRequest()), future)
        async with asyncio.timeout(seconds):
            try:
                reply = await asyncio.wrap_future(future)
            except EngineLost as error:
                raise ConnectionResetError(str(error)) from None
            except BadInput as error:
                raise CannotJoin(str(error)) from None
        if isinstance(reply, Refused):
            raise CannotJoin(reply.message)
        if not isinstance(reply, Hello):
            raise ConnectionResetError("the engine is about to stop")
        return reply

    async def read(self) -> str:
        """Completes calls until the connection ends; returns why it did, for people."""
        assembler = Assembler()
        try:
            async for frame in self._opened:
                if (whole := assembler.add(frame)) is not None:
                    self._take(*whole)
        except ConnectionClosed as error:
            return _closing(error, self._calls.limits)
        except BadInput as error:
            return str(error).rstrip(".")
        return "it has closed the connection"

    def _take(self, number: int, data: bytes) -> None:
        if number == NOTICE:
            self._drains()
            return
        future = self._waiting.pop(number, None)
        if future is None or future.cancelled():
            return
        try:
            reply = decode(data)
        except BadInput as error:
            _fail(future, error)
            return
        if isinstance(reply, Draining):
            self._drains()
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            future.set_result(reply)  # type: ignore[arg-type]  # who asks gets what belongs to the request

    def _drains(self) -> None:
        """The engine is about to stop: its calls under way are answered, and no more go there."""
        if not self.is_draining:
            self.is_draining = True
            self._calls.leave(self)
            log.info("The engine at %s is about to stop; new calls go to others.", self.address)

    def fail(self, error: EngineLost) -> int:
        """All calls under way fail, and all to come. Returns how many were under way."""
        self._lost = error
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            _fail(future, error)
        return len(waiting)


def _winner(joined: tuple[_Connection, ...], key: str) -> _Connection | None:
    def weight(connection: _Connection) -> bytes:
        return hashlib.blake2b(connection.name + b"\0" + key.encode(), digest_size=8).digest()

    return max(joined, key=weight, default=None)


def _fail(future: Future[Reply], error: QwenASRError) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        future.set_exception(error)


def _described(hello: Hello) -> str:
    return f"{hello.info.name} in {hello.info.form} ({hello.info.digest[:12]})"


def _is_number(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True


def _refusal(error: InvalidStatus) -> str | None:
    """Why an engine refuses the connection for longer; None if it may accept it soon."""
    status = error.response.status_code
    if status == 401:
        return "it refuses the API key: give its --api-key here as --engine-api-key."
    if status == 503:
        return None
    return f"it answers with status {status}, so it is no engine of this program: check the address."


def _sentence(error: Exception, limits: FleetLimits) -> str:
    """Why connecting failed."""
    if isinstance(error, InvalidStatus):
        return error.response.body.decode(errors="replace").strip().rstrip(".") or "it is not ready"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}): give its authority, or the certificate itself "
            "if it is self-signed, with --engine-ca-certs"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'without a reason'}): does it speak wss?"
    if isinstance(error, TimeoutError):
        return f"no answer within {limits.connect_seconds:g} s"
    if isinstance(error, InvalidMessage | ConnectionClosed):
        return "it does not answer as an engine does: check the port, and whether it is ws or wss"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__


def _closing(error: ConnectionClosed, limits: FleetLimits) -> str:
    """Why a connection ended."""
    if error.sent is not None and error.sent.reason == "keepalive ping timeout":
        return f"it has not answered a ping for {limits.pong_seconds:g} s"
    if error.rcvd is not None and error.rcvd.reason:
        return error.rcvd.reason
    return "it has closed the connection" if error.rcvd is not None else "the connection broke"
