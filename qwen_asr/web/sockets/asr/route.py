"""`/ws/asr`: who gets a session, and who is told why not. docs/protocol.md says what is exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.web.sockets.asr.connection import AsrConnection
from qwen_asr.web.sockets.asr.registry import Sessions
from qwen_asr.web.sockets.route import SocketRoute

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service


class AsrRoute(SocketRoute[AsrConnection]):
    """The route. Its `sessions` may be without a connection for a while.

    Whether there is a place for a session is decided once its config is here: who resumes one has a place already.
    """

    path = "/ws/asr"

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        super().__init__(service, limits)
        self.sessions = Sessions(limits, service.admission.max_sessions)

    async def _accepted(self, websocket: WebSocket) -> AsrConnection:
        await websocket.accept()
        return AsrConnection(websocket, self._service, self._limits, self._threads, self.sessions)

    @property
    def _most(self) -> int:
        # So many may have a session or wait for one, and others come to take over one whose connection is dead.
        return self._service.admission.capacity + self._service.admission.max_sessions
