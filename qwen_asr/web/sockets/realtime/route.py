"""The route `/v1/realtime`: the handshake in the dialects that clients speak. See docs/openai.md, docs/dashscope.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from qwen_asr.web.access.route_table import DASHSCOPE_REALTIME, REALTIME, route_path
from qwen_asr.web.sockets.realtime.client_secrets import client_secret_routes
from qwen_asr.web.sockets.realtime.connection import RealtimeConnection
from qwen_asr.web.sockets.realtime.dialects import DASHSCOPE, OLD_OPENAI, OPENAI, Dialect
from qwen_asr.web.sockets.route import SocketRoute

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service

PROTOCOL = "realtime"
"""The subprotocol of browsers, which offer others too, in place of headers. The handshake has to accept this one."""
_OLD_PROTOCOL, _OLD_HEADER = "openai-beta.realtime-v1", "realtime=v1"
_DASHSCOPE_AGENT = "dashscope"  # the beginning of the `User-Agent` of Alibaba's packages


class RealtimeRoute(SocketRoute[RealtimeConnection]):
    """The route. Nothing but transcription exists here, so no `intent` is wrong, and no `model`."""

    path = REALTIME
    other_paths = (DASHSCOPE_REALTIME,)

    @classmethod
    def add_to(cls, app: FastAPI, service: Service, limits: SocketLimits | None = None) -> Self:
        """Add the route and those that make client secrets to the app, and return the route."""
        app.router.routes += client_secret_routes(service)
        return super().add_to(app, service, limits)

    async def _accept(self, websocket: WebSocket) -> RealtimeConnection:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        dialect = _dialect(websocket, offered)
        return RealtimeConnection(websocket, self._service, self._limits, self._threads, dialect)

    def _max_connections(self, address: str) -> int:
        return self._service.admission.capacity_of(address)


def _dialect(websocket: WebSocket, offered: list[str]) -> Dialect:
    """What the handshake says about the client."""
    agent = websocket.headers.get("user-agent", "").lower()
    if route_path(websocket.scope) == DASHSCOPE_REALTIME or agent.startswith(_DASHSCOPE_AGENT):
        return DASHSCOPE
    is_old = _OLD_PROTOCOL in offered or _OLD_HEADER in websocket.headers.get("openai-beta", "")
    return OLD_OPENAI if is_old else OPENAI
