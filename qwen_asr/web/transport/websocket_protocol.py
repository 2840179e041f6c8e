"""How uvicorn serves WebSockets here, and what it does not do: end each connection for certain, without a traceback."""

from __future__ import annotations

import logging
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from qwen_asr.config.limits import SocketLimits

log = logging.getLogger(__name__)
_NO_TEXT = 1007  # RFC 6455 7.4.1: a text that is no UTF-8


def socket_options(limits: SocketLimits | None = None) -> dict[str, Any]:
    """uvicorn's options for WebSockets.

    No pong has a deadline: while a client's audio is not read for back-pressure, neither is its pong behind it. A
    client that is gone is found by `idle_seconds` instead.
    """
    limits = limits or SocketLimits()
    return {
        "ws": _protocol(limits.close_seconds),
        # The sentences about messages that are too long are the session's; what is far longer ends with 1009 here.
        "ws_max_size": 4 * limits.message_bytes,
        "ws_ping_interval": limits.ping_seconds,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,  # audio hardly shrinks, and inflating it would be work of the event loop
    }


def _protocol(close_seconds: float) -> type[WebSocketsSansIOProtocol]:
    class Protocol(WebSocketsSansIOProtocol):
        """uvicorn's, with an end to every connection, and with the right code for one that was lost.

        A transport is closed only once its buffer was sent; a peer that stopped reading would keep it for hours. A
        connection that ends without a close frame is 1006 (RFC 6455, 7.1.5); uvicorn says 1005, as it does of a close
        frame without a code, and only the first may be somebody who comes back. A peer that breaks the protocol is
        closed by uvicorn, which then takes the application's next message, on its way already, for a mistake of the
        application; and it logs a text that is no UTF-8 as one of the server's, and a refused handshake too.
        """

        def connection_lost(self, exc: Exception | None) -> None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            super().connection_lost(exc)
            # Else uvicorn logs, as a mistake of ours, that a client left which was being refused.
            self.handshake_complete = True

        def send_receive_event_to_app(self) -> None:
            data = b"".join(self.frames)
            if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(data):
                log.info("A client sent a text that is no UTF-8.")
                self.frames = []
                self.conn.send_close(_NO_TEXT)
                self.handle_parser_exception()
                return
            super().send_receive_event_to_app()

        async def send(self, message: ASGISendEvent) -> None:
            if self.handshake_complete and self.close_sent:
                raise ClientDisconnected
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                self.handshake_complete = True

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(close_seconds, self.transport.abort)

    Protocol.__module__ = __name__
    return Protocol


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
