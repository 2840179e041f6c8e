"""Waiting for a place among the sessions, without a thread: for pages, sockets and REST alike."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from starlette.websockets import WebSocketDisconnect

from qwen_asr.service.notifier import Notifier

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import Admission, QueueTicket

_LOOK_SECONDS = 60.0  # how long one wait for the bell may last; any number would do, every move rings


class QueueEntry:
    """A ticket, and a way to wait until its position is another one. Raises LimitExceeded where none may wait."""

    def __init__(self, admission: Admission) -> None:
        self.last_request_at = 0.0  # set by the registry that keeps the entry
        self._notifier = Notifier()
        self.ticket = admission.enter(self._notifier.notify)

    @property
    def position(self) -> int:
        """0: it is in."""
        return self.ticket.position

    async def moved(self, known: int, seconds: float) -> None:
        """Returns once the position is not `known`, or when `seconds` have passed."""
        await self._notifier.wait(lambda: self.position != known, seconds)


async def wait_for_slot(admission: Admission) -> QueueTicket:
    """A ticket that is in, waited for; cancelled, it leaves. Raises LimitExceeded where no more may wait."""
    entry = QueueEntry(admission)
    try:
        while position := entry.position:
            await entry.moved(position, _LOOK_SECONDS)
    except BaseException:
        entry.ticket.leave()
        raise
    return entry.ticket


async def wait_for_slot_on_socket(
    websocket: WebSocket, admission: Admission, limits: SocketLimits, message: Callable[[int], str]
) -> tuple[QueueTicket, deque[dict[str, Any]]]:
    """A ticket that is in, and what the client has sent while it waited.

    `message` is what it is told of a position, at each change.

    Of its messages `held_bytes` are taken; the rest stays with it. Its position is repeated from time to time, which
    finds a client that has gone while nothing was read from it. Raises LimitExceeded where no more may wait, and
    WebSocketDisconnect for a client that left: its place in the queue is free then.
    """
    entry, held = QueueEntry(admission), deque[dict[str, Any]]()
    if not entry.position:
        return entry.ticket, held
    holding = asyncio.create_task(_hold(websocket, held, limits.held_bytes))
    telling = asyncio.create_task(_tell(websocket, entry, limits, message))
    try:
        done, _ = await asyncio.wait([holding, telling], return_when=asyncio.FIRST_COMPLETED)
        if holding in done:
            holding.result()
        await telling
    except BaseException:
        entry.ticket.leave()
        raise
    finally:
        holding.cancel()
        telling.cancel()
        await asyncio.gather(holding, telling, return_exceptions=True)
    return entry.ticket, held


async def _hold(websocket: WebSocket, held: deque[dict[str, Any]], most: int) -> None:
    """Keeps messages until they have `most` bytes. Raises WebSocketDisconnect."""
    size = 0
    while size < most:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        held.append(dict(message))
        size += len(message.get("bytes") or message.get("text") or "") + 1


async def _tell(websocket: WebSocket, entry: QueueEntry, limits: SocketLimits, message: Callable[[int], str]) -> None:
    """Tells the position until it is 0. Raises WebSocketDisconnect, also for a client that does not read."""
    while position := entry.position:
        with anyio.move_on_after(limits.send_seconds) as sending:
            await websocket.send_text(message(position))
        if sending.cancelled_caught:
            raise WebSocketDisconnect(1006)
        await entry.moved(position, limits.ping_seconds)
