"""One client of `/v1/realtime`: its events in, the session's events out.

As in `asr_conversation.py` three things go on at once: the client's events are read and its audio goes to a worker
thread, never further ahead of the recognizer than the limits say; the recognizer's thread puts what it finds into an
outbox; from there it is sent as fast as the client reads.

An event that cannot be used is answered with an `error`, and the session goes on, as at OpenAI. What ends it otherwise
(time, idleness, a failure of the server's) is said first, behind the texts of what was committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocketDisconnect

from qwen_asr import logs
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.errors import BadField, BadInput, LimitExceeded, QwenASRError, ServerStopping, TimedOut, TooLarge
from qwen_asr.web.sockets.connection import Connection
from qwen_asr.web.sockets.outbox import Outbox
from qwen_asr.web.sockets.realtime import messages
from qwen_asr.web.sockets.realtime.settings import OLD_UPDATE, ServerVad, Settings, prompt_path
from qwen_asr.web.sockets.realtime.turns import ItemLog, TurnStream, open_turn_stream

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.service import Service

log = logging.getLogger(__name__)

_LONG = 1 << 16  # bytes of a message that are parsed on the event loop; more than that goes to a worker thread
T = TypeVar("T")


class RealtimeConnection(Connection):
    """What one accepted connection says and hears."""

    kind = "/v1/realtime"

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        old: bool = False,
    ) -> None:
        """`old`: the client speaks the API as it was before, until it says otherwise."""
        super().__init__(websocket, service, limits, threads)
        self.session_id = messages.new_id("sess")
        self._outbox = Outbox(limits.waiting_messages)
        self._tasks: TaskGroup
        # Below: what only one worker thread at a time touches, because the client's events are obeyed one by one.
        config = service.config
        self._settings = Settings(ServerVad.of(config), language=config.default_language)
        self._item_log = ItemLog(lambda event: self._outbox.put(messages.numbered(event)))
        self._item_log.old = old
        self._item_log.name = self.session_id
        self._stream = self._new_stream()
        self._turns: TurnStream | None = None  # those that hear the audio now
        self._ending: list[TurnStream] = []  # those before them whose texts are not all known
        self._position = 0  # samples at 16 kHz before the present turns

    async def run(self) -> None:
        """See `Connection`."""
        expires_at = int(time.time() + self._limits.session_seconds)
        try:
            self._told = messages.SessionInfo(self.session_id, self._service.model_name, expires_at)
            slot = await self._place()
        except QwenASRError as error:
            await self.refuse(error)
            return
        logs.set_session(self.session_id)
        log.info("Realtime session began.")
        self._item_log.put(self._told.session("created", self._settings, self._item_log.old))
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._unless_gone, self._send)
                    tasks.start_soon(self._unless_gone, self._hear)
        finally:
            for turns in self._all_turns():
                turns.close()
            slot.leave()
            log.info("Realtime session ended.")
        await self._close()

    # --- what comes in

    async def _hear(self) -> None:
        """Obey the client until something ends the session; then have what was taken recognized and told."""
        problem, code = await self._until_the_end()
        self._tasks.start_soon(self._unless_gone, self._notice_leaving)
        try:
            with anyio.CancelScope() as self._finishing:
                for finished in await self._in_thread(self._finish):
                    await asyncio.wrap_future(finished)
        except Exception:
            log.exception("The session could not be finished.")
            problem, code = QwenASRError("The server failed on the end of this session; its log says why."), None
        self._close_code = problem.close_code
        self._service.instruments.count(problem)
        self._item_log.put(messages.problem(problem, code=code))
        self._outbox.end()

    async def _until_the_end(self) -> tuple[QwenASRError, str | None]:
        """Obey event after event; returns what ends the session, and its code. Raises WebSocketDisconnect."""
        with anyio.move_on_after(self._limits.session_seconds):
            try:
                while True:
                    await self._answer(await self._receive())
                    await self._wait(await self._in_thread(self._is_ahead))
            except (TimedOut, ServerStopping) as error:
                return error, None
            except WebSocketDisconnect:
                raise
            except Exception:
                log.exception("The session failed.")
                return QwenASRError("The server failed on this session; its log says why. Connect again."), None
        said = f"The session has lasted {self._limits.session_seconds:g} seconds, the most that this server allows."
        return LimitExceeded(f"{said} Connect again to go on."), "session_expired"

    async def _receive(self) -> str | bytes:
        """The next message.

        Raises WebSocketDisconnect, TimedOut where nothing comes and nothing is being done, and ServerStopping.
        """
        while True:
            self._check_stopping()
            with anyio.move_on_after(self._limits.idle_seconds) as self._reading:
                message = await self._next()
                text = message.get("text")
                return bytes(message.get("bytes") or b"") if text is None else str(text)
            self._check_stopping()
            if not await self._in_thread(self._is_busy):
                raise TimedOut(f"Nothing came for {self._limits.idle_seconds:g} seconds: connect again to go on.")

    async def _answer(self, message: str | bytes) -> None:
        """Do what one message says, or say why not."""
        event_id = None
        try:
            given = await self._read(message)
            event_id = messages.event_id_of(given)
            event = await self._maybe_in_thread(len(message), messages.parse, given)
            if event.kind == messages.APPEND:
                await self._take(event.audio)
            elif len(message) > self._limits.config_bytes:
                most = self._limits.config_bytes
                raise TooLarge(f"An event has {len(message)} bytes; one without audio may have {most}.")
            else:
                await self._in_thread(self._obey, event)
        except ServerStopping:
            raise
        except QwenASRError as error:
            self._service.instruments.count(error)
            self._item_log.put(messages.problem(error, event_id))

    async def _read(self, message: str | bytes) -> messages.Event:
        """The JSON object in a message. Raises BadInput."""
        if isinstance(message, bytes):
            raise BadInput("A message is binary; expected events as JSON in text, with audio in base64 in them.")
        if len(message) > self._limits.message_bytes:
            most = self._limits.message_bytes
            raise TooLarge(f"An event has {len(message)} bytes; one may have {most}: send the audio in smaller pieces.")
        return await self._maybe_in_thread(len(message), messages.read, message)

    async def _take(self, audio: bytes) -> None:
        """Feed audio, a second at a time, as far as the session does not get ahead of the recognizer."""
        begin = 0
        while begin < len(audio):
            # Where other settings wait for the present turn's end, that must be noticed when it comes.
            size = self._stream.bytes_a_second // (1 if self._fits() else 10)
            await self._wait(await self._in_thread(self._feed, audio[begin : begin + size]))
            begin += size

    # --- on worker threads, one at a time

    async def _maybe_in_thread(self, size: int, function: Callable[..., T], *values: Any) -> T:
        """What would hold up the event loop, and with it every speaker, goes to a thread."""
        return function(*values) if size <= _LONG else await self._in_thread(function, *values)

    def _feed(self, audio: bytes) -> bool:
        self._hand_on(self._stream.feed(audio))
        self._renew()
        return self._is_ahead()

    def _hand_on(self, samples: NDArray[np.float32]) -> None:
        if len(samples):
            if self._turns is None:
                self._turns = open_turn_stream(self._service, self._settings, self._item_log, self._position)
            self._turns.feed(samples)

    def _obey(self, event: messages.ClientEvent) -> None:
        """Any event but an append. Raises BadField."""
        if event.kind == messages.COMMIT:
            self._commit(event.event_id)
        elif event.kind == messages.CLEAR:
            self._clear()
        else:
            self._update(event)

    def _commit(self, event_id: str | None) -> None:
        uncommitted = self._stream.held + (self._turns.uncommitted if self._turns else 0)
        milliseconds = uncommitted * 1000 / SAMPLE_RATE
        if milliseconds < messages.LEAST_COMMIT_MS:
            self._item_log.put(messages.too_little(milliseconds, event_id))
            return
        self._flush()
        if (turns := self._turns) is not None:
            turns.commit()
            self._leave(turns)

    def _clear(self) -> None:
        if (turns := self._turns) is not None:
            turns.clear()
            self._leave(turns)
        self._position += self._stream.held
        self._stream = self._new_stream()
        self._item_log.put(messages.cleared())

    def _update(self, event: messages.ClientEvent) -> None:
        """Change the settings. A turn that is under way goes on as it began; of the audio's format that cannot wait."""
        settings = self._settings.updated(event.body, self._service.config)
        if (settings.prompt, settings.language) != (self._settings.prompt, self._settings.language):
            self._check(settings, prompt_path(event.kind))
        if settings.format == self._settings.format:
            self._settings = settings
        else:
            self._hand_on(self._stream.finish())
            self._settings = settings
            self._stream = self._new_stream()
        self._renew()
        self._item_log.old = event.kind == OLD_UPDATE
        self._item_log.put(self._told.session("updated", settings, self._item_log.old))

    def _check(self, settings: Settings, path: str) -> None:
        """Raise BadField for what the model cannot be told."""
        try:
            self._service.check_options(
                self._service.session_options(context=settings.prompt, language=settings.language or "auto")
            )
        except BadInput as error:
            raise BadField(path, str(error)) from error

    def _flush(self) -> None:
        """What the resampler still held belongs to what was before."""
        self._hand_on(self._stream.finish())
        self._stream = self._new_stream()

    def _new_stream(self) -> PcmStream:
        return PcmStream(self._settings.format.encoding, self._settings.format.rate)

    def _fits(self) -> bool:
        """Whether the present turns were opened with the present settings."""
        return self._turns is None or self._turns.settings.hears_as(self._settings)

    def _renew(self) -> None:
        """Make way for new settings, unless a turn is under way."""
        if (turns := self._turns) is not None and turns.quiet and not self._fits():
            turns.finish()
            self._leave(turns)

    def _leave(self, turns: TurnStream) -> None:
        """Those turns hear no more; what comes now is heard by others."""
        self._position = turns.end
        self._ending.append(turns)
        self._turns = None

    def _finish(self) -> list[Future[None]]:
        """The end of all audio: what is to be waited for until every text was told."""
        if (turns := self._turns) is not None and turns.settings.turns is not None:
            self._flush()
            turns.finish()
            self._leave(turns)
        return [finished for turns in self._ending if (finished := turns.finish()) and not finished.cancelled()]

    def _is_ahead(self) -> bool:
        for turns in self._ending:
            if turns.done:
                turns.close()
        self._ending = [turns for turns in self._ending if not turns.done]
        ahead = sum(turns.ahead for turns in self._all_turns())
        full = self._outbox.full or len(self._ending) > self._limits.waiting_turns
        return full or ahead > self._limits.ahead_seconds

    def _is_busy(self) -> bool:
        """Whether the client has reason to wait."""
        heard = self._turns is not None and self._turns.ahead > 0
        return heard or bool(len(self._outbox)) or any(not turns.done for turns in self._ending)

    def _all_turns(self) -> list[TurnStream]:
        return [*self._ending, self._turns] if self._turns else list(self._ending)

    # --- what is said of problems and places

    def _problem(self, error: QwenASRError) -> dict[str, Any]:
        return messages.numbered(messages.problem(error))

    def _queued(self, position: int) -> dict[str, Any]:
        return messages.numbered(messages.queued(position))
