"""What the conversations of all WebSocket routes have in common; `asr_conversation.py` shows how they go."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anyio
import anyio.to_thread
from starlette.websockets import WebSocketDisconnect

from qwen_asr.errors import QwenASRError, ServerStopping
from qwen_asr.web.sockets.queueing import wait_for_slot_on_socket

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.outbox import Outbox

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05  # between two looks at a session that is ahead of the recognizer
NORMAL_CLOSE = 1000
T = TypeVar("T")


def encode(message: dict[str, Any]) -> str:
    """A message as it is sent."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False)


class Connection(ABC):
    """What one accepted connection says and hears: `run` it, or `refuse` it."""

    kind: ClassVar[str]  # of the session, for the log
    _outbox: Outbox

    def __init__(
        self, websocket: WebSocket, service: Service, limits: SocketLimits, threads: anyio.CapacityLimiter
    ) -> None:
        self._websocket = websocket
        self._service = service
        self._limits = limits
        self._threads = threads
        self._held: deque[dict[str, Any]] = deque()  # what came while it waited for a place
        self._close_code = NORMAL_CLOSE
        self._leaving: Exception | None = None  # how the client was found to be gone
        self._stopping = False
        self._scope, self._reading, self._finishing = anyio.CancelScope(), anyio.CancelScope(), anyio.CancelScope()

    @abstractmethod
    async def run(self) -> None:
        """From the first message to the close. Raises WebSocketDisconnect for a client that left before its session."""

    @abstractmethod
    def _problem(self, error: QwenASRError) -> dict[str, Any]:
        """The message that tells of an error."""

    @abstractmethod
    def _queued(self, position: int) -> dict[str, Any]:
        """The message that tells of a position in the queue."""

    @abstractmethod
    def _is_ahead(self) -> bool:
        """Whether more audio should wait: for the recognizer, or for a client that does not read."""

    @property
    def waiting(self) -> int:
        """Messages that the client has not taken yet."""
        return len(self._outbox)

    def stop(self) -> None:
        """Take nothing more. What was taken gets its texts, and the client is told that the server stops."""
        self._stopping = True
        self._reading.cancel()

    def give_up(self) -> None:
        """Behind `stop`, when the time is over: tell the client so without the texts that are still missing."""
        self._finishing.cancel()

    async def refuse(self, error: QwenASRError) -> None:
        """Say why there is no session, and close. Raises WebSocketDisconnect when the client is gone."""
        log.info("A %s session was refused: %s", self.kind, type(error).__name__)
        self._service.instruments.count(error)
        with anyio.move_on_after(self._limits.send_seconds):
            await self._websocket.send_text(encode(self._problem(error)))
            await self._websocket.close(error.close_code)

    async def _close(self) -> None:
        """The close behind everything, unless the client is gone."""
        if self._leaving is None:
            with anyio.move_on_after(self._limits.send_seconds):
                await self._websocket.close(self._close_code)

    async def _place(self) -> QueueTicket:
        """A place among the sessions, waited for. Raises LimitExceeded, ServerStopping, WebSocketDisconnect."""
        with anyio.CancelScope() as self._reading:
            slot, self._held = await wait_for_slot_on_socket(
                self._websocket, self._service.admission, self._limits, lambda position: encode(self._queued(position))
            )
            return slot
        raise ServerStopping

    async def _unless_gone(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the conversation; a client that is gone, or does not read, ends the others too."""
        try:
            await part()
        except (WebSocketDisconnect, TimeoutError) as gone:
            log.info("The client is gone (%s).", type(gone).__name__)
            self._leaving = self._leaving or gone
            self._scope.cancel()

    async def _next(self) -> dict[str, Any]:
        """The next ASGI message. Raises WebSocketDisconnect."""
        message: dict[str, Any] = self._held.popleft() if self._held else dict(await self._websocket.receive())
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        return message

    async def _notice_leaving(self) -> None:
        """Read on and drop what comes, as long as the last texts are on their way. Raises WebSocketDisconnect."""
        while True:
            await self._next()

    async def _wait(self, ahead: bool) -> None:
        """Until the session is not `ahead` any more. Raises ServerStopping."""
        while ahead:
            self._check_stopping()
            await anyio.sleep(_POLL_SECONDS)
            ahead = await self._in_thread(self._is_ahead)

    def _check_stopping(self) -> None:
        if self._stopping:
            raise ServerStopping

    async def _in_thread(self, function: Callable[..., T], *values: Any) -> T:
        return await anyio.to_thread.run_sync(function, *values, limiter=self._threads)

    async def _send(self) -> None:
        """Send what is put into the outbox, to its end. Raises TimeoutError for a client that does not read."""
        while (message := await self._outbox.take()) is not None:
            with anyio.fail_after(self._limits.send_seconds):
                await self._websocket.send_text(encode(message))
        self._scope.cancel()
