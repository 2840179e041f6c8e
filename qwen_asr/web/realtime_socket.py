"""`/v1/realtime`: who gets a session, and who is told why not. docs/openai.md says what is exchanged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from qwen_asr.config import SocketLimits
from qwen_asr.errors import BadField, LimitExceeded, NotReady, QwenASRError, ServerStopping
from qwen_asr.web.access import same_origin
from qwen_asr.web.realtime_conversation import RealtimeConversation
from qwen_asr.web.realtime_settings import shown

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.websockets import WebSocket

    from qwen_asr.web.service import Service

log = logging.getLogger(__name__)

PATH = "/v1/realtime"
PROTOCOL = "realtime"
"""The subprotocol that browsers offer, among others that carry what they have no headers for; it has to be answered."""
_OLD_PROTOCOL, _OLD_HEADER = "openai-beta.realtime-v1", "realtime=v1"


def add_route(app: FastAPI, service: Service, limits: SocketLimits | None = None) -> RealtimeSocket:
    """Adds the WebSocket to the app, whose state then holds it as `realtime_socket`."""
    limits = limits or SocketLimits(session_seconds=service.config.max_session_seconds)
    socket = RealtimeSocket(service, limits)
    app.state.realtime_socket = socket
    app.router.routes.append(WebSocketRoute(PATH, socket.serve))
    return socket


class RealtimeSocket:
    """The route. `conversations` are those going on; a connection is one from the handshake on."""

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        self._service = service
        self._limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)
        self.conversations: set[RealtimeConversation] = set()  # changed on the event loop alone

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from the handshake to the close."""
        if not same_origin(websocket.headers):
            sentence = "This address is for its own pages and for programs, not for pages of other sites.\n"
            await websocket.send_denial_response(PlainTextResponse(sentence, status_code=403))
            return
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        old = _OLD_PROTOCOL in offered or _OLD_HEADER in websocket.headers.get("openai-beta", "")
        conversation = RealtimeConversation(websocket, self._service, self._limits, self._threads, old)
        try:
            if (refusal := self._refusal(websocket)) is not None:
                await conversation.refuse(refusal)
                return
            self.conversations.add(conversation)
            try:
                await conversation.run()
            finally:
                self.conversations.discard(conversation)
        except WebSocketDisconnect:
            log.info("A client left before it had its session, or its close.")

    @property
    def unfinished(self) -> int:
        """How many conversations are going on (see `stopping.Part`)."""
        return len(self.conversations)

    async def stop(self) -> None:
        """See `stopping.Part`."""
        for conversation in list(self.conversations):
            conversation.stop()

    def give_up(self) -> None:
        """See `stopping.Part`."""
        for conversation in list(self.conversations):
            conversation.give_up()

    def _refusal(self, websocket: WebSocket) -> QwenASRError | None:
        most = self._service.admission.capacity
        intent = websocket.query_params.get("intent")
        if intent != "transcription":
            return BadField(
                "intent",
                f"The intent is {shown(intent)}; this server only transcribes: connect to "
                f"{PATH}?intent=transcription.",
            )
        if self._service.stopping:
            return ServerStopping()
        if self._service.state != "ready":
            return NotReady(self._service.text)
        if len(self.conversations) >= most:
            return LimitExceeded(f"All {most} connections of this server are taken: try again a little later.")
        return None
