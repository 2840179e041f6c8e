"""How uvicorn serves HTTP here, and what it does not do: let go of each TLS connection that has ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class HttpProtocol(H11Protocol):
    """uvicorn's on h11, and at an upgrade its WebSocket's, on a transport that closes for certain."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's has it
        """See `asyncio.Protocol`."""
        super().connection_made(cast(asyncio.Transport, ClosedOnce(transport)))


class ClosedOnce:
    """A transport that may be closed again, and while reading is paused. In all else the one that is given.

    asyncio drops what is under a TLS transport when that is closed twice, and nothing can abort it any more. And where
    the peer ended while reading was paused, it closes nothing until reading goes on: whoever left in the midst of an
    upload that was refused would stay for ever (CPython 3.11, sslproto.py: `close`, `eof_received`).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Closes it, if it is open."""
        if not self._transport.is_closing():
            self._transport.close()
            self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
