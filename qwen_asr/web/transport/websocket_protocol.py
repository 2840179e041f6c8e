"""uvicorn's WebSocket protocol, with fixes for connections that never end and for errors that are the client's."""

from __future__ import annotations

import logging
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from qwen_asr.config.limits import SocketLimits

log = logging.getLogger(__name__)
_WAITING_BYTES = 1 << 16
"""What a connection may hold for its app before reading pauses: a second of float32 at 16 kHz."""
_MESSAGE_OVERHEAD = 64  # bytes that a message counts more than it holds, so that empty ones are bounded too
_INVALID_TEXT = 1007  # close code for text that is not UTF-8 (RFC 6455, section 7.4.1)


def websocket_options(limits: SocketLimits | None = None) -> dict[str, Any]:
    """uvicorn's options for WebSockets.

    Pongs have no deadline: while back-pressure stops reading a client's audio, the pong behind that audio is not read
    either. `idle_seconds` finds clients that are gone.
    """
    limits = limits or SocketLimits()
    return {
        "ws": protocol_class(limits.close_seconds),
        # Sessions refuse messages above `message_bytes` with an error message; only far longer ones end here with 1009.
        "ws_max_size": 4 * limits.message_bytes,
        "ws_ping_interval": limits.ping_seconds,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,  # audio hardly shrinks, and inflating would take time of the event loop
    }


def protocol_class(close_seconds: float) -> type[WebSocketsSansIOProtocol]:
    """The protocol for uvicorn's `ws`; it aborts a connection `close_seconds` after its app has returned."""

    class WebSocketProtocol(WebSocketsSansIOProtocol):
        """What differs from uvicorn's:

        - A connection ends some time after its app has returned. A transport closes only when its buffer is sent, which
          may be hours if the peer does not read.
        - A connection that ends without a close frame has code 1006 (RFC 6455, section 7.1.5). uvicorn reports 1005, as
          for a close frame without a code. Sessions can be resumed after 1006 only.
        - After closing a peer for a protocol error, uvicorn treats the app's next message as the app's mistake. Here
          the app gets `ClientDisconnected`.
        - Reading pauses once `_WAITING_BYTES` wait for the app, not at every message, which would take two system calls
          for each. Binary messages that wait are joined: they are pieces of one stream of audio. So a busy server
          handles more audio at once, and an idle one each message as it comes.
        - Text that is not UTF-8 and refused handshakes are no errors of the server, and are not logged as such.
        """

        def connection_lost(self, exc: Exception | None) -> None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            super().connection_lost(exc)
            # Otherwise uvicorn logs an error if a client leaves while its handshake is being refused.
            self.handshake_complete = True

        _waiting_bytes = 0
        _last_binary: Any = None  # the newest message in the queue, if it is binary

        def send_receive_event_to_app(self) -> None:
            data, self.frames = b"".join(self.frames), []
            if self.close_sent:
                return  # the app takes no more, and reading goes on to the peer's close frame, as in uvicorn
            if self.queue.empty():
                self._waiting_bytes, self._last_binary = 0, None
            if self.curr_msg_data_type == "text":
                try:
                    self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
                except UnicodeDecodeError:
                    log.info("A client sent a text message that is not UTF-8.")
                    self.conn.send_close(_INVALID_TEXT)
                    self.handle_parser_exception()
                    return
                self._last_binary = None
            elif self._last_binary is not None and len(self._last_binary["bytes"]) + len(data) <= _WAITING_BYTES:
                self._last_binary["bytes"] += data
            else:
                self._last_binary = {"type": "websocket.receive", "bytes": data}
                self.queue.put_nowait(self._last_binary)
            self._waiting_bytes += len(data) + _MESSAGE_OVERHEAD
            if self._waiting_bytes >= _WAITING_BYTES and not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()

        async def send(self, message: ASGISendEvent) -> None:
            if self.handshake_complete and self.close_sent:
                raise ClientDisconnected
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                self.handshake_complete = True

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(close_seconds, self.transport.abort)

    WebSocketProtocol.__module__ = __name__
    return WebSocketProtocol
