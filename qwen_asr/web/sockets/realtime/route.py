"""`/v1/realtime`: who gets a session, and who is told why not. docs/openai.md says what is exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.errors import BadField
from qwen_asr.web.sockets.realtime.connection import RealtimeConnection
from qwen_asr.web.sockets.realtime.settings import shown
from qwen_asr.web.sockets.route import SocketRoute

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

PROTOCOL = "realtime"
"""The subprotocol that browsers offer, among others that carry what they have no headers for; it has to be answered."""
_OLD_PROTOCOL, _OLD_HEADER = "openai-beta.realtime-v1", "realtime=v1"


class RealtimeRoute(SocketRoute[RealtimeConnection]):
    """The route."""

    path = "/v1/realtime"

    async def _accepted(self, websocket: WebSocket) -> RealtimeConnection:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        old = _OLD_PROTOCOL in offered or _OLD_HEADER in websocket.headers.get("openai-beta", "")
        return RealtimeConnection(websocket, self._service, self._limits, self._threads, old)

    @property
    def _most(self) -> int:
        return self._service.admission.capacity

    def _check(self, websocket: WebSocket) -> None:
        intent = websocket.query_params.get("intent")
        if intent != "transcription":
            raise BadField(
                "intent",
                f"The intent is {shown(intent)}; this server only transcribes: connect to "
                f"{self.path}?intent=transcription.",
            )
