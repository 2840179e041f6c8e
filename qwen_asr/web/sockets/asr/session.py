"""One session of `/ws/asr`, independent of its connection: it outlives a lost one and may be attached to another.

It takes audio bytes, keeps the messages it has made, and repeats to a new connection those that the old one may have
lost. `registry` decides which connection may resume it, and how long it waits for one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from qwen_asr import logs
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.audio.stream_checks.arrival import ArrivalRate
from qwen_asr.errors import QwenASRError
from qwen_asr.live.events import Aligned, Event, Final
from qwen_asr.web.sockets.asr.messages import (
    ClientTimeline,
    FinalMessage,
    PartialMessage,
    UtteranceErrorMessage,
    WarningMessage,
    WordsMessage,
    empty_final,
    event_message,
    no_words,
    words_message,
)
from qwen_asr.web.sockets.outbox import Outbox

if TYPE_CHECKING:
    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import Slot
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.asr.messages import AsrConfig, SessionCreated, SessionResumed
    from qwen_asr.web.sockets.messages import ServerMessage


class Holder(Protocol):
    """The connection that a session is attached to."""

    async def hand_over(self) -> None:
        """Give the session up to another connection. Returns once this one no longer touches it."""


class AsrSession:
    """What a client opened with its config. `id` is 128 random bits; a client that knows it can resume the session.

    `attach`, `detach` and `holder` belong to the event loop; `feed`, `is_ahead` and `finish` to one worker thread at
    a time; events come from any thread. Positions are samples at the client's rate since the beginning of its stream,
    of which the first `base` went to an earlier session on a server that is gone.
    """

    def __init__(
        self, config: AsrConfig, owner: bytes, limits: SocketLimits, service: Service, slot: Slot | None = None
    ) -> None:
        """Opens the session in a `slot`. Takes milliseconds: call it on a worker thread. Raises as
        `Service.open_session`."""
        self.id = secrets.token_urlsafe(16)
        self.config = config
        self.owner = owner
        self.base = config.offset
        self.handover = anyio.Lock()  # one connection after the other takes the session over
        self.holder: Holder | None = None
        self.error: QwenASRError | None = None  # what has ended it
        self.finalized = False
        self.end_reason = ""  # a few words on its end, for the log
        self._opened_at = time.monotonic()
        self._limits = limits
        self._audio = PcmStream(config.encoding, config.sample_rate)
        self._arrival = ArrivalRate(config.sample_rate)
        self._timeline = ClientTimeline(config.sample_rate, self.base)
        self._lock = threading.Lock()  # the messages, and where they go
        self._outbox: Outbox | None = None
        self._finals: deque[FinalMessage | UtteranceErrorMessage] = deque()
        self._dropped_until = self.base  # where the newest final that is no longer kept ended
        self._answered = False  # whether any utterance has ended
        self._partial: PartialMessage | None = None
        self._empty_final: FinalMessage | None = None
        self._aligned_later: set[int] = set()  # utterances among the finals whose words came after the final
        self._told: set[str] = set()  # why there are no words, as the client knows
        options = service.session_options(
            language=config.language or None,
            context=config.context,
            prompt=config.prompt,
            chunk_seconds=config.chunk_size_sec,
            words=config.words,
            model=config.model,
        )
        self._why_no_words = partial(service.why_no_words, model=config.model)
        self._runner = service.open_session(options, self._on_events, kind="asr", name=self.id, slot=slot)

    @property
    def name(self) -> str:
        """What the log calls it: too little of the id to resume it."""
        return logs.short_id(self.id)

    @property
    def seconds(self) -> float:
        """How long ago it was opened."""
        return time.monotonic() - self._opened_at

    @property
    def bytes_per_second(self) -> int:
        """How many bytes one second of audio has."""
        return self._audio.bytes_per_second

    @property
    def gathering(self) -> float:
        """See `Session.gathering`."""
        return self._runner.gathering

    def unavailable_reason(self) -> str | None:
        """See `Engine`."""
        return self._runner.unavailable_reason()

    @property
    def received(self) -> int:
        """Position up to which all whole samples were received."""
        return self.base + self._audio.received

    @property
    def has_audio(self) -> bool:
        """Whether it received anything that the client would have to send again if the session were lost."""
        return self._audio.received > 0 or self.finalized

    def has_finals_after(self, offset: int) -> bool:
        """Whether it still has every final that ends after `offset`."""
        with self._lock:
            return self._dropped_until <= offset <= self.received

    # --- the connection

    def attach(self, greeting: SessionCreated | SessionResumed, offset: int | None = None) -> Outbox:
        """Returns an outbox for a connection: the greeting, then every message from now on.

        With an `offset`, the greeting is followed by the finals that end after it, marked as repeated, by the words
        that came after those that end before it, which the client may lack, and by the newest partial.
        """
        outbox = Outbox(self._limits.waiting_messages)
        outbox.put(greeting)
        with self._lock:
            if offset is not None:
                for message in self._repeated(offset):
                    outbox.put(message)
                if self._partial is not None:
                    outbox.put(self._partial)
            self._outbox = outbox
            if offset is None:
                self._explain_missing_words(self.config.language or None)
        return outbox

    def _repeated(self, offset: int) -> Iterator[ServerMessage]:
        for final in self._finals:
            if final.end_sample > offset or final is self._empty_final:
                yield final.model_copy(update={"repeated": True})
            elif isinstance(final, FinalMessage) and final.utterance in self._aligned_later:
                yield WordsMessage(utterance=final.utterance, words=final.words or (), repeated=True)

    def detach(self) -> None:
        """The connection is gone. Bytes of an incomplete sample are dropped: the client sends that sample again."""
        self._audio.drop_part()
        with self._lock:
            self._outbox = None
        self.holder = None

    # --- audio

    def feed(self, audio: bytes) -> bool:
        """Take bytes; returns `is_ahead()`. Raises AudioError, and has then taken none of them."""
        samples = self._audio.feed(audio)
        for warning in self._audio.take_warnings():
            self.warn(warning.code, warning.message)
        self._runner.feed(samples)
        ahead = self.is_ahead()
        if (sentence := self._arrival.warning(self._audio.received, time.monotonic(), ahead)) is not None:
            self.warn("SampleRate", sentence)
        return ahead

    def is_ahead(self) -> bool:
        """Whether more audio should wait: for the recognizer, or for a client that does not read."""
        outbox = self._outbox
        return (outbox is not None and outbox.full) or self._runner.backlog > self._limits.ahead_seconds

    def finish(self) -> Future[None]:
        """No more audio comes. The future is resolved after the last event; the same one at each call."""
        if not self.finalized:
            self._runner.feed(self._audio.finish())
            self.finalized = True
        return self._runner.finish()

    def close(self) -> None:
        """Free the recognizer's part. The messages made so far are kept."""
        self._runner.end_reason = self.end_reason
        self._runner.close()

    # --- messages

    def conclude(self) -> None:
        """Call after the last event. If there was no final, add an empty one: the client waits for it."""
        with self._lock:
            if not self._answered:
                self._empty_final = empty_final(
                    self._runner.received, self.received, time.time(), self._timeline, with_words=self.config.words
                )
                self._add(self._empty_final)

    def warn(self, code: str, message: str) -> None:
        """Tell the client, if there is one now, what is wrong."""
        with self._lock:
            if self._outbox is not None:
                self._outbox.put(WarningMessage(code=code, message=message))

    def _on_events(self, events: list[Event]) -> None:
        """Runs on the thread that produced the events, often the scheduler's for results: hand them over and return."""
        with self._lock:
            for event in events:
                if isinstance(event, Aligned):
                    self._align(words_message(event, self._timeline))
                    continue
                message = event_message(event, self.received, time.time(), self._timeline, with_words=self.config.words)
                self._add(message)
                if isinstance(event, Final) and event.language and not event.words:
                    self._explain_missing_words(event.language)

    def _add(self, message: PartialMessage | FinalMessage | UtteranceErrorMessage) -> None:
        if isinstance(message, PartialMessage):
            self._partial = message
        else:
            self._partial = None
            self._answered = True
            self._finals.append(message)
            if len(self._finals) > self._limits.kept_finals:
                dropped = self._finals.popleft()
                self._dropped_until = dropped.end_sample
                self._aligned_later.discard(dropped.utterance)
        if self._outbox is not None:
            self._outbox.put(message)

    def _align(self, message: WordsMessage) -> None:
        """Gives a final its words, for a client that has it repeated, and tells the one that has it already."""
        for index in reversed(range(len(self._finals))):
            final = self._finals[index]
            if isinstance(final, FinalMessage) and final.utterance == message.utterance:
                self._finals[index] = final.model_copy(update={"words": message.words})
                self._aligned_later.add(message.utterance)
                break
        if self._outbox is not None:
            self._outbox.put(message)

    def _explain_missing_words(self, language: str | None) -> None:
        """Warns a client that wants words if text in this language has none; once for each reason."""
        reason = self._why_no_words(language) if self.config.words else None
        if reason is not None and reason not in self._told and self._outbox is not None:
            self._told.add(reason)
            self._outbox.put(no_words(reason))
