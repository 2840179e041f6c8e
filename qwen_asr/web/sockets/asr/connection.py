"""One connection to `/ws/asr`: opens or resumes a session, and feeds it audio.

A connection that is lost does not end its session, which waits to be resumed (`registry`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

import anyio
from starlette.websockets import WebSocketDisconnect

from qwen_asr import logs
from qwen_asr.errors import BadConfig, QwenASRError, TooLarge
from qwen_asr.web.access.identity import identity
from qwen_asr.web.sockets.asr.messages import (
    AsrConfig,
    Loading,
    Queued,
    SessionCreated,
    SessionResumed,
    WarningMessage,
    check_resume,
    error_message,
    parse_config,
    parse_control,
)
from qwen_asr.web.sockets.asr.session import AsrSession
from qwen_asr.web.sockets.connection import Connection

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.asr.messages import ErrorMessage
    from qwen_asr.web.sockets.asr.registry import ResumableSessions

log = logging.getLogger(__name__)

RESUMED_CLOSE = 4001  # from the range that RFC 6455 leaves to applications
_LEFT = (1000, 1001, 1005)
"""Close codes of a client that leaves on purpose: normal, going away, none. 1006 is a connection that was lost."""
_STOPPING = 1012  # uvicorn reports it when this server stops: no client comes back to this process


class AsrConnection(Connection):
    """See `Connection`."""

    kind = "/ws/asr"
    _session: AsrSession

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        sessions: ResumableSessions,
    ) -> None:
        super().__init__(websocket, service, limits, threads)
        self._sessions = sessions
        # Who opened a session, and nobody else, can resume it: the same key or user, however it is sent, or browser.
        self._owner = hashlib.sha256(identity(websocket.scope).encode()).digest()
        self._gathering = 0.0  # as of the last `_feed`: the event loop must not wait for the session's lock
        self._handing_over = False
        self._detached = anyio.Event()

    async def hand_over(self) -> None:
        """See `Holder`."""
        self._handing_over = True
        self._close_code = RESUMED_CLOSE
        self._connection_scope.cancel()
        await self._detached.wait()

    # --- the beginning

    async def _begin(self) -> None:
        first = await self._receive_first(self._limits.config_seconds)
        self._check_size(first)
        if isinstance(first, bytes):
            raise BadConfig('The first message is binary; expected a text: {"type": "config"} with the settings.')
        config = parse_config(first)
        if config.resume and await self._resume(config):
            logs.set_session(self._session.id)
            log.info("The session goes on at sample %d.", self._session.received)
            return
        self._session = session = await self._open(config)
        received = session.base if config.resume else None
        model = self._service.model_name(config.model) if config.model else None
        self._outbox = session.attach(SessionCreated(session_id=session.id, received_samples=received, model=model))
        session.holder = self
        logs.set_session(session.id)

    async def _resume(self, config: AsrConfig) -> bool:
        """Take over the session that the config names; False if it is unknown. Raises BadConfig."""
        session = self._sessions.find(config.resume, self._owner, config.offset)
        if session is None:
            return False
        warning = check_resume(config, session.config)
        async with session.handover:
            if session.holder is not None:
                await session.holder.hand_over()
            # It may have ended meanwhile.
            if session.error is not None or not self._sessions.contains(session):
                return False
            self._sessions.cancel_expiry(session)
            resumed = SessionResumed(session_id=session.id, received_samples=session.received, warning=warning)
            self._session, self._outbox = session, session.attach(resumed, config.offset)
            session.holder = self
        return True

    async def _open(self, config: AsrConfig) -> AsrSession:
        await self._use_model(config.model)
        slot = await self._wait_for_slot()
        try:
            session = await self._in_thread(AsrSession, config, self._owner, self._limits, self._service, slot)
        except BaseException:
            slot.leave()
            raise
        self._sessions.add(session)
        return session

    # --- messages

    async def _receive_all(self) -> QwenASRError | None:
        # A client that resumes a session after its finalize need not send that again.
        return None if self._session.finalized else await super()._receive_all()

    async def _handle(self, message: str | bytes) -> bool:
        self._check_size(message)
        if isinstance(message, bytes):
            await self._feed_audio(message)
            await self._let_audio_gather(len(message))
            return True
        control = parse_control(message)
        if isinstance(control, WarningMessage):
            self._outbox.put(control)
            await self._wait_while_ahead(await self._in_thread(self._is_ahead))
        return control != "finalize"

    def _check_size(self, message: str | bytes) -> None:
        """Raises TooLarge."""
        if isinstance(message, bytes):
            size, allowed = len(message), self._limits.message_bytes
        else:
            size, allowed = len(message.encode()), self._limits.config_bytes
        if size > allowed:
            raise TooLarge(f"A message has {size} bytes; this one may have {allowed}: send smaller ones.")

    async def _let_audio_gather(self, handled: int) -> None:
        """After so many bytes, wait for more if the device is busy. The WebSocket protocol joins what arrives."""
        seconds = self._gathering - handled / self._session.bytes_per_second
        if seconds > 0:
            await anyio.sleep(seconds)

    def _feed(self, audio: bytes) -> bool:
        ahead = self._session.feed(audio)
        self._gathering = self._session.gathering
        return ahead

    def _piece_bytes(self) -> int:
        return self._session.bytes_per_second

    def _is_ahead(self) -> bool:
        return self._session.is_ahead()

    def _seconds_left(self) -> float:
        return max(0.0, self._limits.session_seconds - self._session.seconds)

    # --- the end

    async def _finish(self, error: QwenASRError | None) -> None:
        self._session.error = error
        # Shielded: if this connection is lost meanwhile, the session still finishes, for the next connection.
        await asyncio.shield(asyncio.wrap_future(await self._in_thread(self._session.finish)))

    def _conclude(self, error: QwenASRError | None) -> None:
        session = self._session
        session.error = error
        if error is None:
            session.conclude()
        else:
            session.end_reason = type(error).__name__
            self._outbox.put(error_message(error))

    def _detach(self) -> None:
        session, lost = self._session, self._disconnect_error
        if lost is not None:
            session.end_reason = f"the client is gone ({type(lost).__name__})"
        session.detach()
        left = isinstance(lost, WebSocketDisconnect) and lost.code in (*_LEFT, _STOPPING)
        if self._handing_over or (lost is not None and not left and session.error is None):
            self._sessions.detach(session)
        elif lost is None and session.error is None and session.finalized:
            self._sessions.finish(session)
        else:
            self._sessions.remove(session)
        self._detached.set()

    def _unavailable_reason(self) -> str | None:
        return self._session.unavailable_reason()

    def _warn(self, code: str, message: str) -> None:
        self._session.warn(code, message)

    def _error_message(self, error: QwenASRError) -> ErrorMessage:
        return error_message(error)

    def _queued_message(self, position: int) -> Queued:
        return Queued(position=position)

    def _loading_message(self, text: str) -> Loading:
        return Loading(message=text)
