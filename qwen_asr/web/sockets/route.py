"""A WebSocket route: which connections it accepts, and how all of them end when the server stops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import anyio
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from qwen_asr.errors import LimitExceeded, QwenASRError
from qwen_asr.web.error_response import error_response
from qwen_asr.web.sockets.connection import Connection, log_seldom

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service

C = TypeVar("C", bound=Connection)


class SocketRoute(ABC, Generic[C]):
    """One route, at `path` and at `other_paths`.

    `connections` are those accepted, and not refused, until they are closed. The route is a part of the server's
    shutdown: `unfinished`, `stop` and `give_up`.
    """

    path: ClassVar[str]
    other_paths: ClassVar[tuple[str, ...]] = ()

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        self._service = service
        self._limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)
        self.connections: set[C] = set()  # changed on the event loop only

    @classmethod
    def add_to(cls, app: FastAPI, service: Service, limits: SocketLimits | None = None) -> Self:
        """Add the route to the app, and return it."""
        config = service.config
        default = replace(
            service.limits.sockets,
            idle_seconds=config.max_idle_seconds,
            pause_seconds=config.max_pause_seconds,
            session_seconds=config.max_session_seconds,
        )
        route = cls(service, limits or default)
        app.router.routes += [WebSocketRoute(path, route.serve) for path in (cls.path, *cls.other_paths)]
        return route

    @abstractmethod
    async def _accept(self, websocket: WebSocket) -> C:
        """Accept the handshake; returns the connection. A QwenASRError is answered with its HTTP status instead."""

    @abstractmethod
    def _max_connections(self, address: str) -> int:
        """How many connections an address may have at once; with an empty address all together."""

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection, from the handshake to the close."""
        try:
            connection = await self._accept(websocket)
        except QwenASRError as error:
            self._service.instruments.count(error)
            await websocket.send_denial_response(error_response(error))
            return
        try:
            try:
                self._check_capacity(connection.address)
            except QwenASRError as error:
                await connection.refuse(error)
                return
            self.connections.add(connection)
            try:
                await connection.run()
            finally:
                self.connections.discard(connection)
        except WebSocketDisconnect:
            log_seldom("A client left before its session began, or before its close.")

    @property
    def unfinished(self) -> int:
        """How many connections are open."""
        return len(self.connections)

    async def stop(self) -> None:
        """Let every connection read nothing more and send its last texts. Returns at once."""
        for connection in list(self.connections):
            connection.stop()

    def give_up(self) -> None:
        """The time is over: let every connection close, whatever is still missing."""
        for connection in list(self.connections):
            connection.give_up()

    def _check_capacity(self, address: str) -> None:
        self._service.check_ready()
        if len(self.connections) >= (most := self._max_connections("")):
            raise LimitExceeded(f"All {most} connections of this server are taken: try again a little later.")
        own = sum(other.address == address for other in self.connections)
        if own >= (share := self._max_connections(address)):
            raise LimitExceeded(
                f"Your address has {share} connections, the most that this server gives to one address: close "
                "one of them, or ask the operator for a higher --max-sessions-per-address."
            )
