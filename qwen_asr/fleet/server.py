"""`EngineServer`: serves the engine of this process to schedulers in other processes, on a WebSocket of its own.

The port also answers `GET /healthz`, `/readyz` and `/metrics`, so that whatever supervises the process needs no second
one. Both rooms to the right give what it does not know: keys, TLS, metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from qwen_asr.config.engine_addresses import PATH
from qwen_asr.config.limits import RETRY_AFTER_SECONDS, FleetLimits
from qwen_asr.errors import BadInput, QwenASRError, TooLarge
from qwen_asr.fleet.frames import HEADER, MESSAGE_BYTES, NOTICE, PART_BYTES, Assembler, frames
from qwen_asr.fleet.messages import Draining, Refused, Reply, Request, decode, encode

if TYPE_CHECKING:
    from qwen_asr.fleet.host import EngineHost

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.websockets")
_quiet.setLevel(logging.CRITICAL)  # a port scanner's handshakes are no errors of ours


class EngineServer:
    """Serves `host` once it is set. Everything here belongs to one event loop.

    `allows` tells whether a key may use it; None without keys. `metrics` makes the text of `/metrics` and its type from
    the `Accept` header. `unhealthy_reason` is that of the engine, None while all is well. `loading` is what the
    process does before it has a host, for people.
    """

    def __init__(
        self,
        *,
        allows: Callable[[str], bool] | None = None,
        metrics: Callable[[str], tuple[bytes, str]] | None = None,
        unhealthy_reason: Callable[[], str | None] = lambda: None,
        limits: FleetLimits | None = None,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        self.host: EngineHost | None = None
        self.loading = "Loading …"
        self.draining = False
        self._allows, self._metrics, self._unhealthy_reason = allows, metrics, unhealthy_reason
        self._limits = limits or FleetLimits()
        self._message_bytes = message_bytes
        self._connections: set[ServerConnection] = set()
        self._answers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(
        self, listener: socket.socket | str, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[None]:
        """Serves on a socket that listens, or on a Unix socket with this path, while the context lasts."""
        limits = self._limits
        options: dict[str, Any] = {
            "process_request": self._process_request,
            "compression": None,  # samples do not get smaller
            "max_size": HEADER.size + PART_BYTES,
            "open_timeout": limits.connect_seconds,
            "ping_interval": limits.peer_ping_seconds,
            "ping_timeout": limits.peer_ping_seconds,
            "close_timeout": limits.close_seconds,
            "logger": _quiet,
            "server_header": None,
            "ssl": context,
        }
        if isinstance(listener, str):
            serving = unix_serve(self._serve_connection, listener, **options)
        else:
            serving = serve(self._serve_connection, sock=listener, **options)
        try:
            async with serving:
                yield
        finally:
            for answer in self._answers:
                answer.cancel()

    async def drain(self, seconds: float) -> bool:
        """Takes no new steps, and returns once those under way are answered, or after `seconds`; returns whether all
        are."""
        self.draining = True
        host = self.host
        if host is None:
            return True
        host.drain()
        notice = b"".join(frames(NOTICE, encode(Draining())))
        for connection in list(self._connections):
            with contextlib.suppress(ConnectionClosed):
                await connection.send(notice)
        is_idle = await asyncio.to_thread(host.wait_idle, seconds)
        if self._answers:
            await asyncio.wait(list(self._answers), timeout=self._limits.close_seconds)
        return is_idle

    def readiness(self) -> tuple[str, str]:
        """What `/readyz` says: "ready", "loading", "stopping" or "failed", and a sentence."""
        if self.draining:
            return "stopping", "The engine is about to stop."
        if reason := self._unhealthy_reason():
            return "failed", reason
        return ("loading", self.loading) if self.host is None else ("ready", "Ready")

    # --- HTTP

    def _process_request(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """The answer to a request that opens no WebSocket; None for one that does."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            reason = self._unhealthy_reason()
            return _json(
                503 if reason else 200, {"status": "unhealthy", "text": reason} if reason else {"status": "ok"}
            )
        if path == "/readyz":
            state, text = self.readiness()
            return _json(200 if state == "ready" else 503, {"status": state, "text": text})
        if path not in (PATH, "/metrics"):
            return _text(404, f"An engine has {PATH}, /healthz, /readyz and /metrics; speech goes to the web server.")
        if self._allows is not None and not self._allows(_key(request.headers)):
            return _text(401, "The API key is missing or wrong.")
        if path == "/metrics":
            if self._metrics is None:
                return _text(404, "This engine has no metrics.")
            body, kind = self._metrics(request.headers.get("Accept", ""))
            return _response(200, body, kind)
        state, text = self.readiness()
        if state != "ready":
            return _text(503, text)
        if len(self._connections) >= self._limits.connections:
            return _text(503, f"The engine has {self._limits.connections} connections, the most that it accepts.")
        return None

    # --- calls

    async def _serve_connection(self, connection: ServerConnection) -> None:
        host = self.host
        if host is None:  # `_process_request` refuses connections until it is set
            return
        self._connections.add(connection)
        slots = asyncio.Semaphore(self._limits.calls)
        assembler = Assembler(self._message_bytes)
        try:
            async for frame in connection:
                whole = assembler.add(frame)
                if whole is None:
                    continue
                await slots.acquire()  # above the limit nothing more is read, and the peer's sends wait
                task = asyncio.create_task(self._answer(host, connection, *whole))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
                task.add_done_callback(lambda _: slots.release())
        except QwenASRError as error:
            log.warning("A connection was closed: %s", error)
            await connection.close(TooLarge.close_code if isinstance(error, TooLarge) else 1007, str(error)[:120])
        except ConnectionClosed:
            pass  # the peer is gone, and its scheduler asks again elsewhere
        finally:
            self._connections.discard(connection)

    async def _answer(self, host: EngineHost, connection: ServerConnection, call: int, data: bytes) -> None:
        reply = await answer(host, data)
        with contextlib.suppress(ConnectionClosed):
            for frame in frames(call, encode(reply)):
                await connection.send(frame)


async def answer(host: EngineHost, data: bytes) -> Reply:
    """The reply to an encoded request. Never raises: what fails is answered with `Refused`. Cancelling it cancels the
    call."""
    try:
        request = decode(data)
        if not isinstance(request, Request):
            raise BadInput(f"{type(request).__name__} is an answer; an engine expects a request.")
        return await asyncio.wrap_future(host.call(request))
    except QwenASRError as error:
        return Refused(type(error).__name__, str(error))
    except Exception as error:
        log.exception("A call failed")
        return Refused("QwenASRError", f"The engine failed ({type(error).__name__}). Its log says more.")


def _key(headers: Headers) -> str:
    """The key of `Authorization: Bearer KEY`, or ""."""
    try:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
    except LookupError:  # given more than once
        return ""
    return key.strip() if scheme.lower() == "bearer" else ""


def _json(status: int, body: dict[str, Any]) -> Response:
    return _response(status, json.dumps(body).encode(), "application/json")


def _text(status: int, body: str) -> Response:
    return _response(status, f"{body}\n".encode(), "text/plain; charset=utf-8")


def _response(status: int, body: bytes, kind: str) -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(status, HTTPStatus(status).phrase, headers, body)
