"""Waiting for a place among the sessions, without a thread: for pages, sockets and REST alike."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from starlette.websockets import WebSocketDisconnect

from qwen_asr.web.news import Bell

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config import SocketLimits
    from qwen_asr.live.limits import Admission, Ticket

_LOOK_SECONDS = 60.0  # how long one wait for the bell may last; any number would do, every move rings


class Turn:
    """A ticket, and a way to wait until its position is another one. Raises LimitExceeded where none may wait."""

    def __init__(self, admission: Admission) -> None:
        self.heard_at = 0.0  # for who keeps it: when somebody last asked for it
        self._bell = Bell()
        self.ticket = admission.enter(self._bell.ring)

    @property
    def position(self) -> int:
        """0: it is in."""
        return self.ticket.position

    async def moved(self, known: int, seconds: float) -> None:
        """Returns once the position is not `known`, or when `seconds` have passed."""
        await self._bell.wait(lambda: self.position != known, seconds)


async def place_in(admission: Admission) -> Ticket:
    """A ticket that is in, waited for; cancelled, it leaves. Raises LimitExceeded where no more may wait."""
    turn = Turn(admission)
    try:
        while position := turn.position:
            await turn.moved(position, _LOOK_SECONDS)
    except BaseException:
        turn.ticket.leave()
        raise
    return turn.ticket


async def place_for(
    websocket: WebSocket, admission: Admission, limits: SocketLimits, message: Callable[[int], str]
) -> tuple[Ticket, deque[dict[str, Any]]]:
    """A ticket that is in, and what the client has sent while it waited.

    `message` is what it is told of a position, at each change.

    Of its messages `held_bytes` are taken; the rest stays with it. Its position is repeated from time to time, which
    finds a client that has gone while nothing was read from it. Raises LimitExceeded where no more may wait, and
    WebSocketDisconnect for a client that left: its place in the queue is free then.
    """
    turn, held = Turn(admission), deque[dict[str, Any]]()
    if not turn.position:
        return turn.ticket, held
    holding = asyncio.create_task(_hold(websocket, held, limits.held_bytes))
    telling = asyncio.create_task(_tell(websocket, turn, limits, message))
    try:
        done, _ = await asyncio.wait([holding, telling], return_when=asyncio.FIRST_COMPLETED)
        if holding in done:
            holding.result()
        await telling
    except BaseException:
        turn.ticket.leave()
        raise
    finally:
        holding.cancel()
        telling.cancel()
        await asyncio.gather(holding, telling, return_exceptions=True)
    return turn.ticket, held


async def _hold(websocket: WebSocket, held: deque[dict[str, Any]], most: int) -> None:
    """Keeps messages until they have `most` bytes. Raises WebSocketDisconnect."""
    size = 0
    while size < most:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        held.append(dict(message))
        size += len(message.get("bytes") or message.get("text") or "") + 1


async def _tell(websocket: WebSocket, turn: Turn, limits: SocketLimits, message: Callable[[int], str]) -> None:
    """Tells the position until it is 0. Raises WebSocketDisconnect, also for a client that does not read."""
    while position := turn.position:
        with anyio.move_on_after(limits.send_seconds) as sending:
            await websocket.send_text(message(position))
        if sending.cancelled_caught:
            raise WebSocketDisconnect(1006)
        await turn.moved(position, limits.ping_seconds)
