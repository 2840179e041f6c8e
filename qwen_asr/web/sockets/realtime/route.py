"""The route `/v1/realtime`: the handshake in both shapes of OpenAI's API. See docs/openai.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.errors import BadField
from qwen_asr.web.sockets.realtime.connection import RealtimeConnection
from qwen_asr.web.sockets.route import SocketRoute
from qwen_asr.web.validation import shown

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

PROTOCOL = "realtime"
"""The subprotocol of browsers, which offer others too, in place of headers. The handshake has to accept this one."""
_OLD_PROTOCOL, _OLD_HEADER = "openai-beta.realtime-v1", "realtime=v1"


class RealtimeRoute(SocketRoute[RealtimeConnection]):
    """The route."""

    path = "/v1/realtime"

    async def _accept(self, websocket: WebSocket) -> RealtimeConnection:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        old_api = _OLD_PROTOCOL in offered or _OLD_HEADER in websocket.headers.get("openai-beta", "")
        return RealtimeConnection(websocket, self._service, self._limits, self._threads, old_api)

    def _max_connections(self, address: str) -> int:
        return self._service.admission.capacity_of(address)

    def _check(self, websocket: WebSocket) -> None:
        intent = websocket.query_params.get("intent")
        if intent != "transcription":
            raise BadField(
                "intent",
                f"The intent is {shown(intent)}; this server only transcribes: connect to "
                f"{self.path}?intent=transcription.",
            )
