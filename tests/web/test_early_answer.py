"""An answer that is sent while the client is still uploading."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import Message

from qwen_asr.errors import TimedOut
from qwen_asr.web.early_answer import Body, answer_early

PIECE: Message = {"type": "http.request", "body": b"piece", "more_body": True}
LAST: Message = {"type": "http.request", "body": b"last", "more_body": False}
DISCONNECT: Message = {"type": "http.disconnect"}


def answer(
    messages: Sequence[Message], headers: dict[str, str], linger_seconds: float = 60.0
) -> tuple[list[Message], list[Message]]:
    """Answers a request with this body. Returns the messages sent and those that were left unread."""
    unread, sent = list(messages), list[Message]()

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # the client sends nothing more
        return unread.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "headers": raw}
        await answer_early(PlainTextResponse("no"), Body(receive), scope, receive, send, linger_seconds)

    asyncio.run(run())
    return sent, unread


def check_complete(sent: Sequence[Message]) -> None:
    """The answer has its text and exactly one end."""
    assert b"".join(message.get("body", b"") for message in sent) == b"no"
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]


def test_the_answer_comes_first_and_the_rest_of_the_body_is_discarded() -> None:
    sent, unread = answer([PIECE, PIECE, LAST], {"content-length": "14"})
    check_complete(sent)
    assert (b"connection", b"close") in sent[0]["headers"]
    assert len(sent) == 3
    assert unread == []


@pytest.mark.parametrize("headers", [{}, {"content-length": "0"}])
def test_a_request_without_a_body_keeps_its_connection(headers: dict[str, str]) -> None:
    sent, unread = answer([DISCONNECT], headers)
    check_complete(sent)
    assert b"connection" not in dict(sent[0]["headers"])
    assert unread == [DISCONNECT]


def test_a_client_that_disconnects_ends_the_wait() -> None:
    sent, _ = answer([PIECE, DISCONNECT], {"transfer-encoding": "chunked"})
    check_complete(sent)


def test_a_client_that_stops_sending_does_not_hold_the_connection() -> None:
    sent, _ = answer([PIECE], {"content-length": "1000"}, linger_seconds=0.01)
    check_complete(sent)


def test_reading_a_body() -> None:
    async def read(messages: list[Message]) -> list[bytes]:
        async def receive() -> Message:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop(0)

        body = Body(receive, idle_seconds=0.01)
        pieces = []
        while not body.ended:
            pieces.append(await body.read())
        return pieces

    assert asyncio.run(read([PIECE, LAST])) == [b"piece", b"last"]
    with pytest.raises(ClientDisconnect):
        asyncio.run(read([PIECE, DISCONNECT]))
    with pytest.raises(TimedOut, match=r"Nothing arrived for 0\.01 seconds"):
        asyncio.run(read([PIECE]))


def test_a_body_that_trickles_is_timed_out_at_the_least_rate() -> None:
    """With a clock that each piece moves on: a piece of 5 bytes may take 0.5 s at 10 bytes a second, and not more."""

    async def read(seconds_per_piece: float) -> int:
        loop = asyncio.get_running_loop()
        skipped, real = 0.0, loop.time

        async def receive() -> Message:
            nonlocal skipped
            skipped += seconds_per_piece
            await asyncio.sleep(0)  # a deadline in the past is noticed here
            await asyncio.sleep(0)
            return PIECE

        loop.time = lambda: real() + skipped  # type: ignore[method-assign]  # the loop of this test alone
        body = Body(receive, idle_seconds=60.0, bytes_per_second=10)
        count, message = 0, ""
        while count < 1000 and not message:
            try:
                await body.read()
                count += 1
            except TimedOut as error:
                message = str(error)
        assert count == 1000 or "too slowly" in message
        return count

    assert asyncio.run(read(0.49)) == 1000
    # A second for each piece is 0.5 s too much, and after 118 of them one second is left of the 60.
    assert asyncio.run(read(1.0)) in (118, 119)
