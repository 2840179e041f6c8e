"""Waiting in the queue for a session slot, or for a model, without holding a thread, for pages, sockets and REST."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from starlette.websockets import WebSocketDisconnect

from qwen_asr.service.notifier import Notifier
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.model_use import wait_until_settled

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import Admission, QueueTicket
    from qwen_asr.service.models import ModelUse
    from qwen_asr.web.sockets.messages import ServerMessage

_PROGRESS_SECONDS = 1.0  # how often it is looked for
_WAIT_SECONDS = 15.0  # how often a position is told that has not changed: proxies end what says nothing for a minute


class QueueEntry:
    """A ticket, and a way to wait until its position changes. Raises LimitExceeded as `Admission.enter`."""

    def __init__(self, admission: Admission, address: str) -> None:
        self.last_request_at = 0.0  # for the page: when it last asked for its position
        self._notifier = Notifier()
        self.ticket = admission.enter(self._notifier.notify, address)

    @property
    def position(self) -> int:
        """0: the ticket has a slot. 1: it is the next to get one."""
        return self.ticket.position

    async def wait_for_move(self, position: int, seconds: float) -> None:
        """Returns once the position is no longer `position`, or after `seconds`."""
        await self._notifier.wait(lambda: self.position != position, seconds)


async def _ignore(_: int) -> None:
    """Nobody is told the position."""


async def wait_for_slot(
    admission: Admission, address: str, tell: Callable[[int], Awaitable[None]] = _ignore
) -> QueueTicket:
    """Wait for a ticket that has a slot; if cancelled, it leaves the queue. Raises what `Admission.enter` raises.

    `tell` is called with the position at first, at each change, and from time to time.
    """
    entry = QueueEntry(admission, address)
    try:
        while position := entry.position:
            await tell(position)
            await entry.wait_for_move(position, _WAIT_SECONDS)
    except BaseException:
        entry.ticket.leave()
        raise
    return entry.ticket


async def wait_for_slot_on_socket(
    websocket: WebSocket, admission: Admission, limits: SocketLimits, message: Callable[[int], ServerMessage]
) -> tuple[QueueTicket, deque[dict[str, Any]]]:
    """Wait for a ticket that has a slot; returns it and the messages that the client sent meanwhile.

    The client gets `message(position)` at each change. Up to `held_bytes` of its own messages are read; the rest stays
    with it. Its position is sent again from time to time, which detects a lost client even while nothing is read from
    it. Raises LimitExceeded as `Admission.enter`, and WebSocketDisconnect if the client left: it then has no position
    any more.
    """
    entry = QueueEntry(admission, sender(websocket.scope))
    if not entry.position:
        return entry.ticket, deque()
    try:
        held = await hold_messages(websocket, limits, _report_position(websocket, entry, limits, message))
    except BaseException:
        entry.ticket.leave()
        raise
    return entry.ticket, held


async def hold_messages(
    websocket: WebSocket, limits: SocketLimits, waiting: Coroutine[Any, Any, None]
) -> deque[dict[str, Any]]:
    """Run `waiting`, which may send; returns the messages that the client sent meanwhile.

    Up to `held_bytes` of them are read; the rest stays with it. Raises WebSocketDisconnect if the client left, and what
    `waiting` raises.
    """
    held = deque[dict[str, Any]]()
    holding = asyncio.create_task(_hold(websocket, held, limits.held_bytes))
    reporting = asyncio.create_task(waiting)
    try:
        done, _ = await asyncio.wait([holding, reporting], return_when=asyncio.FIRST_COMPLETED)
        if holding in done:
            holding.result()
        await reporting
    finally:
        holding.cancel()
        reporting.cancel()
        await asyncio.gather(holding, reporting, return_exceptions=True)
    return held


async def wait_for_model_on_socket(
    websocket: WebSocket, use: ModelUse, limits: SocketLimits, tell: Callable[[str], Awaitable[None]]
) -> deque[dict[str, Any]]:
    """Wait until the model is loaded; returns the messages that the client sent meanwhile, as `hold_messages` does.

    `tell` is called with the progress at each change, and from time to time. Raises NotReady and what else keeps the
    model from being loaded.
    """
    held = deque[dict[str, Any]]()
    if not await wait_until_settled(use, 0):
        held = await hold_messages(websocket, limits, _report_loading(use, limits, tell))
    use.model.loaded()
    return held


async def _hold(websocket: WebSocket, held: deque[dict[str, Any]], max_bytes: int) -> None:
    """Keep messages until they have `max_bytes`. Raises WebSocketDisconnect."""
    size = 0
    while size < max_bytes:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        held.append(dict(message))
        size += len(message.get("bytes") or message.get("text") or "") + 1


async def _report_position(
    websocket: WebSocket, entry: QueueEntry, limits: SocketLimits, message: Callable[[int], ServerMessage]
) -> None:
    """Send the position until it is 0. Raises WebSocketDisconnect, also if the client does not read."""
    while position := entry.position:
        await send_message(websocket, message(position), limits)
        await entry.wait_for_move(position, limits.ping_seconds)


async def _report_loading(use: ModelUse, limits: SocketLimits, tell: Callable[[str], Awaitable[None]]) -> None:
    """Tell the progress until loading has ended. Raises what `tell` raises."""
    told, told_at = "", float("-inf")
    while True:
        if use.model.text != told or anyio.current_time() > told_at + limits.ping_seconds:
            told, told_at = use.model.text, anyio.current_time()
            await tell(told)
        if await wait_until_settled(use, _PROGRESS_SECONDS):
            return


async def send_message(websocket: WebSocket, message: ServerMessage, limits: SocketLimits) -> None:
    """Send a message to a client that waits. Raises WebSocketDisconnect, also if it does not read."""
    with anyio.move_on_after(limits.send_seconds) as sending:
        await websocket.send_text(message.to_json())
    if sending.cancelled_caught:
        raise WebSocketDisconnect(1006)
