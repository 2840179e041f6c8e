"""One client of `/ws/asr`: its messages in, the session's messages out.

Three things go on at once. The client's messages are read, and its audio goes to a worker thread, but never further
ahead of the recognizer than `ahead_seconds`: what is not read stays with the client, by TCP's own back-pressure. The
recognizer's thread puts what it finds into an outbox. From there it is sent as fast as the client reads.

Whatever ends a session but the client's leaving, what was taken gets its text first. A connection that is lost ends
nothing: the session waits for its client to come back (`asr_sessions`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING, Any

import anyio
from starlette.websockets import WebSocketDisconnect

from qwen_asr import logs
from qwen_asr.errors import BadConfig, LimitExceeded, QwenASRError, TimedOut, TooLarge
from qwen_asr.web.sockets.asr import messages as asr_messages
from qwen_asr.web.sockets.asr.session import AsrSession
from qwen_asr.web.sockets.connection import Connection

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.asr.messages import Settings
    from qwen_asr.web.sockets.asr.registry import Sessions

log = logging.getLogger(__name__)

RESUMED_CLOSE = 4001  # from the range that RFC 6455 leaves to applications
_LEFT = (1000, 1001, 1005)
"""Close codes of a client that leaves on purpose: normal, going away, none. 1006 is a connection that was lost."""
_STOPPING = 1012  # what the server itself says when it stops: nobody will come back to this process


class AsrConnection(Connection):
    """What one accepted connection says and hears."""

    kind = "/ws/asr"
    _session: AsrSession

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        sessions: Sessions,
    ) -> None:
        super().__init__(websocket, service, limits, threads)
        self._sessions = sessions
        # Who resumes must come with the key that the session was opened with, or both without any.
        self._owner = hashlib.sha256(websocket.headers.get("authorization", "").encode()).digest()
        self._displaced = False
        self._parted = anyio.Event()

    async def run(self) -> None:
        """See `Connection`."""
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
        await self._close()

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
        slot = await self._place()
        try:
            session = await self._in_thread(AsrSession, settings, self._owner, self._limits, self._service, slot)
        except BaseException as error:
            slot.leave()
            if isinstance(error, QwenASRError) or not isinstance(error, Exception):
                raise
            log.exception("A session could not be opened.")
            raise QwenASRError("The server failed to open a session; its log says why.") from error
        self._sessions.add(session)
        return session

    def _part(self) -> None:
        """This connection and the session part: what becomes of the session depends on why."""
        session, leaving = self._session, self._leaving
        if leaving is not None:
            session.why = f"the client is gone ({type(leaving).__name__})"
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
        """Read to the end, whatever ends it; then have everything that was taken recognized and told."""
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
                session.problem = QwenASRError("The server failed on the end of this session; its log says why.")
            if session.problem is None:
                session.conclude()
            else:
                self._close_code = session.problem.close_code
                session.why = type(session.problem).__name__
                self._service.instruments.count(session.problem)
                self._outbox.put(self._problem(session.problem))
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
            message = await self._next()
            text, audio = message.get("text"), message.get("bytes")
            most = self._limits.message_bytes if text is None else self._limits.config_bytes
            size = len(audio or b"") if text is None else len(text.encode())
            if size > most:
                raise TooLarge(f"A message has {size} bytes; this one may have {most}: send smaller ones.")
            return audio or b"" if text is None else str(text)
        self._check_stopping()
        raise TimedOut(f"Nothing came for {seconds:g} seconds: connect again to go on.")

    async def _take(self, audio: bytes) -> None:
        """Feed audio, a second at a time, as far as the session does not get ahead of the recognizer."""
        session = self._session
        for begin in range(0, len(audio), session.bytes_a_second):
            await self._wait(await self._in_thread(session.feed, audio[begin : begin + session.bytes_a_second]))

    def _is_ahead(self) -> bool:
        return self._session.is_ahead()

    # --- what is said of problems and places

    def _problem(self, error: QwenASRError) -> dict[str, Any]:
        return asr_messages.of_error(error)

    def _queued(self, position: int) -> dict[str, Any]:
        return asr_messages.queued(position)
