"""How uvicorn serves WebSockets here, and the one thing that it does not do: end a connection for certain."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from qwen_asr.config import SocketLimits


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
        frame without a code, and only the first may be somebody who comes back.
        """

        def connection_lost(self, exc: Exception | None) -> None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            super().connection_lost(exc)

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(close_seconds, self.transport.abort)

    Protocol.__module__ = __name__
    return Protocol
