"""Answers that may be sent before the client has sent its whole request body."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from qwen_asr.config.limits import UploadLimits
from qwen_asr.errors import TimedOut

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send


class Body:
    """The body of one request. `ended` is true once all of it was read."""

    def __init__(
        self,
        receive: Receive,
        idle_seconds: float = UploadLimits.idle_seconds,
        bytes_per_second: float = UploadLimits.bytes_per_second,
    ) -> None:
        """`idle_seconds` is the longest pause between two pieces of the body, and how long the client may fall behind
        `bytes_per_second`, the least rate at which the body may arrive. Only time in which `read` waits counts.
        """
        self.ended = False
        self._receive = receive
        self._idle_seconds = idle_seconds
        self._bytes_per_second = bytes_per_second
        self._received = 0
        self._waited = 0.0

    async def read(self) -> bytes:
        """Returns the next piece, which may be empty.

        Raises:
            ClientDisconnect: the client closed the connection.
            TimedOut: nothing arrived for `idle_seconds`, or the body arrives too slowly.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        behind = self._idle_seconds + self._received / self._bytes_per_second - self._waited
        try:
            async with asyncio.timeout(min(self._idle_seconds, behind)):
                message = await self._receive()
        except TimeoutError:
            raise self._timed_out(behind) from None
        self._waited += clock() - began
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.ended = not message.get("more_body", False)
        piece = bytes(message.get("body", b""))
        self._received += len(piece)
        return piece

    def _timed_out(self, behind: float) -> TimedOut:
        if behind >= self._idle_seconds:
            return TimedOut(f"Nothing arrived for {self._idle_seconds:g} seconds; send the request again.")
        return TimedOut(
            f"The request arrives too slowly: {self._received} bytes so far, and this server expects at least "
            f"{self._bytes_per_second:g} in a second; send it again over a faster connection."
        )

    async def wait_for_disconnect(self) -> None:
        """Returns when the client closes the connection. Call it only once the body has ended."""
        await self._receive()


async def answer_early(
    response: Response,
    body: Body,
    scope: Scope,
    receive: Receive,
    send: Send,
    linger_seconds: float = UploadLimits.linger_seconds,
) -> None:
    """Sends `response`, then discards the rest of the body for up to `linger_seconds`.

    Most clients do not read the answer before they have sent the whole body. If the server closed the connection right
    after the answer, the client would see a connection reset instead (RFC 9112, section 9.6).
    """
    if body.ended or not _has_body(scope):
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"

    async def send_without_end(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "more_body": True}
        await send(message)

    await response(scope, receive, send_without_end)
    # A server that stops now cancels this. The content of the answer is out already; only its end is missing.
    with contextlib.suppress(ClientDisconnect, TimedOut, TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(linger_seconds):
            while not body.ended:
                await body.read()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    """Whether the request announces a body (RFC 9112, section 6.3)."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
