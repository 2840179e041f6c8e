"""A WebSocket route: who gets a conversation there, and how all of them end with the server."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import anyio
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError, ServerStopping
from qwen_asr.web.sockets.connection import Connection

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.websockets import WebSocket

    from qwen_asr.service.service import Service

log = logging.getLogger(__name__)
C = TypeVar("C", bound=Connection)


class SocketRoute(ABC, Generic[C]):
    """One route at `path`; its `conversations` are the connections, from the handshake on. A `stopping.Part`."""

    path: ClassVar[str]

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        self._service = service
        self._limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)
        self.connections: set[C] = set()  # changed on the event loop alone

    @classmethod
    def add_to(cls, app: FastAPI, service: Service, limits: SocketLimits | None = None) -> Self:
        """The route, added to the app."""
        route = cls(service, limits or SocketLimits(session_seconds=service.config.max_session_seconds))
        app.router.routes.append(WebSocketRoute(cls.path, route.serve))
        return route

    @abstractmethod
    async def _accepted(self, websocket: WebSocket) -> C:
        """Accepts the handshake; the conversation that is to follow."""

    @property
    @abstractmethod
    def _most(self) -> int:
        """How many conversations there may be."""

    def _check(self, websocket: WebSocket) -> None:
        """Raises the QwenASRError that forbids this client a conversation."""

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from the handshake to the close."""
        connection = await self._accepted(websocket)
        try:
            try:
                self._check(websocket)
                self._check_room()
            except QwenASRError as refusal:
                await connection.refuse(refusal)
                return
            self.connections.add(connection)
            try:
                await connection.run()
            finally:
                self.connections.discard(connection)
        except WebSocketDisconnect:
            log.info("A client left before it had its session, or its close.")

    @property
    def unfinished(self) -> int:
        """How many conversations are going on (see `stopping.Part`)."""
        return len(self.connections)

    async def stop(self) -> None:
        """See `stopping.Part`."""
        for connection in list(self.connections):
            connection.stop()

    def give_up(self) -> None:
        """See `stopping.Part`."""
        for connection in list(self.connections):
            connection.give_up()

    def _check_room(self) -> None:
        if self._service.stopping:
            raise ServerStopping
        if self._service.state != "ready":
            raise NotReady(self._service.text)
        if len(self.connections) >= self._most:
            raise LimitExceeded(f"All {self._most} connections of this server are taken: try again a little later.")
