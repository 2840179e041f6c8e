"""One session of `/ws/asr`, apart from the connection that it is heard over: it outlives that, and may get another.

It takes bytes, keeps what it has told, and says again to a new connection what the old one may have lost. Who may
attach to it, and for how long it waits without a connection, is `asr_sessions`' business.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anyio

from qwen_asr import logs
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.errors import QwenASRError
from qwen_asr.live.events import Event
from qwen_asr.web.sockets.asr import messages as asr_messages
from qwen_asr.web.sockets.outbox import Outbox

if TYPE_CHECKING:
    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.service.admission import Slot
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.asr.connection import AsrConnection
    from qwen_asr.web.sockets.asr.messages import Settings


class AsrSession:
    """What a client opened with its config. `id` is 128 random bits, and whoever knows it may resume the session.

    `attach`, `detach` and `holder` belong to the event loop; `feed`, `is_ahead` and `finish` to one worker thread at
    a time; events come from any thread. Positions are samples at the client's rate since the beginning of its stream,
    of which the first `base` went to an earlier session on a server that is gone.
    """

    def __init__(
        self, settings: Settings, owner: bytes, limits: SocketLimits, service: Service, slot: Slot | None = None
    ) -> None:
        """Opens it in a `slot`, which takes milliseconds: on a worker thread. Raises as `Service.open_session` does."""
        self.id = secrets.token_urlsafe(16)
        self.settings = settings
        self.owner = owner
        self.base = settings.offset
        self.handover = anyio.Lock()  # one connection after the other takes the session over
        self.holder: AsrConnection | None = None
        self.problem: QwenASRError | None = None  # what has ended it
        self.finalized = False
        self.why = ""  # a few words on its end, for the log
        self._opened_at = time.monotonic()
        self._limits = limits
        self._audio = PcmStream(settings.encoding, settings.rate)
        self._telling = threading.Lock()
        self._outbox: Outbox | None = None
        self._finals: deque[dict[str, Any]] = deque()
        self._forgotten_end = self.base  # of the newest final that is not kept any more
        self._answered = False  # whether any utterance has ended
        self._partial: dict[str, Any] | None = None
        self._nothing_said: dict[str, Any] | None = None
        options = service.session_options(
            language=settings.language,
            context=settings.context,
            prompt=settings.prompt,
            chunk_seconds=settings.chunk_seconds,
        )
        self._runner = service.open_session(options, self._tell, kind="asr", name=self.id, slot=slot)

    @property
    def name(self) -> str:
        """What the log calls it: not enough to resume it."""
        return logs.short_id(self.id)

    @property
    def seconds(self) -> float:
        """How long ago it was opened."""
        return time.monotonic() - self._opened_at

    @property
    def bytes_a_second(self) -> int:
        """How many bytes one second of audio has."""
        return self._audio.bytes_a_second

    @property
    def received(self) -> int:
        """Position up to which all whole samples were taken."""
        return self.base + self._audio.received

    @property
    def has_audio(self) -> bool:
        """Whether it took anything that would have to be sent again if the session were forgotten."""
        return self._audio.received > 0 or self.finalized

    def has_finals_after(self, offset: int) -> bool:
        """Whether a client whose last final ended at `offset` can be told all that it has missed."""
        with self._telling:
            return self._forgotten_end <= offset <= self.received

    # --- the connection

    def attach(self, greeting: dict[str, Any], offset: int | None = None) -> Outbox:
        """Where the messages for a connection are from now on: the greeting, then what is told.

        With an `offset`, first of all the finals that end after it, marked as repeated, and the newest partial.
        """
        outbox = Outbox(self._limits.waiting_messages)
        outbox.put(greeting)
        with self._telling:
            if offset is not None:
                for final in self._finals:
                    if final["end_sample"] > offset or final is self._nothing_said:
                        outbox.put(final | {"repeated": True})
                if self._partial is not None:
                    outbox.put(self._partial)
            self._outbox = outbox
        return outbox

    def detach(self) -> None:
        """No connection any more. What was cut within a sample is dropped: the client sends that sample again."""
        self._audio.drop_part()
        with self._telling:
            self._outbox = None
        self.holder = None

    # --- audio

    def feed(self, audio: bytes) -> bool:
        """Take bytes; whether it is then ahead. Raises AudioError, and has then taken none of them."""
        self._runner.feed(self._audio.feed(audio))
        return self.is_ahead()

    def is_ahead(self) -> bool:
        """Whether more audio should wait: for the recognizer, or for a client that does not read."""
        outbox = self._outbox
        # Without a step under way nothing would make the lag smaller but more audio: never wait for that.
        return (outbox is not None and outbox.full) or (
            self._runner.busy and self._runner.lag > self._limits.ahead_seconds
        )

    def finish(self) -> Future[None]:
        """No more audio comes. The future is resolved once the last event was told; the same one at each call."""
        if not self.finalized:
            self._runner.feed(self._audio.finish())
            self.finalized = True
        return self._runner.finish()

    def close(self) -> None:
        """Free what recognizes; what was told is still here."""
        self._runner.why = self.why
        self._runner.close()

    # --- texts

    def conclude(self) -> None:
        """Every event was told: where there was none, a client still waits for a final."""
        with self._telling:
            if not self._answered:
                samples = self._runner.received
                self._nothing_said = asr_messages.nothing_said(samples, self.received, time.time(), self._stream)
                self._say(self._nothing_said)

    @property
    def _stream(self) -> asr_messages.Stream:
        return asr_messages.Stream(self.settings.rate, self.base)

    def _tell(self, events: list[Event]) -> None:
        """On whichever thread has just learnt something, the recognizer's among them: hand over and return."""
        with self._telling:
            for event in events:
                self._say(asr_messages.of_event(event, self.received, time.time(), self._stream))

    def _say(self, message: dict[str, Any]) -> None:
        if message["type"] == "partial":
            self._partial = message
        else:
            self._partial = None
            self._answered = True
            self._finals.append(message)
            if len(self._finals) > self._limits.kept_finals:
                self._forgotten_end = self._finals.popleft()["end_sample"]
        if self._outbox is not None:
            self._outbox.put(message)
