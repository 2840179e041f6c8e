"""Small request bodies, read whole within limits before any other code sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from qwen_asr.errors import TimedOut, TooLarge
from qwen_asr.web.early_answer import Body

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope


async def read_body(
    scope: Scope, body: Body, max_bytes: int, seconds: float, take: Callable[[int], None] = lambda _: None
) -> bytes:
    """Reads the whole of `body`, at most `max_bytes` within `seconds`, and calls `take` with the size of each piece.

    Raises:
        TooLarge: it is announced as larger, before a byte of it is read, or turns out to be.
        TimedOut: it has not arrived in time.
        LimitExceeded: `take` raises it.
        ClientDisconnect: the client closed the connection.
    """
    _check_announced_length(scope, max_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while not body.ended:
                piece = await body.read()
                size += len(piece)
                if size > max_bytes:
                    raise too_large(max_bytes)
                take(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise TimedOut(f"The request's body has not arrived within {seconds:g} seconds: send it again.") from None
    return b"".join(pieces)


def _check_announced_length(scope: Scope, max_bytes: int) -> None:
    """Raises TooLarge if the request's Content-Length is above `max_bytes`."""
    length = Headers(scope=scope).get("content-length", "0")
    # uvicorn has refused a length that is no number.
    if not length.isdecimal() or int(length) > max_bytes:
        raise too_large(max_bytes)


def replayed(data: bytes, receive: Receive | None = None) -> Receive:
    """A `receive` that first gives a body that has been read, and then what the connection gives."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return {"type": "http.disconnect"} if receive is None else await receive()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    return replay


def too_large(max_bytes: int) -> TooLarge:
    """The error for a body of more than `max_bytes`."""
    return TooLarge(f"The request's body is too large: this address takes at most {max_bytes} bytes.")
