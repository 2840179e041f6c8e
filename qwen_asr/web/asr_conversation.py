"""One client of `/ws/asr`: its messages in, the session's messages out.

Three things go on at once. The client's messages are read, and its audio goes to a worker thread, but never further
ahead of the recogniser than `ahead_seconds`: what is not read stays with the client, by TCP's own back-pressure. The
recogniser's thread puts what it finds into an outbox. From there it is sent as fast as the client reads.

Whatever ends a session but the client's leaving, what was taken gets its text first.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.websockets import WebSocketDisconnect

from qwen_asr.audio.pcm import PcmStream
from qwen_asr.errors import BadConfig, LimitExceeded, QwenASRError, TimedOut, TooLarge
from qwen_asr.live.events import Event, Partial
from qwen_asr.web import asr_messages
from qwen_asr.web.outbox import Outbox
from qwen_asr.web.waiting import place_for

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from starlette.websockets import WebSocket

    from qwen_asr.config import SocketLimits
    from qwen_asr.live.runner import Runner
    from qwen_asr.web.service import Service

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05  # between two looks at a session that is ahead of the recogniser
NORMAL_CLOSE = 1000
T = TypeVar("T")


def _queued(position: int) -> str:
    return asr_messages.encode(asr_messages.queued(position))


class Conversation:
    """What one accepted connection says and hears: `run` it, or `refuse` it."""

    def __init__(
        self, websocket: WebSocket, service: Service, limits: SocketLimits, threads: anyio.CapacityLimiter
    ) -> None:
        self.session_id = secrets.token_urlsafe(16)
        self._websocket = websocket
        self._service = service
        self._limits = limits
        self._threads = threads
        self._outbox = Outbox(limits.waiting_messages)
        self._held: deque[Any] = deque()  # what came while it waited for a place
        self._answered = False  # whether any utterance has ended
        self._close_code = NORMAL_CLOSE
        self._gone = False
        self._tasks: TaskGroup
        self._audio: PcmStream
        self._runner: Runner

    @property
    def waiting(self) -> int:
        """Messages that the client has not taken yet."""
        return len(self._outbox)

    async def refuse(self, error: QwenASRError) -> None:
        """Say why there is no session, and close. Raises WebSocketDisconnect when the client is gone."""
        log.info("A session was refused: %s", type(error).__name__)
        with anyio.move_on_after(self._limits.send_seconds):
            await self._websocket.send_text(asr_messages.encode(asr_messages.of_error(error)))
            await self._websocket.close(error.close_code)

    async def run(self) -> None:
        """From the first message to the close. Raises WebSocketDisconnect for a client that left before its session."""
        try:
            await self._begin()
        except QwenASRError as error:
            await self.refuse(error)
            return
        log.info("Session %s began.", self.session_id)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._unless_gone, self._send)
                tasks.start_soon(self._unless_gone, self._hear)
        finally:
            self._runner.close()
            log.info("Session %s ended after %d samples.", self.session_id, self._audio.received)
        if not self._gone:
            with anyio.move_on_after(self._limits.send_seconds):
                await self._websocket.close(self._close_code)

    async def _begin(self) -> None:
        """Take the first message and open the session. Raises the QwenASRError that forbids it."""
        first = await self._receive(self._limits.config_seconds)
        if isinstance(first, bytes):
            raise BadConfig('The first message is binary; expected a text: {"type": "config"} with the settings.')
        settings = asr_messages.parse_config(first)
        place, self._held = await place_for(self._websocket, self._service.admission, self._limits, _queued)
        try:
            self._audio = await self._in_thread(PcmStream, settings.encoding, settings.wishes.rate)
            self._runner = await self._in_thread(self._service.listen, settings.wishes, self._tell, place)
        except QwenASRError:
            raise
        except Exception as error:
            log.exception("A session could not be opened.")
            place.leave()
            raise QwenASRError("The server failed to open a session; its log says why.") from error
        self._outbox.put(asr_messages.session_created(self.session_id))

    async def _unless_gone(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the conversation; a client that is gone, or does not read, ends the others too."""
        try:
            await part()
        except (WebSocketDisconnect, TimeoutError) as gone:
            log.info("Session %s: the client is gone (%s).", self.session_id, type(gone).__name__)
            self._gone = True
            self._tasks.cancel_scope.cancel()

    # --- what comes in

    async def _hear(self) -> None:
        """Read to the end, whatever ends it; then have everything that was taken recognised and told."""
        problem = await self._until_the_end()
        self._tasks.start_soon(self._unless_gone, self._notice_leaving)
        try:
            await asyncio.wrap_future(await self._in_thread(self._finish))
        except Exception:
            log.exception("Session %s could not be finished.", self.session_id)
            problem = QwenASRError("The server failed on the end of this session; its log says why.")
        if problem is not None:
            self._close_code = problem.close_code
            self._outbox.put(asr_messages.of_error(problem))
        elif not self._answered:
            self._outbox.put(asr_messages.nothing_said(self._runner.received, self._audio.received, time.time()))
        self._outbox.end()

    async def _until_the_end(self) -> QwenASRError | None:
        """Take audio until the client finalizes: None. Else what forbids to go on. Raises WebSocketDisconnect."""
        with anyio.move_on_after(self._limits.session_seconds):
            try:
                while isinstance(message := await self._receive(self._limits.idle_seconds), bytes):
                    await self._take(message)
                asr_messages.check_finalize(message)
            except QwenASRError as error:
                return error
            except WebSocketDisconnect:
                raise
            except Exception:
                log.exception("Session %s failed.", self.session_id)
                return QwenASRError("The server failed on this session; its log says why. Connect again to go on.")
            return None
        return LimitExceeded(
            f"The session has lasted {self._limits.session_seconds:g} seconds, the most that this server allows: "
            "connect again to go on."
        )

    async def _receive(self, seconds: float) -> str | bytes:
        """The next message. Raises WebSocketDisconnect, TimedOut where none comes, TooLarge for one too long."""
        with anyio.move_on_after(seconds):
            message = self._held.popleft() if self._held else await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            text, audio = message.get("text"), message.get("bytes")
            most = self._limits.message_bytes if text is None else self._limits.config_bytes
            size = len(audio or b"") if text is None else len(text.encode())
            if size > most:
                raise TooLarge(f"A message has {size} bytes; this one may have {most}: send smaller ones.")
            return audio or b"" if text is None else str(text)
        raise TimedOut(f"Nothing came for {seconds:g} seconds: connect again to go on.")

    async def _take(self, audio: bytes) -> None:
        """Feed audio, a second at a time, as far as the session does not get ahead of the recogniser."""
        second = self._audio.bytes_a_second
        for begin in range(0, len(audio), second):
            ahead = await self._in_thread(self._feed, audio[begin : begin + second])
            while ahead:
                await anyio.sleep(_POLL_SECONDS)
                ahead = await self._in_thread(self._is_ahead)

    async def _notice_leaving(self) -> None:
        """Read on and drop what comes, as long as the last texts are on their way. Raises WebSocketDisconnect."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))

    # --- on worker threads

    async def _in_thread(self, function: Callable[..., T], *values: Any) -> T:
        return await anyio.to_thread.run_sync(function, *values, limiter=self._threads)

    def _feed(self, audio: bytes) -> bool:
        self._runner.feed(self._audio.feed(audio))
        return self._is_ahead()

    def _is_ahead(self) -> bool:
        # Without a step under way nothing would make the lag smaller but more audio: never wait for that.
        return self._outbox.full or (self._runner.busy and self._runner.lag > self._limits.ahead_seconds)

    def _finish(self) -> Future[None]:
        self._runner.feed(self._audio.finish())
        return self._runner.finish()

    # --- what goes out

    def _tell(self, events: list[Event]) -> None:
        """On whichever thread has just learnt something, the recogniser's among them: hand over and return."""
        for event in events:
            self._outbox.put(asr_messages.of_event(event, self._audio.received, time.time()))
            self._answered = self._answered or not isinstance(event, Partial)

    async def _send(self) -> None:
        """Send what is put into the outbox, to its end. Raises TimeoutError for a client that does not read."""
        while (message := await self._outbox.take()) is not None:
            with anyio.fail_after(self._limits.send_seconds):
                await self._websocket.send_text(asr_messages.encode(message))
        self._tasks.cancel_scope.cancel()
