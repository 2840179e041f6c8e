"""`/ws/asr`: who gets a session, and who is told why not. docs/protocol.md says what is exchanged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from qwen_asr.config import SocketLimits
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError
from qwen_asr.web.access import same_origin
from qwen_asr.web.asr_conversation import Conversation

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.websockets import WebSocket

    from qwen_asr.web.service import Service

log = logging.getLogger(__name__)

PATH = "/ws/asr"


def add_route(app: FastAPI, service: Service, limits: SocketLimits | None = None) -> AsrSocket:
    """Adds the WebSocket to the app, whose state then holds it as `asr_socket`."""
    limits = limits or SocketLimits(session_seconds=service.config.max_session_seconds)
    socket = AsrSocket(service, limits)
    app.state.asr_socket = socket
    app.router.routes.append(WebSocketRoute(PATH, socket.serve))
    return socket


class AsrSocket:
    """The route. `conversations` are those going on; a connection is one from the handshake on."""

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        self._service = service
        self._limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)
        self.conversations: set[Conversation] = set()  # changed on the event loop alone

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from the handshake to the close."""
        if not same_origin(websocket.headers):
            sentence = "This address is for its own pages and for programs, not for pages of other sites.\n"
            await websocket.send_denial_response(PlainTextResponse(sentence, status_code=403))
            return
        await websocket.accept()
        conversation = Conversation(websocket, self._service, self._limits, self._threads)
        try:
            if (refusal := self._refusal()) is not None:
                await conversation.refuse(refusal)
                return
            self.conversations.add(conversation)
            try:
                await conversation.run()
            finally:
                self.conversations.discard(conversation)
        except WebSocketDisconnect:
            log.info("A client left before it had its session, or its close.")

    def _refusal(self) -> QwenASRError | None:
        most = self._service.admission.capacity
        if self._service.state != "ready":
            return NotReady(self._service.text)
        if len(self.conversations) >= most:
            return LimitExceeded(f"All {most} connections of this server are taken: try again a little later.")
        return None
