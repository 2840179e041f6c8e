"""uvicorn's HTTP protocol, which counts what it receives, and closes connections that would stay open by mistake."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

_LENGTHS = {b"content-length", b"transfer-encoding"}


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol on h11. It passes its transport on to the WebSocket protocol at an upgrade.

    `received` is the number of bytes that have arrived on the connection.

    A request with both Content-Length and Transfer-Encoding is answered, and is the last of its connection (RFC 9112,
    section 6.1). h11 reads the body by Transfer-Encoding, as it should. A proxy in front that went by Content-Length
    would take what follows for the next request, perhaps of another user.
    """

    received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """See `asyncio.Protocol`."""
        super().connection_made(cast(asyncio.Transport, SafeCloseTransport(transport)))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Called by uvicorn when bytes came, and when a response ended: begins a request if there is one."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and {name for name, _ in self.cycle.scope["headers"]} >= _LENGTHS:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]


class SafeCloseTransport:
    """Wraps a transport so that `close` may be called twice, and while reading is paused.

    asyncio's TLS transport drops its inner transport at the second `close`, and nothing can abort it after that. If the
    peer ended the connection while reading was paused, it closes nothing until reading resumes, so a client that left
    during a refused upload would stay connected (CPython 3.11, sslproto.py: `close`, `eof_received`).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Closes the transport if it is open."""
        if not self._transport.is_closing():
            self._transport.close()
            self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
