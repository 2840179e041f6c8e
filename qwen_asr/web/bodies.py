"""Small request bodies, read whole within limits before any other code sees them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from qwen_asr.errors import LimitExceeded, TimedOut, TooLarge
from qwen_asr.web.early_answer import Body

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope


class BodyBudget:
    """How many bytes of unfinished bodies are in memory: `total` for everybody, `per_address` for each address."""

    def __init__(self, total: int, per_address: int) -> None:
        self._total, self._per_address = total, per_address
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def holding(self, address: str) -> Iterator[_Share]:
        """What one request holds, which is given back in the end."""
        share = _Share(self, address)
        try:
            yield share
        finally:
            self._held[address] -= share.held
            if self._held[address] <= 0:
                del self._held[address]

    def take(self, address: str, count: int) -> None:
        """Raises LimitExceeded, and takes nothing, if there is no room for `count` more bytes."""
        if self._held[address] + count > self._per_address or self._held.total() + count > self._total:
            raise LimitExceeded("Too many requests with large bodies are on their way: try again in a moment.", 1)
        self._held[address] += count


class _Share:
    def __init__(self, budget: BodyBudget, address: str) -> None:
        self._budget, self._address = budget, address
        self.held = 0

    def take(self, count: int) -> None:
        self._budget.take(self._address, count)
        self.held += count


async def read_body(scope: Scope, body: Body, max_bytes: int, seconds: float, share: _Share | None = None) -> bytes:
    """Reads the whole of `body`, at most `max_bytes` within `seconds`, and takes its bytes from `share`.

    Raises:
        TooLarge: it is announced as larger, before a byte of it is read, or turns out to be.
        TimedOut: it has not arrived in time.
        LimitExceeded: too much is being read already.
        ClientDisconnect: the client closed the connection.
    """
    check_announced_length(scope, max_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while not body.ended:
                piece = await body.read()
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if share is not None:
                    share.take(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise TimedOut(f"The request's body has not arrived within {seconds:g} seconds: send it again.") from None
    return b"".join(pieces)


def check_announced_length(scope: Scope, max_bytes: int) -> None:
    """Raises TooLarge if the request's Content-Length is above `max_bytes`."""
    length = Headers(scope=scope).get("content-length", "0")
    # uvicorn has refused a length that is no number.
    if not length.isdecimal() or int(length) > max_bytes:
        raise _too_large(max_bytes)


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


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The request's body is too large: this address takes at most {max_bytes} bytes.")
