"""uvicorn's WebSocket protocol, with bounds on what a client can make it do, and fixes for how connections end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from qwen_asr.config.limits import SocketLimits
from qwen_asr.web.transport.frame_budget import FrameBudget

log = logging.getLogger(__name__)
_WAITING_BYTES = 1 << 16
"""What a connection may hold for its app before reading pauses: a second of float32 at 16 kHz."""
_MESSAGE_OVERHEAD = 64  # bytes that a message counts more than it holds, so that empty ones are bounded too
_PARSED_BYTES = 1 << 11  # how much is parsed at once: at most 341 frames, of 6 bytes, until the budget is looked at
_INVALID_TEXT, _POLICY, _TOO_BIG = 1007, 1008, 1009  # close codes (RFC 6455, section 7.4.1)
_LAST_SECONDS = 1.0  # how long a client that is closed for what it sent may take to read why
_EXTENSION = "qwen_asr.websocket"  # of ASGI: its `size` is a `MessageSize`, and its `life` are `SignsOfLife`


class MessageSize:
    """How much of one message is buffered for an app. At first little: a session, which is worth more, has to begin."""

    def __init__(self, early_bytes: int) -> None:
        self._early_bytes = early_bytes
        self.first_is_limited = False
        self.session_exists = False
        self.when_allowed = lambda: None
        self.unfinished = 0  # bytes that have been parsed since the last whole message

    @property
    def room(self) -> float:
        """How many more bytes of the current message may be parsed."""
        return float("inf") if self.session_exists else self._early_bytes - self.unfinished


class SignsOfLife:
    """`last_at`: when the newest bytes of the client came, by the clock of the event loop. Pings and pongs count."""

    def __init__(self) -> None:
        self.last_at = float("-inf")


def last_sign_of_life(scope: MutableMapping[str, Any]) -> float:
    """See `SignsOfLife`. Minus infinity under a server with another protocol."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    return float("-inf") if extension is None else float(extension["life"].last_at)


def limit_first_message(scope: MutableMapping[str, Any]) -> None:
    """Close the connection with 1009 if its first message is longer than what is buffered before a session exists.

    Otherwise the rest of it stays with the client until then. Call it before the handshake is accepted.
    """
    if (extension := scope.get("extensions", {}).get(_EXTENSION)) is not None:
        extension["size"].first_is_limited = True


def allow_long_messages(scope: MutableMapping[str, Any]) -> None:
    """The session exists: read messages of any length up to uvicorn's limit."""
    if (extension := scope.get("extensions", {}).get(_EXTENSION)) is not None:
        extension["size"].session_exists = True
        extension["size"].when_allowed()


def websocket_options(limits: SocketLimits | None = None) -> dict[str, Any]:
    """uvicorn's options for WebSockets.

    Pongs have no deadline: while back-pressure stops reading a client's audio, the pong behind that audio is not read
    either. `idle_seconds` finds clients that are gone: for it, pongs are signs of life.
    """
    limits = limits or SocketLimits()
    return {
        "ws": protocol_class(limits),
        # Sessions refuse messages above `message_bytes` with an error message; only far longer ones end here with 1009.
        "ws_max_size": 4 * limits.message_bytes,
        "ws_ping_interval": limits.ping_seconds,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,  # audio hardly shrinks, and inflating would take time of the event loop
    }


def protocol_class(limits: SocketLimits) -> type[WebSocketsSansIOProtocol]:
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
        - A connection has a budget of frames (`FrameBudget`). uvicorn parses all that has arrived at once: 256 KiB of
          empty pings occupy the event loop for a second. Here it is parsed in small pieces; what is over the budget
          waits, and reading pauses meanwhile.
        - Fragments are joined as they come. A list of them would need 40 times the memory of their bytes.
        - Until the app has a session for it, little of a message is buffered (`MessageSize`).
        - It remembers when the client gave a sign of life (`SignsOfLife`). The app does not see pings and pongs.
        - Text that is not UTF-8 and refused handshakes are no errors of the server, and are not logged as such.
        """

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._unparsed = bytearray()
            self._budget = FrameBudget(limits)
            self._frames_parsed = self._empty_parsed = 0
            self._size = MessageSize(4 * limits.config_bytes)
            self._size.when_allowed = self._parse
            self._life = SignsOfLife()
            self._any_message = False
            self._parse_later: asyncio.TimerHandle | None = None
            self._reading_stopped = False
            self._discards = False  # the connection has failed, and what still comes is not parsed

        def data_received(self, data: bytes) -> None:
            self._life.last_at = self.loop.time()
            if not self._discards:
                self._unparsed += data
                self._parse()

        def _parse(self) -> None:
            """Parses what has arrived as far as the limits allow, and pauses or resumes reading."""
            while self._unparsed and not self._is_blocked():
                size = int(min(_PARSED_BYTES, self._size.room)) if self._gate_is_closed() else _PARSED_BYTES
                piece = bytes(self._unparsed[:size])
                del self._unparsed[:size]
                self._size.unfinished += len(piece)
                super().data_received(piece)
                frames, self._frames_parsed = self._frames_parsed, 0
                empty, self._empty_parsed = self._empty_parsed, 0
                self._budget.spend(frames, empty, self.loop.time())
            if self._discards or self.transport.is_closing():
                return
            if not self._is_blocked():
                if self._reading_stopped:
                    self._reading_stopped = False
                    self.transport.resume_reading()
                return
            now = self.loop.time()
            if self._budget.is_flood(now):
                self._fail(_POLICY, "Too many pings or empty frames.")
            elif (
                self._gate_is_closed()
                and self._size.room <= 0
                and self._size.first_is_limited
                and not self._any_message
            ):
                self._fail(_TOO_BIG, "The first message is too long.")
            else:
                self._reading_stopped = True
                self.transport.pause_reading()
                if (pause := self._budget.pause(now)) and self._parse_later is None:
                    self._parse_later = self.loop.call_later(pause, self._parse_again)

        def _parse_again(self) -> None:
            self._parse_later = None
            self._parse()

        def _gate_is_closed(self) -> bool:
            # A connection that is being closed is read to the peer's close frame.
            return self.handshake_initiated and not (self._size.session_exists or self.close_sent)

        def _is_blocked(self) -> bool:
            """Whether nothing more may be parsed now."""
            return (
                self.transport.is_closing()
                or self.read_paused
                or (self._gate_is_closed() and self._size.room <= 0)
                or self._budget.pause(self.loop.time()) > 0
            )

        def _fail(self, code: int, reason: str) -> None:
            """Closes because of what the client did. What it still sends is dropped, so that it can read the reason."""
            log.info("A WebSocket was closed with %d: %s", code, reason)
            self._discards = True
            self._unparsed.clear()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            if not self.close_sent:
                self.close_sent = True
                self.conn.send_close(code, reason)
                self.transport.write(b"".join(self.conn.data_to_send()))
            if self.close_timer is None:
                self.close_timer = self.loop.call_later(_LAST_SECONDS, self.transport.close)
            self.transport.resume_reading()

        def handle_connect(self, event: Request) -> None:
            super().handle_connect(event)
            self._size.unfinished = 0
            if not self.close_sent:  # the task of the app has not begun
                self.scope["extensions"][_EXTENSION] = {"size": self._size, "life": self._life}

        def handle_text(self, event: Frame) -> None:
            self._count(event)
            super().handle_text(event)

        def handle_bytes(self, event: Frame) -> None:
            self._count(event)
            super().handle_bytes(event)

        def handle_cont(self, event: Frame) -> None:
            self._count(event)
            if event.data:
                if not isinstance(self.frames[0], bytearray):
                    self.frames = [bytearray(self.frames[0])]  # type: ignore[list-item]  # joined to bytes at the end
                self.frames[0] += event.data
            if event.fin:
                self.send_receive_event_to_app()

        def handle_ping(self) -> None:
            self._frames_parsed += 1
            self._empty_parsed += 1
            super().handle_ping()

        def handle_pong(self, event: Frame) -> None:
            self._frames_parsed += 1
            self._empty_parsed += 1
            super().handle_pong(event)

        def _count(self, event: Frame) -> None:
            self._frames_parsed += 1
            self._empty_parsed += not event.data

        def connection_lost(self, exc: Exception | None) -> None:
            self._unparsed.clear()
            if self._parse_later is not None:
                self._parse_later.cancel()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            super().connection_lost(exc)
            # Otherwise uvicorn logs an error if a client leaves while its handshake is being refused.
            self.handshake_complete = True

        _waiting_bytes = 0
        _last_binary: Any = None  # the newest message in the queue, if it is binary

        def send_receive_event_to_app(self) -> None:
            self._size.unfinished, self._any_message = 0, True
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
            if self._waiting_bytes >= _WAITING_BYTES:
                self.read_paused = True  # `_parse` does it

        async def receive(self) -> ASGIReceiveEvent:
            message = await self.queue.get()
            if self.read_paused and self.queue.empty():
                self.read_paused = False
                self._parse()
            return message

        async def send(self, message: ASGISendEvent) -> None:
            if self.handshake_complete and self.close_sent:
                raise ClientDisconnected
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                self.handshake_complete = True
            if self.close_sent:
                self._parse()  # reads on to the peer's close frame

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(limits.close_seconds, self.transport.abort)

    WebSocketProtocol.__module__ = __name__
    return WebSocketProtocol
