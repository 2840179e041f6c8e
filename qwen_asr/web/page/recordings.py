"""The recordings of open pages on the server: bytes go in at offsets, the text for the page comes out.

The page numbers its bytes. Whatever the network does (a reply is lost, a block arrives twice or late), the byte at an
offset counts once, and the answer is always "everything up to here has arrived". Nothing is lost, nothing is used
twice, and both sides can prove it with one SHA-256.

``Recording`` is one recording, ``RecordingRegistry`` holds all that are open. The recognizer comes in as a function
that opens an ``AudioSink``, so this module knows no model.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono
from qwen_asr.config.limits import PageLimits
from qwen_asr.errors import ServerStopping
from qwen_asr.live.events import Aligned, Event, Partial
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.admission import Admission
from qwen_asr.service.notifier import Notifier
from qwen_asr.service.rate_limit import Rates
from qwen_asr.web.page.speed import Speed
from qwen_asr.web.page.transcript_view import TranscriptLine
from qwen_asr.web.sockets.queueing import QueueEntry

log = logging.getLogger(__name__)

BYTES_PER_SAMPLE = 2
"""The page sends int16, little endian, one channel."""
TIME_LIMIT_MESSAGE = "The recording has lasted as long as this server allows and was stopped. Press Record to continue."
SKIPPED_MARGIN_SECONDS = 1.0
"""The page keeps this much of the newest audio even if it was silence. It is longer than any pre-roll."""


class AudioSink(Protocol):
    """Takes the audio of a recording, 16 kHz float32 mono, and calls the function that it was opened with."""

    @property
    def lag(self) -> float:
        """Seconds of audio taken that no text covers yet."""

    @property
    def idle(self) -> bool:
        """Whether all events about the audio so far have been delivered. They may be under way while `lag` is 0."""

    def unavailable_reason(self) -> str | None:
        """Why no text can come now, though it may later, as a sentence; None if it can."""

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Takes more audio. Must not block on the model."""

    def change(self, options: SessionOptions) -> int:
        """Uses the options from the next utterance on, and returns its number. Raises BadInput."""

    def finish(self) -> Future[None]:
        """No more audio comes. The future is done once the last event was delivered."""

    def close(self) -> None:
        """Drops everything; no event is delivered any more."""


OpenSink = Callable[..., AudioSink]
"""Called with the options and the function that takes events; with `slot=` too if the recording waited for one, else
with the client's `address=` if that is known."""


class Recording:
    """One recording. Safe to call from any thread.

    `received` is the number of bytes taken, and `sha256` covers exactly those. `start` is called once.
    """

    def __init__(
        self,
        rate: int,
        options: SessionOptions,
        start: OpenSink,
        clock: Callable[[], float] = time.monotonic,
        session_seconds: float = math.inf,
        backlog_seconds: float = PageLimits.backlog_seconds,
    ) -> None:
        """`backlog_seconds`: how long after its time limit it may still receive what the page has kept."""
        self.rate = rate
        self.options = options
        self.received = 0
        self.last_request_at = clock()
        self.error: str | None = None
        self.refused: str | None = None  # why the options that the page asks for now are not used
        self.notifier = Notifier()
        self._clock = clock
        self._time_limit_at = clock() + session_seconds
        self._ends_at = self._time_limit_at + backlog_seconds
        self._digest = hashlib.sha256()
        self._resampler: StreamingResampler | None = StreamingResampler(rate)
        self._taking = threading.Lock()  # one block at a time: a late duplicate may arrive together with its repetition
        self._lines: dict[int, TranscriptLine] = {}  # by utterance; the last one that changed comes last
        self._open_at: dict[int, int] = {}  # where utterances without a final begin, in samples at 16 kHz
        self._ended_at = 0  # the end of the last final, in samples at 16 kHz
        self._lines_lock = threading.Lock()
        self._revision = 0
        self._speed = Speed()
        self._options_from: int | None = None
        self._safe_at = 0  # samples at 16 kHz
        self._fed = 0  # bytes that the sink has taken; smaller than `received` while it takes a block
        self._finished: Future[None] | None = None
        self._finished_for_shutdown = False  # the server ended it before the page did
        self.delivered = False  # whether the page has fetched all text that this server has for it
        self._sink = start(options, self.on_events)

    @property
    def sha256(self) -> str:
        """The hash of all bytes received so far, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def finished(self) -> bool:
        """Whether the recording has ended: all of its audio is here, or the server has ended it."""
        return self._finished is not None

    @property
    def time_limit_reached(self) -> bool:
        """Whether it has lasted as long as allowed. The page then stops its microphone and sends what it still has."""
        return self._clock() > self._time_limit_at

    @property
    def done(self) -> bool:
        """Whether all audio has arrived and all text has been made, or an error has ended the recording."""
        return self.error is not None or (not self._finished_for_shutdown and self._all_delivered())

    def receive(self, offset: int, audio: bytes) -> int:
        """Takes those bytes of [offset, offset + len) that are new; returns the offset up to which all are here.

        Bytes received before are ignored. A block that begins after a gap is ignored whole: the returned offset is then
        smaller than `offset`, and the page sends again from there.
        """
        if self._clock() > self._ends_at:  # a page that does not stop by itself
            self.finish(self.received)
        with self._taking:
            self.last_request_at = self._clock()
            known = self.received - offset
            if known < 0 or self.finished or self.error:
                return self.received
            fresh = audio[known:]
            fresh = fresh[: len(fresh) - len(fresh) % BYTES_PER_SAMPLE]
            if fresh:
                self.received += len(fresh)
                self._digest.update(fresh)
                self._feed(to_mono(np.frombuffer(fresh, dtype="<i2")))
                self._fed = self.received
            return self.received

    def change(self, options: SessionOptions) -> None:
        """Uses the language, context and pause length of `options` from the next utterance on. Raises BadInput.

        Nothing changes in a recording that has ended.
        """
        with self._taking:
            if not self.finished and not self.error:
                self._options_from = self._sink.change(options)
                self.options = options

    def append(self, audio: bytes) -> int:
        """Takes bytes without an offset, from the fallback recorder: they follow those that are here."""
        return self.receive(self.received, audio)

    def finish(self, total: int) -> None:
        """Ends the recording at `total` bytes, once all of them are here. May be called repeatedly."""
        with self._taking:
            self.last_request_at = self._clock()
            if self.received >= total:
                self._finished_for_shutdown = False  # the server has ended it where the page did
                self._finish()

    def finish_for_shutdown(self) -> None:
        """Ends the recording at the audio that is here. What the page sends after that is ignored."""
        with self._taking:
            if not self.finished and not self.error:
                self._finished_for_shutdown = True
                self._finish()

    def shutdown_notice(self, revision: int) -> str | None:
        """The message for a page that has all text of a recording which the shutdown has ended, else None."""
        if not (self._finished_for_shutdown and self._all_delivered()) or self._revision > revision:
            return None
        self.delivered = True
        return "The server is restarting. Keep this page open: nothing is lost."

    def _finish(self) -> None:
        if self.finished or self.error or self._resampler is None:
            return
        try:
            self._sink.feed(self._resampler.finish())
            self._resampler = None  # its filter may be large, and the recording stays until its page has the text
            self._finished = self._sink.finish()
        except Exception:
            self._fail()
            return
        self._finished.add_done_callback(lambda _: self.notifier.notify())

    def _all_delivered(self) -> bool:
        return self._finished is not None and self._finished.done()

    def close(self) -> None:
        """Frees what the recording holds. No event is delivered after it."""
        self._sink.close()
        self.notifier.notify()

    def view(self, revision: int) -> dict[str, Any]:
        """What has changed after `revision`, for the page. Its size does not grow with the recording.

        `remaining`: seconds until the recording's time limit. `speed`: see `Speed`. `options_from`: the first utterance
        with the options that came last, if they came during the recording. `refused`: why others were refused.
        `unavailable`: why no text can come now.
        """
        # Read before the lines: if it is done, the lines read after it are the last ones.
        done = self.done
        # Likewise read before `idle`: if the sink is idle, all events about these bytes have been delivered.
        fed = self._fed
        idle = self._sink.idle
        with self._lines_lock:
            newer = takewhile(lambda line: line.revision > revision, reversed(self._lines.values()))
            changed = sorted(newer, key=lambda line: line.event.utterance)
            safe = self._safe(fed, idle)
            newest = self._revision
            speed = self._speed.value(self._clock())
        left = self._time_limit_at - self._clock()
        view: dict[str, Any] = {
            "received": self.received,
            "safe": safe,
            "seconds": round(self.received / BYTES_PER_SAMPLE / self.rate, 2),
            "revision": newest,
            "utterances": [line.to_json() for line in changed],
            "lag": round(self._sink.lag, 2),
            "done": done,
            "error": self.error,
            "over": TIME_LIMIT_MESSAGE if self.time_limit_reached else None,
            "remaining": round(max(0.0, left), 1) if math.isfinite(left) else None,
            "speed": None if speed is None else round(speed, 2),
            "unavailable": self._sink.unavailable_reason(),
            "options_from": self._options_from,
            "refused": self.refused,
        }
        self.delivered = done
        return view | {"sha256": self.sha256} if done else view

    def has_changed(self, revision: int) -> bool:
        """Whether `view(revision)` has anything new."""
        return self._revision > revision or self.done or (self._finished_for_shutdown and self._all_delivered())

    def _feed(self, samples: NDArray[np.float32]) -> None:
        if self._resampler is None:  # it has ended
            return
        try:
            self._sink.feed(self._resampler.feed(samples))
        except Exception:
            self._fail()

    def _fail(self) -> None:
        # Ends the recording: otherwise the page would send the same bytes into the same failure for ever.
        log.exception("A recording was ended by an error.")
        self.error = "The server failed on this recording and ended it. The text stays; press Record to continue."
        self.notifier.notify()

    def on_events(self, events: list[Event]) -> None:
        """Takes the events of the session, as the sink delivers them."""
        with self._lines_lock:
            for event in events:
                self._revision += 1
                line = self._lines.pop(event.utterance, None)
                if isinstance(event, Aligned):
                    if line is not None:
                        self._lines[event.utterance] = line.with_words(event, self._revision)
                    continue
                self._speed.take(event, self._clock())
                self._lines[event.utterance] = TranscriptLine(self._revision, event)
                if isinstance(event, Partial):
                    self._open_at[event.utterance] = event.start
                else:
                    self._open_at.pop(event.utterance, None)
                    self._ended_at = max(self._ended_at, event.end)
        self.notifier.notify()

    def _safe(self, fed: int, idle: bool) -> int:
        """How many bytes from the start the page may drop: their text is final, or they have none.

        Everything after them can be given to another session, so that not even a restart of the server loses a word.
        `idle`: whether all events about the first `fed` bytes have been delivered.
        """
        if self._open_at:
            self._safe_at = max(self._safe_at, min(self._open_at.values()))
        elif not idle:  # speech may wait for its first text, and where it began is not known here
            self._safe_at = max(self._safe_at, self._ended_at)
        else:
            heard = fed // BYTES_PER_SAMPLE * SAMPLE_RATE // self.rate
            self._safe_at = max(self._safe_at, self._ended_at, heard - round(SKIPPED_MARGIN_SECONDS * SAMPLE_RATE))
        return min(self._safe_at * self.rate // SAMPLE_RATE * BYTES_PER_SAMPLE, self.received)


class RecordingRegistry:
    """All open recordings, by tab and id, so that no tab can read another's text.

    A tab is Gradio's session hash. The id of a recording is 128 random bits that the page has chosen, in hexadecimal.
    Recordings close by themselves when their tab is closed or is silent for too long.
    """

    def __init__(
        self,
        start: OpenSink,
        *,
        limits: PageLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        admission: Admission | None = None,
        rates: Rates | None = None,
        session_seconds: float = math.inf,
    ) -> None:
        self._start = start
        self._admission = admission
        self._rates = rates
        self._session_seconds = session_seconds
        self._queue: dict[tuple[str, str], QueueEntry] = {}  # for recordings that are not open yet
        self._limits = limits or PageLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._recordings: dict[tuple[str, str], Recording] = {}
        self._opening: dict[tuple[str, str], Future[Recording]] = {}  # a thread is making each
        self._closed_tabs: dict[str, float] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._close_idle_repeatedly, name="qwen-asr-idle-recordings", daemon=True).start()

    def __len__(self) -> int:
        return len(self._recordings)

    def ids(self) -> list[tuple[str, str]]:
        """The open recordings, as (tab, recording_id)."""
        with self._lock:
            return list(self._recordings)

    def all(self) -> list[Recording]:
        """The open recordings."""
        with self._lock:
            return list(self._recordings.values())

    def get(self, tab: str, recording_id: str) -> Recording | None:
        """The open recording of that tab, or None."""
        with self._lock:
            self._closed_tabs.pop(tab, None)  # the tab sends requests, so it is open after all
            return self._recordings.get((tab, recording_id))

    def open(self, tab: str, recording_id: str, rate: int, options: SessionOptions, address: str = "") -> Recording:
        """Opens a recording, or returns the one that is open. `rate` is in Hz. Closes the finished ones of that tab.

        A slot that the recording has waited for goes to its sink. Without one the sink takes a slot from the share of
        `address`. Raises AudioError for a rate that cannot be used, ServerStopping, and what opening the sink raises,
        e.g. NotReady. It takes milliseconds, on the caller's thread.
        """
        key = tab, recording_id
        with self._lock:
            if (recording := self._recordings.get(key)) is not None:
                return recording
            if (others := self._opening.get(key)) is None:
                opening = self._opening[key] = Future[Recording]()
                entry = self._queue.pop(key, None)
        if others is not None:
            return others.result()  # another thread is opening it
        # Without the lock, which the event loop takes too: the resampler's filter and the prompt take their time.
        start = self._start
        if entry is not None:
            start = partial(start, slot=entry.ticket)
        elif address:
            start = partial(start, address=address)
        try:
            recording = Recording(
                rate, options, start, self._clock, self._session_seconds, self._limits.backlog_seconds
            )
            self._opened(key, recording)
        except BaseException as error:
            with self._lock:
                self._opening.pop(key, None)
            if entry is not None:
                entry.ticket.leave()
            opening.set_exception(error)
            raise
        opening.set_result(recording)
        return recording

    def _opened(self, key: tuple[str, str], recording: Recording) -> None:
        """Adds a recording that was being opened. Raises ServerStopping if everything was closed meanwhile."""
        with self._lock:
            closing = self._closing.is_set()
            del self._opening[key]
            if not closing:
                self._recordings[key] = recording
            old = [other for other, open_one in self._recordings.items() if other[0] == key[0] and open_one.done]
            finished = [self._recordings.pop(other) for other in old]
        for one in [recording] if closing else finished:
            one.close()
        if closing:
            raise ServerStopping

    def check_rate(self, address: str) -> None:
        """Counts a new recording of that address. Raises LimitExceeded."""
        if self._rates is not None:
            self._rates.hit(address)

    def queue_entry(self, tab: str, recording_id: str, address: str) -> QueueEntry | None:
        """The place in the queue of a recording that is to be opened: at position 0 it can be. None without a queue.

        The same one each time; it is given up where a recording would be closed. Raises LimitExceeded.
        """
        if self._admission is None:
            return None
        with self._lock:
            self._closed_tabs.pop(tab, None)
            entry = self._queue.get((tab, recording_id))
            if entry is None:
                self.check_rate(address)
                entry = self._queue[tab, recording_id] = QueueEntry(self._admission, address)
            entry.last_request_at = self._clock()
            return entry

    def remove(self, tab: str, recording_id: str) -> None:
        """Closes one recording, if it is open."""
        with self._lock:
            recording = self._recordings.pop((tab, recording_id), None)
        if recording is not None:
            recording.close()

    def tab_closed(self, tab: str) -> None:
        """Reports that the tab goes away. Its recordings are closed soon, unless it sends a request."""
        with self._lock:
            if any(key[0] == tab for key in (*self._recordings, *self._opening, *self._queue)):
                self._closed_tabs[tab] = self._clock()

    def remove_idle(self) -> int:
        """Closes the recordings of closed tabs and those that are idle for too long; returns how many."""
        now = self._clock()
        with self._lock:
            closed_tabs = {
                tab for tab, since in self._closed_tabs.items() if now - since > self._limits.reconnect_seconds
            }
            for tab in closed_tabs:
                del self._closed_tabs[tab]

            def expired(items: Mapping[tuple[str, str], Recording | QueueEntry]) -> list[tuple[str, str]]:
                return [
                    (tab, recording_id)
                    for (tab, recording_id), item in items.items()
                    if tab in closed_tabs or now - item.last_request_at > self._limits.idle_seconds
                ]

            recordings = [self._recordings.pop(key) for key in expired(self._recordings)]
            entries = [self._queue.pop(key) for key in expired(self._queue)]
        for recording in recordings:
            recording.close()
        for entry in entries:
            entry.ticket.leave()
        return len(recordings) + len(entries)

    @property
    def unfinished(self) -> int:
        """How many recordings have a page that has not fetched everything (see `shutdown.Part`)."""
        return sum(not recording.delivered for recording in self.all())

    async def stop(self) -> None:
        """Ends each recording with the audio received so far (see `shutdown.Part`)."""
        for recording in self.all():
            await anyio.to_thread.run_sync(recording.finish_for_shutdown)

    def give_up(self) -> None:
        """Does nothing (see `shutdown.Part`): a page keeps audio without a final text, and finds out by itself."""

    def close(self) -> None:
        """Closes everything, when the server stops."""
        self._closing.set()
        with self._lock:
            recordings, self._recordings = list(self._recordings.values()), {}
            entries, self._queue = list(self._queue.values()), {}
        for recording in recordings:
            recording.close()
        for entry in entries:
            entry.ticket.leave()

    def _close_idle_repeatedly(self) -> None:
        while not self._closing.wait(min(1.0, self._limits.reconnect_seconds / 4)):
            try:
                self.remove_idle()
            except Exception:
                log.exception("Idle recordings could not be closed.")
