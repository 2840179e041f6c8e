"""The route `/v1/listen` for live audio. A wrong request is refused before the handshake. See docs/deepgram.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

from qwen_asr.audio.pcm import PcmStream
from qwen_asr.errors import AudioError, BadField, BadInput
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.access.credentials import KEY_PROTOCOLS
from qwen_asr.web.access.route_table import LISTEN
from qwen_asr.web.sockets.deepgram.connection import ListenConnection, session_options
from qwen_asr.web.sockets.deepgram.query import LiveQuery
from qwen_asr.web.sockets.route import SocketRoute

if TYPE_CHECKING:
    from starlette.websockets import WebSocket


class ListenRoute(SocketRoute[ListenConnection]):
    """The route."""

    path = LISTEN

    async def _accept(self, websocket: WebSocket) -> ListenConnection:
        query = LiveQuery.of(websocket.query_params)
        self._check_capacity(sender(websocket.scope))
        await anyio.to_thread.run_sync(self._check_query, query, limiter=self._threads)
        connection = ListenConnection(websocket, self._service, self._limits, self._threads, query)
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(
            next((name for name in offered if name in KEY_PROTOCOLS), None),
            headers=[(b"dg-request-id", connection.metadata.request_id.encode())],
        )
        return connection

    def _check_query(self, query: LiveQuery) -> None:
        """Raises BadField for what only shows when the session is made."""
        try:
            PcmStream(query.pcm_encoding, query.rate)
        except AudioError as error:
            raise BadField("sample_rate", str(error)) from None
        try:
            self._service.check_options(session_options(self._service, query))
        except BadInput as error:
            raise BadField("keyterm", str(error)) from None

    def _max_connections(self, address: str) -> int:
        return self._service.admission.capacity_of(address)
