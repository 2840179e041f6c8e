"""One connection to `/v1/realtime`: applies the client's events, and splits its audio into turns.

An event that cannot be used is answered with an `error`, and the session goes on, as at OpenAI. Before anything else
ends the session (time, idleness, a failure of the server), the texts of what was committed are sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from qwen_asr import logs
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.audio.stream_checks.arrival import ArrivalRate
from qwen_asr.errors import BadInput, LimitExceeded, QwenASRError, ServerStopping, TooLarge
from qwen_asr.service.admission import SharedSlot
from qwen_asr.web.access.client_secrets import client_secret
from qwen_asr.web.sockets.connection import Connection
from qwen_asr.web.sockets.outbox import Outbox
from qwen_asr.web.sockets.realtime.dialects import DASHSCOPE, OLD_OPENAI, OPENAI, Dialect, SessionFinished
from qwen_asr.web.sockets.realtime.messages import (
    MIN_COMMIT_MS,
    OLD_UPDATE,
    AudioAppend,
    AudioClear,
    AudioCommit,
    Cleared,
    ClientEvent,
    ErrorEvent,
    Loading,
    Queued,
    SessionFinish,
    SessionUpdate,
    SessionWarning,
    error_event,
    event_id_of,
    new_id,
    parse,
    read,
    shows_dashscope,
    too_little_audio,
)
from qwen_asr.web.sockets.realtime.settings import RealtimeSettings, SessionInfo
from qwen_asr.web.sockets.realtime.turns import ItemLog, TurnStream, new_turn_stream

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service

log = logging.getLogger(__name__)

_PARSED_INLINE_CHARACTERS = 1 << 16  # a longer message is parsed on a worker thread
T = TypeVar("T")


class RealtimeConnection(Connection):
    """See `Connection`."""

    kind = "/v1/realtime"
    _slot: QueueTicket
    _info: SessionInfo

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        dialect: Dialect = OPENAI,
    ) -> None:
        """`dialect`: that of the client, until one of its events shows another."""
        super().__init__(websocket, service, limits, threads)
        self.session_id = new_id("sess")
        self._outbox = Outbox(limits.waiting_messages)
        # What follows is used by one worker thread at a time, because events are applied one after the other.
        self._settings = RealtimeSettings.of(service.config).with_model(
            websocket.query_params.get("model"), service.config
        )
        if dialect is DASHSCOPE:
            self._settings = self._settings.of_dashscope()
        if (secret := client_secret(websocket.scope)) is not None:
            self._settings = self._settings.updated(secret.session, service.config)
        self._item_log = ItemLog(self._outbox.put, dialect)
        self._audio = self._new_audio()
        self._arrival = ArrivalRate(self._settings.format.rate)
        self._arrived = 0  # bytes of audio in the current format
        self._turns: TurnStream | None = None  # those that get the audio now
        self._ending: list[TurnStream] = []  # those before them that still have texts to come
        self._position = 0  # samples at 16 kHz before the current turns

    # --- the beginning and the end

    async def _begin(self) -> None:
        await self._use_model(self._settings.model)
        model = self._service.model_name(self._settings.model)
        self._slot = await self._wait_for_slot()
        self._info = SessionInfo.starting_now(self.session_id, model, self._limits.session_seconds)
        logs.set_session(self.session_id)
        log.info("Realtime session began.")
        self._item_log.put(self._item_log.dialect.session(self._info, self._settings, created=True))

    async def _finish(self, error: QwenASRError | None) -> None:
        for finished in await self._in_thread(self._finish_turns):
            await asyncio.wrap_future(finished)

    def _conclude(self, error: QwenASRError | None) -> None:
        if error is not None:
            code = "session_expired" if isinstance(error, LimitExceeded) else None
            self._item_log.put(error_event(error, code=code))
        else:
            self._item_log.put(SessionFinished())

    def _detach(self) -> None:
        for turns in self._all_turns():
            turns.close()
        self._slot.leave()
        log.info("Realtime session ended.")

    def _error_message(self, error: QwenASRError) -> ErrorEvent:
        return error_event(error)

    def _queued_message(self, position: int) -> Queued:
        return Queued(position=position)

    def _loading_message(self, text: str) -> Loading:
        return Loading(message=text)

    # --- messages

    async def _handle(self, message: str | bytes) -> bool:
        event_id = None
        try:
            given = await self._read(message)
            event_id = event_id_of(given)
            if self._item_log.dialect is not DASHSCOPE and shows_dashscope(given):
                await self._in_thread(self._turn_to_dashscope)
            is_dashscope = self._item_log.dialect is DASHSCOPE
            event = await self._maybe_in_thread(len(message), parse, given, is_dashscope)
            if isinstance(event, AudioAppend):
                await self._feed_audio(event.audio)
                return True
            if len(message) > self._limits.config_bytes:
                allowed = self._limits.config_bytes
                raise TooLarge(f"An event has {len(message)} bytes; one without audio may have {allowed}.")
            if isinstance(event, SessionUpdate):
                await self._load_model(event)
            await self._in_thread(self._apply, event)
            if isinstance(event, SessionFinish):
                return False
        except ServerStopping:
            raise
        except QwenASRError as error:
            self._service.instruments.count(error)
            self._item_log.put(error_event(error, event_id))
        await self._wait_while_ahead(await self._in_thread(self._is_ahead))
        return True

    async def _load_model(self, event: SessionUpdate) -> None:
        """Wait for the model that the update chooses, if it is another one. Raises as `_use_model`."""
        model = self._settings.updated(event.session, self._service.config).model
        if model != self._settings.model:
            await self._use_model(model)

    async def _read(self, message: str | bytes) -> dict[str, Any]:
        """The JSON object in a message. Raises BadInput."""
        if isinstance(message, bytes):
            raise BadInput("A message is binary; expected events as JSON in text, with audio in base64 in them.")
        if len(message) > self._limits.message_bytes:
            allowed = self._limits.message_bytes
            raise TooLarge(
                f"An event has {len(message)} bytes; one may have {allowed}: send the audio in smaller pieces."
            )
        return await self._maybe_in_thread(len(message), read, message)

    async def _maybe_in_thread(self, size: int, function: Callable[..., T], *values: Any) -> T:
        """Call a function on a worker thread if `size` is so large that it would block the event loop noticeably."""
        return function(*values) if size <= _PARSED_INLINE_CHARACTERS else await self._in_thread(function, *values)

    def _warn(self, code: str, message: str) -> None:
        self._item_log.put(SessionWarning(code=code, message=message))

    async def _is_busy(self) -> bool:
        return await self._in_thread(self._has_work)

    # --- on worker threads, one at a time

    def _piece_bytes(self) -> int:
        # If new settings wait for the end of the current turn, that end must be noticed soon.
        return self._audio.bytes_per_second // (1 if self._settings_apply() else 10)

    def _feed(self, audio: bytes) -> bool:
        samples = self._audio.feed(audio)
        for warning in self._audio.take_warnings():
            self._warn(warning.code, warning.message)
        if len(samples):
            self._open_turns().feed(samples)
        self._apply_settings()
        ahead = self._is_ahead()
        self._check_rate(len(audio), ahead)
        return ahead

    def _check_rate(self, size: int, ahead: bool) -> None:
        """Warn if the audio comes at the pace of another sample rate; once for each format."""
        self._arrived += size
        received = self._arrived * self._settings.format.rate // self._audio.bytes_per_second
        if (warning := self._arrival.warning(received, time.monotonic(), ahead)) is not None:
            self._warn("SampleRate", warning)

    def _open_turns(self) -> TurnStream:
        """The current turns; opens a session for new ones if there are none. Raises as `Service.open_session`."""
        if self._turns is None:
            turns = new_turn_stream(self._settings, self._item_log, self._position)
            options = self._settings.options(self._service, turns.detector)
            turns.runner = self._service.open_session(
                options, turns.on_events, kind="realtime", name=self.session_id, slot=SharedSlot()
            )
            self._turns = turns
        return self._turns

    def _apply(self, event: ClientEvent) -> None:
        """Apply any event but an append. Raises BadField."""
        if isinstance(event, AudioCommit):
            self._commit(event.event_id)
        elif isinstance(event, AudioClear):
            self._clear()
        elif isinstance(event, SessionUpdate):
            self._update(event)
        elif isinstance(event, SessionFinish):
            self._commit_rest()

    def _commit(self, event_id: str | None) -> None:
        """End the turn. A client that says nowhere who ends its turns, and commits, ends them from now on."""
        is_by_voice = self._settings.vad is not None
        is_first = is_by_voice and not self._settings.turns_decided
        if is_first:
            self._settings = self._settings.with_client_turns()
        if self._turns is not None:
            is_by_voice = self._turns.settings.vad is not None
        is_answered = self._item_log.count > 0 if is_first else self._item_log.dialect is DASHSCOPE
        if is_by_voice and is_answered and (self._turns is None or self._turns.quiet):
            # The voice detector was faster: its items are the answer, and one more without text would be taken for it.
            # DashScope's clients commit before they finish, whoever ends their turns.
            self._apply_settings()
            return
        milliseconds = self._uncommitted_samples() * 1000 / SAMPLE_RATE
        if milliseconds < MIN_COMMIT_MS:
            self._item_log.put(too_little_audio(milliseconds, event_id))
            return
        self._flush()
        if (turns := self._turns) is not None:
            turns.commit()
            self._retire(turns)

    def _commit_rest(self) -> None:
        """No more audio comes: what the client has not committed is its last turn."""
        if self._settings.vad is None and self._uncommitted_samples() * 1000 / SAMPLE_RATE >= MIN_COMMIT_MS:
            self._commit(None)

    def _uncommitted_samples(self) -> int:
        return self._audio.held + (self._turns.uncommitted_samples if self._turns else 0)

    def _clear(self) -> None:
        if (turns := self._turns) is not None:
            turns.clear()
            self._retire(turns)
        self._position += self._audio.held
        self._audio = self._new_audio()
        self._item_log.put(Cleared())

    def _update(self, event: SessionUpdate) -> None:
        """Change the settings. A turn under way goes on with its own; only a new audio format applies at once."""
        settings = self._settings.updated(event.session, self._service.config)
        if settings.for_model != self._settings.for_model:
            settings.check(self._service, event.session)
        self._change_settings(settings)
        self._info = replace(self._info, model=self._service.model_name(settings.model))
        self._apply_settings()
        if self._item_log.dialect is not DASHSCOPE:
            self._item_log.dialect = OLD_OPENAI if event.type == OLD_UPDATE else OPENAI
        self._item_log.put(self._item_log.dialect.session(self._info, settings))

    def _turn_to_dashscope(self) -> None:
        self._item_log.dialect = DASHSCOPE
        self._change_settings(self._settings.of_dashscope())

    def _change_settings(self, settings: RealtimeSettings) -> None:
        """A new audio format applies at once: what came in the old one is over."""
        if settings.format == self._settings.format:
            self._settings = settings
            return
        self._flush()
        self._settings = settings
        self._audio = self._new_audio()
        self._arrival, self._arrived = ArrivalRate(settings.format.rate), 0

    def _flush(self) -> None:
        """What the resampler still holds belongs to the turn that ends."""
        if len(samples := self._audio.finish()):
            self._open_turns().feed(samples)
        self._audio = self._new_audio()

    def _new_audio(self) -> PcmStream:
        return PcmStream(self._settings.format.encoding, self._settings.format.rate)

    def _settings_apply(self) -> bool:
        """Whether the current turns were opened with the current settings."""
        return self._turns is None or self._turns.settings.same_turns(self._settings)

    def _apply_settings(self) -> None:
        """Finish the current turns if they have other settings, unless a turn is under way."""
        if (turns := self._turns) is not None and turns.quiet and not self._settings_apply():
            turns.finish()
            self._retire(turns)

    def _retire(self, turns: TurnStream) -> None:
        """These turns get no more audio; others get what comes now."""
        self._position = turns.end
        self._ending.append(turns)
        self._turns = None

    def _finish_turns(self) -> list[Future[None]]:
        """No more audio comes. Returns futures that are resolved once every text is in the outbox."""
        if (turns := self._turns) is not None and turns.settings.vad is not None:
            self._flush()
            turns.finish()
            self._retire(turns)
        return [finished for turns in self._ending if (finished := turns.finish()) and not finished.cancelled()]

    def _is_ahead(self) -> bool:
        for turns in self._ending:
            if turns.done:
                turns.close()
        self._ending = [turns for turns in self._ending if not turns.done]
        backlog = sum(turns.backlog for turns in self._all_turns())
        full = self._outbox.full or len(self._ending) > self._limits.waiting_turns
        return full or backlog > self._limits.ahead_seconds

    def _has_work(self) -> bool:
        """Whether the client may be waiting for a text."""
        speaking = self._turns is not None and self._turns.backlog > 0
        return speaking or bool(len(self._outbox)) or any(not turns.done for turns in self._ending)

    def _all_turns(self) -> list[TurnStream]:
        return [*self._ending, self._turns] if self._turns else list(self._ending)
