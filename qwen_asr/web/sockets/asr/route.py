"""The route `/ws/asr`: its connections, and the sessions that can be resumed. See docs/protocol.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.web.access.route_table import ASR
from qwen_asr.web.sockets.asr.connection import AsrConnection
from qwen_asr.web.sockets.asr.registry import ResumableSessions
from qwen_asr.web.sockets.route import SocketRoute
from qwen_asr.web.transport.websocket_protocol import limit_first_message

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service


class AsrRoute(SocketRoute[AsrConnection]):
    """The route. Its `sessions` may be without a connection for a while.

    A client needs a slot only once its config is known: one that resumes a session already has a slot.
    """

    path = ASR

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        super().__init__(service, limits)
        self.sessions = ResumableSessions(limits, service.admission.max_sessions)

    async def _accept(self, websocket: WebSocket) -> AsrConnection:
        limit_first_message(websocket.scope)
        await websocket.accept()
        return AsrConnection(websocket, self._service, self._limits, self._threads, self.sessions)

    def _max_connections(self, address: str) -> int:
        # Those with a session or in the queue, and as many that take over a session whose connection is dead.
        admission = self._service.admission
        return admission.capacity_of(address) + admission.sessions_of(address)
