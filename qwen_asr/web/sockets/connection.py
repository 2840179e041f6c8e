"""The flow that both WebSocket protocols share: begin, receive audio, finish, close. A protocol fills in the rest.

Three things run at the same time. The client's messages are read, and its audio goes to a worker thread, but never
further ahead of the recognizer than the limits allow: what is not read stays with the client, by TCP's own
back-pressure. The recognizer puts its results into an outbox. From there they are sent as fast as the client
reads. Unless the client itself leaves, a session that ends still gets the texts of the audio that it received.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anyio
import anyio.to_thread
from starlette.websockets import WebSocketDisconnect

from qwen_asr.errors import LimitExceeded, QwenASRError, ServerStopping, TimedOut
from qwen_asr.logs import SeldomLog
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.sockets.messages import close_reason
from qwen_asr.web.sockets.queueing import send_message, wait_for_model_on_socket, wait_for_slot_on_socket
from qwen_asr.web.transport.websocket_protocol import allow_long_messages, last_sign_of_life

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.models import ModelUse
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.messages import ServerMessage
    from qwen_asr.web.sockets.outbox import Outbox

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05  # interval at which a session that is ahead of the recognizer is checked
_WATCH_SECONDS = 1.0
"""Interval at which it is checked whether texts can be made."""
NORMAL_CLOSE = 1000
T = TypeVar("T")


_seldom = SeldomLog()


def log_seldom(message: str) -> None:
    """Logs what any client can cause as often as it likes, at most once a minute. The metrics count every refusal."""
    if _seldom.due(message, time.monotonic()):
        log.info("%s", message)


class Connection(ABC):
    """One accepted WebSocket connection: `run` it, or `refuse` it.

    `_begin` sets `_outbox`. Every method runs on the event loop except `_feed` and `_is_ahead`, which run on worker
    threads, one at a time.
    """

    kind: ClassVar[str]  # of the session, for the log
    _outbox: Outbox

    def __init__(
        self, websocket: WebSocket, service: Service, limits: SocketLimits, threads: anyio.CapacityLimiter
    ) -> None:
        self.address = sender(websocket.scope)
        self._websocket = websocket
        self._service = service
        self._limits = limits
        self._threads = threads
        self._early_messages: deque[dict[str, Any]] = deque()  # messages that came while the client waited to begin
        self._model: ModelUse | None = None  # that of the newest settings
        self._has_begun = False
        self._close_code = NORMAL_CLOSE
        self._close_reason = ""
        self._disconnect_error: Exception | None = None  # the error that showed that the client is gone
        self._stopping = False
        self._audio_at = float("-inf")  # when the newest audio was fed, by the clock of the event loop
        self._connection_scope = anyio.CancelScope()
        self._read_scope = anyio.CancelScope()
        self._finish_scope = anyio.CancelScope()
        self._watch_scope = anyio.CancelScope()

    # --- what a protocol fills in

    @abstractmethod
    async def _begin(self) -> None:
        """Open or resume a session. Raises a QwenASRError if that is not possible, and WebSocketDisconnect."""

    @abstractmethod
    async def _handle(self, message: str | bytes) -> bool:
        """Do what a message says; returns whether more may come. Raises QwenASRError to end the session."""

    @abstractmethod
    def _feed(self, audio: bytes) -> bool:
        """Take audio; returns `_is_ahead()`."""

    @abstractmethod
    def _piece_bytes(self) -> int:
        """How many bytes of audio to feed at once."""

    @abstractmethod
    def _is_ahead(self) -> bool:
        """Whether more audio should wait: for the recognizer, or for a client that does not read."""

    @abstractmethod
    async def _finish(self, error: QwenASRError | None) -> None:
        """No more audio comes. Returns once every text of the audio received is in the outbox.

        `error` is what ended the session; None if the client finished it.
        """

    @abstractmethod
    def _conclude(self, error: QwenASRError | None) -> None:
        """Put the last message into the outbox: about the `error`, if there is one. Called once, after `_finish`."""

    @abstractmethod
    def _detach(self) -> None:
        """Separate the connection from its session. Called once for each `_begin` that returned."""

    @abstractmethod
    def _error_message(self, error: QwenASRError) -> ServerMessage:
        """The message for an error that ends the session, or keeps it from beginning."""

    @abstractmethod
    def _queued_message(self, position: int) -> ServerMessage:
        """The message for a position in the queue."""

    @abstractmethod
    def _loading_message(self, text: str) -> ServerMessage:
        """The message for the progress of loading the model that the client has chosen."""

    async def _is_busy(self) -> bool:
        """Whether a silent client may be waiting for the server, and so must not time out."""
        return False

    def _unavailable_reason(self) -> str | None:
        """Why no text can be made now, though it may later, as a sentence; None if it can."""
        engine = None if self._model is None else self._model.model.engine
        return None if engine is None else engine.unavailable_reason()

    def _warn(self, code: str, message: str) -> None:  # noqa: B027 - Deepgram's protocol has no message for it
        """Tell the client what is wrong. The session goes on."""

    def _seconds_left(self) -> float:
        """How much longer the session may last."""
        return self._limits.session_seconds

    # --- the flow

    async def run(self) -> None:
        """Run the flow to the close. Raises WebSocketDisconnect if the client left before `_begin` returned."""
        try:
            await self._run()
        finally:
            if self._model is not None:
                self._model.leave()

    async def _run(self) -> None:
        try:
            await self._begin()
        except QwenASRError as error:
            await self.refuse(error)
            return
        except WebSocketDisconnect:
            raise
        except Exception:
            log.exception("A session could not be opened.")
            await self.refuse(QwenASRError("The server failed to open a session; its log says why."))
            return
        self._has_begun = True
        allow_long_messages(self._websocket.scope)
        try:
            with self._connection_scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._run_part, self._send_loop)
                    tasks.start_soon(self._run_part, self._receive_loop)
                    tasks.start_soon(self._run_part, self._watch)
        finally:
            self._detach()
        if self._disconnect_error is None:
            with anyio.move_on_after(self._limits.send_seconds):
                await self._websocket.close(self._close_code, self._close_reason)

    async def refuse(self, error: QwenASRError) -> None:
        """Tell the client why there is no session, and close. Raises WebSocketDisconnect if the client is gone."""
        log_seldom(f"A {self.kind} session was refused: {type(error).__name__}")
        self._service.instruments.count(error)
        with anyio.move_on_after(self._limits.send_seconds):
            await self._websocket.send_text(self._error_message(error).to_json())
            await self._websocket.close(error.close_code, close_reason(error))

    def stop(self) -> None:
        """Read nothing more. Audio already received is transcribed, and the client is told that the server stops."""
        self._stopping = True
        self._read_scope.cancel()

    def give_up(self) -> None:
        """After `stop`, when the time is over: close without the texts that are still missing."""
        self._finish_scope.cancel()

    @property
    def waiting(self) -> int:
        """Messages that the client has not read yet."""
        return len(self._outbox)

    async def _receive_loop(self) -> None:
        """Receive until something ends the session; then finish it. Raises WebSocketDisconnect."""
        error = await self._receive_all()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_part, self._drain)
            try:
                with anyio.CancelScope() as self._finish_scope:
                    await self._finish(error)
            except Exception:
                log.exception("The session could not be finished.")
                error = QwenASRError("The server failed while it finished this session; its log says why.")
            if error is not None:
                self._close_code, self._close_reason = error.close_code, close_reason(error)
                self._service.instruments.count(error)
            self._watch_scope.cancel()  # nothing comes after the last message
            self._conclude(error)
            self._outbox.end()

    async def _receive_all(self) -> QwenASRError | None:
        """Handle messages until the session ends. Returns why; None if the client finished it.

        Raises WebSocketDisconnect.
        """
        self._audio_at = anyio.current_time()
        with anyio.move_on_after(self._seconds_left()):
            try:
                while await self._handle(await self._receive_in_session()):
                    pass
            except QwenASRError as error:
                return error
            except WebSocketDisconnect:
                raise
            except Exception:
                log.exception("The session failed.")
                return QwenASRError("The server failed on this session; its log says why. Reconnect to continue.")
            return None
        return LimitExceeded(
            f"The session has lasted {self._limits.session_seconds:g} seconds, the most that this server allows: "
            "reconnect to continue."
        )

    async def _send_loop(self) -> None:
        """Send what is put into the outbox, to its end. Raises TimeoutError if the client does not read."""
        while (message := await self._outbox.take()) is not None:
            with anyio.fail_after(self._limits.send_seconds):
                await self._websocket.send_text(message.to_json())
        self._connection_scope.cancel()

    async def _watch(self) -> None:
        """Tell the client, once each time, that its texts have to wait. Ends before the last message."""
        told = None
        with self._watch_scope:
            while True:
                reason = self._unavailable_reason()
                if reason is not None and told is None:
                    self._warn("Unavailable", f"{reason} The session goes on, and its texts come later.")
                told = reason
                await anyio.sleep(_WATCH_SECONDS)

    async def _drain(self) -> None:
        """Read and drop what comes while the last texts are on their way. Raises WebSocketDisconnect."""
        while True:
            await self._next()

    async def _run_part(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the flow. If the client turns out to be gone, or not to read, end the other parts too."""
        try:
            await part()
        except (WebSocketDisconnect, TimeoutError) as lost:
            log.info("The client is gone (%s).", type(lost).__name__)
            self._disconnect_error = self._disconnect_error or lost
            self._connection_scope.cancel()

    # --- for protocols

    async def _wait_for_slot(self) -> QueueTicket:
        """Wait for a slot among the sessions. Raises LimitExceeded, ServerStopping, WebSocketDisconnect."""
        with anyio.CancelScope() as self._read_scope:
            slot, messages = await wait_for_slot_on_socket(
                self._websocket, self._service.admission, self._limits, self._queued_message
            )
            self._early_messages += messages
            return slot
        raise ServerStopping

    async def _use_model(self, name: str | None) -> None:
        """Wait for the model that the client means by `name`, and keep it loaded until another one is used, or the end.

        Call it before `_wait_for_slot`: what is being loaded needs no slot. Raises NotReady and what else keeps the
        model from being loaded, ServerStopping and WebSocketDisconnect; the model that was used before then stays.
        """
        use = self._service.use_model(name)
        try:
            with anyio.CancelScope() as self._read_scope:
                self._early_messages += await wait_for_model_on_socket(
                    self._websocket, use, self._limits, self._tell_progress
                )
            self._check_stopping()
        except BaseException:
            use.leave()
            raise
        if self._model is not None:
            self._model.leave()
        self._model = use

    async def _tell_progress(self, text: str) -> None:
        message = self._loading_message(text)
        if self._has_begun:
            self._outbox.put(message)
        else:  # nothing is taken from the outbox yet
            await send_message(self._websocket, message, self._limits)

    async def _receive_first(self, seconds: float) -> str | bytes:
        """The first message, for which pings do not buy time.

        Raises WebSocketDisconnect, TimedOut if none comes within `seconds`, and ServerStopping once the server stops.
        """
        if (message := await self._receive_within(seconds)) is None:
            raise TimedOut(f"Nothing came for {seconds:g} seconds: reconnect to continue.")
        return message

    async def _receive_in_session(self) -> str | bytes:
        """The next message of a client that may pause.

        Raises WebSocketDisconnect, ServerStopping once the server stops, TimedOut after `idle_seconds` without a sign
        of life, and LimitExceeded after `pause_seconds` without audio once somebody waits for the slot.
        """
        limits, alive_at = self._limits, anyio.current_time()
        while True:
            now = anyio.current_time()
            alive_at = max(alive_at, last_sign_of_life(self._websocket.scope))
            is_idle = now >= alive_at + limits.idle_seconds
            # Checked before each message too: keepalives must not put it off.
            is_in_the_way = now >= self._audio_at + limits.pause_seconds and self._service.admission.is_wanted(
                self.address
            )
            if is_idle or is_in_the_way:
                if await self._is_busy():
                    alive_at = now
                elif is_idle:
                    raise TimedOut(
                        f"Nothing came for {limits.idle_seconds:g} seconds, not even a pong: reconnect to continue."
                    )
                else:
                    raise LimitExceeded(
                        f"No audio came for {limits.pause_seconds:g} seconds, and others wait for this session's slot: "
                        "reconnect to continue."
                    )
            pause_left = max(self._audio_at + limits.pause_seconds - now, limits.pause_poll_seconds)
            message = await self._receive_within(min(alive_at + limits.idle_seconds - now, pause_left))
            if message is not None:
                return message

    async def _receive_within(self, seconds: float) -> str | bytes | None:
        """The next message; None after `seconds`. Raises WebSocketDisconnect, and ServerStopping."""
        self._check_stopping()
        with anyio.move_on_after(seconds) as self._read_scope:
            message = await self._next()
            text = message.get("text")
            return bytes(message.get("bytes") or b"") if text is None else str(text)
        self._check_stopping()
        return None

    async def _feed_audio(self, audio: bytes) -> None:
        """Feed audio in pieces, no faster than the recognizer takes it. Raises what `_feed` raises."""
        begin = 0
        while begin < len(audio):
            end = begin + self._piece_bytes()
            await self._wait_while_ahead(await self._in_thread(self._feed, audio[begin:end]))
            begin = end
            self._audio_at = anyio.current_time()

    async def _wait_while_ahead(self, ahead: bool) -> None:
        """Wait until `_is_ahead` is false; `ahead` is what it was last. Raises ServerStopping."""
        while ahead:
            self._check_stopping()
            await anyio.sleep(_POLL_SECONDS)
            ahead = await self._in_thread(self._is_ahead)

    async def _in_thread(self, function: Callable[..., T], *values: Any) -> T:
        return await anyio.to_thread.run_sync(function, *values, limiter=self._threads)

    async def _next(self) -> dict[str, Any]:
        """The next ASGI message. Raises WebSocketDisconnect."""
        message: dict[str, Any] = (
            self._early_messages.popleft() if self._early_messages else dict(await self._websocket.receive())
        )
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        return message

    def _check_stopping(self) -> None:
        if self._stopping:
            raise ServerStopping
