"""`/ws/asr`: who gets a session, and who is told why not. docs/protocol.md says what is exchanged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from qwen_asr.config import SocketLimits
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError, ServerStopping
from qwen_asr.web.access import same_origin
from qwen_asr.web.asr_conversation import Conversation
from qwen_asr.web.asr_sessions import Sessions

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
    """The route. `conversations` are the connections, from the handshake on; `sessions` may be without one for a while.

    Whether there is a place for a session is decided once its config is here: who resumes one has a place already.
    """

    def __init__(self, service: Service, limits: SocketLimits) -> None:
        self._service = service
        self._limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)
        self.sessions = Sessions(limits, service.admission.max_sessions)
        self.conversations: set[Conversation] = set()  # changed on the event loop alone

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from the handshake to the close."""
        if not same_origin(websocket.headers):
            sentence = "This address is for its own pages and for programs, not for pages of other sites.\n"
            await websocket.send_denial_response(PlainTextResponse(sentence, status_code=403))
            return
        await websocket.accept()
        conversation = Conversation(websocket, self._service, self._limits, self._threads, self.sessions)
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

    def _refusal(self) -> QwenASRError | None:
        if self._service.stopping:
            return ServerStopping()
        if self._service.state != "ready":
            return NotReady(self._service.text)
        # So many may have a session or wait for one, and others come to take over one whose connection is dead.
        admission = self._service.admission
        if len(self.conversations) >= admission.capacity + admission.max_sessions:
            return LimitExceeded("This server has no more room for connections: try again a little later.")
        return None
