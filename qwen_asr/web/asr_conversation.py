"""One client of `/ws/asr`: its messages in, the session's messages out.

Three things go on at once. The client's messages are read, and its audio goes to a worker thread, but never further
ahead of the recogniser than `ahead_seconds`: what is not read stays with the client, by TCP's own back-pressure. The
recogniser's thread puts what it finds into an outbox. From there it is sent as fast as the client reads.

Whatever ends a session but the client's leaving, what was taken gets its text first. A connection that is lost ends
nothing: the session waits for its client to come back (`asr_sessions`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.websockets import WebSocketDisconnect

from qwen_asr.errors import BadConfig, LimitExceeded, QwenASRError, ServerStopping, TimedOut, TooLarge
from qwen_asr.web import asr_messages, logs
from qwen_asr.web.asr_session import AsrSession
from qwen_asr.web.waiting import place_for

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config import SocketLimits
    from qwen_asr.live.limits import Ticket
    from qwen_asr.web.asr_messages import Settings
    from qwen_asr.web.asr_sessions import Sessions
    from qwen_asr.web.outbox import Outbox
    from qwen_asr.web.service import Service

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05  # between two looks at a session that is ahead of the recogniser
NORMAL_CLOSE = 1000
RESUMED_CLOSE = 4001  # from the range that RFC 6455 leaves to applications
_LEFT = (1000, 1001, 1005)
"""Close codes of a client that leaves on purpose: normal, going away, none. 1006 is a connection that was lost."""
_STOPPING = 1012  # what the server itself says when it stops: nobody will come back to this process
T = TypeVar("T")


def _queued(position: int) -> str:
    return asr_messages.encode(asr_messages.queued(position))


class Conversation:
    """What one accepted connection says and hears: `run` it, or `refuse` it."""

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        sessions: Sessions,
    ) -> None:
        self._websocket = websocket
        self._service = service
        self._limits = limits
        self._threads = threads
        self._sessions = sessions
        # Who resumes must come with the key that the session was opened with, or both without any.
        self._owner = hashlib.sha256(websocket.headers.get("authorization", "").encode()).digest()
        self._held: deque[Any] = deque()  # what came while it waited for a place
        self._close_code = NORMAL_CLOSE
        self._leaving: Exception | None = None  # how the client was found to be gone
        self._displaced = False
        self._stopping = False
        self._scope, self._reading, self._finishing = anyio.CancelScope(), anyio.CancelScope(), anyio.CancelScope()
        self._parted = anyio.Event()
        self._session: AsrSession
        self._outbox: Outbox

    @property
    def waiting(self) -> int:
        """Messages that the client has not taken yet."""
        return len(self._outbox)

    def stop(self) -> None:
        """Take nothing more. What was taken gets its finals, and the client is told that the server stops."""
        self._stopping = True
        self._reading.cancel()

    def give_up(self) -> None:
        """Behind `stop`, when the time is over: tell the client so without the finals that are still missing."""
        self._finishing.cancel()

    async def refuse(self, error: QwenASRError) -> None:
        """Say why there is no session, and close. Raises WebSocketDisconnect when the client is gone."""
        log.info("A session was refused: %s", type(error).__name__)
        self._service.instruments.count(error)
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
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._unless_gone, self._send)
                    tasks.start_soon(self._unless_gone, self._hear)
        finally:
            self._part()
        if self._leaving is None:
            with anyio.move_on_after(self._limits.send_seconds):
                await self._websocket.close(self._close_code)

    async def leave(self) -> None:
        """Give the session up to another connection. Returns once nothing here touches it any more."""
        self._displaced = True
        self._close_code = RESUMED_CLOSE
        self._scope.cancel()
        await self._parted.wait()

    # --- the beginning and the end

    async def _begin(self) -> None:
        """Take the first message; resume or open the session. Raises the QwenASRError that forbids it."""
        first = await self._receive(self._limits.config_seconds)
        if isinstance(first, bytes):
            raise BadConfig('The first message is binary; expected a text: {"type": "config"} with the settings.')
        settings = asr_messages.parse_config(first)
        if settings.resume and await self._resume(settings.resume, settings):
            logs.set_session(self._session.id)
            log.info("The session goes on at sample %d.", self._session.received)
            return
        self._session = session = await self._open(settings)
        created = asr_messages.session_created(session.id, session.base if settings.resume else None)
        self._outbox = session.attach(created)
        session.holder = self
        logs.set_session(session.id)

    async def _resume(self, session_id: str, settings: Settings) -> bool:
        """Take over the session of that id; False where there is none. Raises BadConfig."""
        session = self._sessions.find(session_id, self._owner, settings.offset)
        if session is None:
            return False
        warning = asr_messages.check_resume(settings, session.settings)
        async with session.handover:
            if session.holder is not None:
                await session.holder.leave()
            # It may have ended while this waited.
            if session.problem is not None or not self._sessions.knows(session):
                return False
            self._sessions.kept_for(session)
            resumed = asr_messages.session_resumed(session.id, session.received, warning)
            self._session, self._outbox = session, session.attach(resumed, settings.offset)
            session.holder = self
        return True

    async def _open(self, settings: Settings) -> AsrSession:
        place = await self._place()
        try:
            session = await self._in_thread(AsrSession, settings, self._owner, self._limits, self._service, place)
        except BaseException as error:
            place.leave()
            if isinstance(error, QwenASRError) or not isinstance(error, Exception):
                raise
            log.exception("A session could not be opened.")
            raise QwenASRError("The server failed to open a session; its log says why.") from error
        self._sessions.add(session)
        return session

    async def _place(self) -> Ticket:
        """A place among the sessions, waited for. Raises LimitExceeded, ServerStopping, WebSocketDisconnect."""
        with anyio.CancelScope() as self._reading:
            place, self._held = await place_for(self._websocket, self._service.admission, self._limits, _queued)
            return place
        raise ServerStopping

    async def _unless_gone(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the conversation; a client that is gone, or does not read, ends the others too."""
        try:
            await part()
        except (WebSocketDisconnect, TimeoutError) as gone:
            log.info("The client is gone (%s).", type(gone).__name__)
            self._session.why = f"the client is gone ({type(gone).__name__})"
            self._leaving = self._leaving or gone
            self._scope.cancel()

    def _part(self) -> None:
        """This connection and the session part: what becomes of the session depends on why."""
        session, leaving = self._session, self._leaving
        session.detach()
        left = isinstance(leaving, WebSocketDisconnect) and leaving.code in (*_LEFT, _STOPPING)
        if self._displaced or (leaving is not None and not left and session.problem is None):
            self._sessions.keep(session)
        elif leaving is None and session.problem is None and session.finalized:
            self._sessions.finish(session)
        else:
            self._sessions.forget(session)
        self._parted.set()

    # --- what comes in

    async def _hear(self) -> None:
        """Read to the end, whatever ends it; then have everything that was taken recognised and told."""
        session = self._session
        if not session.finalized:
            session.problem = await self._until_the_end()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._unless_gone, self._notice_leaving)
            try:
                with anyio.CancelScope() as self._finishing:
                    # Shielded: if this connection goes, the session still finishes, for the next one.
                    await asyncio.shield(asyncio.wrap_future(await self._in_thread(session.finish)))
            except Exception:
                log.exception("The session could not be finished.")
                session.problem = QwenASRError(
                    "The server failed on the end of this session; its log says why."
                )
            if session.problem is None:
                session.conclude()
            else:
                self._close_code = session.problem.close_code
                session.why = type(session.problem).__name__
                self._service.instruments.count(session.problem)
                self._outbox.put(asr_messages.of_error(session.problem))
            self._outbox.end()

    async def _until_the_end(self) -> QwenASRError | None:
        """Take audio until the client finalizes: None. Else what forbids to go on. Raises WebSocketDisconnect."""
        with anyio.move_on_after(max(0.0, self._limits.session_seconds - self._session.seconds)):
            try:
                while isinstance(message := await self._receive(self._limits.idle_seconds), bytes):
                    await self._take(message)
                asr_messages.check_finalize(message)
            except QwenASRError as error:
                return error
            except WebSocketDisconnect:
                raise
            except Exception:
                log.exception("The session failed.")
                return QwenASRError("The server failed on this session; its log says why. Connect again to go on.")
            return None
        return LimitExceeded(
            f"The session has lasted {self._limits.session_seconds:g} seconds, the most that this server allows: "
            "connect again to go on."
        )

    async def _receive(self, seconds: float) -> str | bytes:
        """The next message. Raises WebSocketDisconnect, TimedOut where none comes, TooLarge for one too long.

        And ServerStopping, as soon as the server stops.
        """
        self._check_stopping()
        with anyio.move_on_after(seconds) as self._reading:
            message = self._held.popleft() if self._held else await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            text, audio = message.get("text"), message.get("bytes")
            most = self._limits.message_bytes if text is None else self._limits.config_bytes
            size = len(audio or b"") if text is None else len(text.encode())
            if size > most:
                raise TooLarge(f"A message has {size} bytes; this one may have {most}: send smaller ones.")
            return audio or b"" if text is None else str(text)
        self._check_stopping()
        raise TimedOut(f"Nothing came for {seconds:g} seconds: connect again to go on.")

    async def _take(self, audio: bytes) -> None:
        """Feed audio, a second at a time, as far as the session does not get ahead of the recogniser."""
        session = self._session
        for begin in range(0, len(audio), session.bytes_a_second):
            ahead = await self._in_thread(session.feed, audio[begin : begin + session.bytes_a_second])
            while ahead:
                self._check_stopping()
                await anyio.sleep(_POLL_SECONDS)
                ahead = await self._in_thread(session.is_ahead)

    def _check_stopping(self) -> None:
        if self._stopping:
            raise ServerStopping

    async def _notice_leaving(self) -> None:
        """Read on and drop what comes, as long as the last texts are on their way. Raises WebSocketDisconnect."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))

    async def _in_thread(self, function: Callable[..., T], *values: Any) -> T:
        return await anyio.to_thread.run_sync(function, *values, limiter=self._threads)

    # --- what goes out

    async def _send(self) -> None:
        """Send what is put into the outbox, to its end. Raises TimeoutError for a client that does not read."""
        while (message := await self._outbox.take()) is not None:
            with anyio.fail_after(self._limits.send_seconds):
                await self._websocket.send_text(asr_messages.encode(message))
        self._scope.cancel()
