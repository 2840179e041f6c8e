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
        """uvicorn's, with an end to every connection.

        A transport is closed only once its buffer was sent; a peer that stopped reading would keep it for hours.
        """

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(close_seconds, self.transport.abort)

    Protocol.__module__ = __name__
    return Protocol
