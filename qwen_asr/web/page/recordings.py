"""One recording of one page, as the server sees it: bytes go in at offsets, the text for the page comes out.

The page numbers its bytes. Whatever the network does - a reply lost, a block sent twice, a block sent late - a byte
at an offset counts once, and the answer is always "I have everything up to here". So nothing is lost, nothing is used
twice, and both sides can prove it with one SHA-256.

``Recording`` is one recording, ``RecordingRegistry`` all that are open. Who recognizes is handed in as a function that
starts an ``AudioSink``, so this module knows no model.
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

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import StreamingResampler, to_mono
from qwen_asr.config.limits import IDLE_SECONDS, LEAVING_SECONDS, MAX_BACKLOG_SECONDS
from qwen_asr.live.events import Event, Partial
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.admission import Admission
from qwen_asr.service.notifier import Notifier
from qwen_asr.service.rate_limit import Rates
from qwen_asr.web.page.transcript_view import TranscriptLine
from qwen_asr.web.sockets.queueing import QueueEntry

log = logging.getLogger(__name__)

BYTES_PER_SAMPLE = 2
"""The page sends int16, little endian, one channel."""
TIME_LIMIT_MESSAGE = "The recording has lasted as long as this server allows and was stopped. Press Record to go on."
SKIPPED_MARGIN_SECONDS = 1.0
"""How much audio before the present the page keeps although it was silence: longer than any pre-roll."""


class AudioSink(Protocol):
    """Takes the audio of a recording, 16 kHz float32 mono, and calls the function that it was opened with."""

    @property
    def lag(self) -> float:
        """Seconds of audio taken that no text covers yet."""

    @property
    def idle(self) -> bool:
        """Whether all events about the audio so far have been delivered. They may be under way while `lag` is 0."""

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Takes more audio. Must not block on the model."""

    def finish(self) -> Future[None]:
        """No more audio comes. The future is done once the last event was delivered."""

    def close(self) -> None:
        """Drops everything; no event is delivered any more."""


OpenSink = Callable[..., AudioSink]
"""Called with the options and the function that takes events; with `slot=` too if the recording waited for one."""


class Recording:
    """One recording. Safe to call from any thread.

    `received` counts the bytes taken, `sha256` is over exactly those.
    """

    def __init__(
        self,
        rate: int,
        options: SessionOptions,
        start: OpenSink,
        clock: Callable[[], float] = time.monotonic,
        session_seconds: float = math.inf,
    ) -> None:
        self.rate = rate
        self.options = options
        self.received = 0
        self.heard_at = clock()
        self.error: str | None = None
        self.notifier = Notifier()
        self._clock = clock
        self._time_limit_at = clock() + session_seconds
        self._digest = hashlib.sha256()
        self._resampler = StreamingResampler(rate)
        self._taking = threading.Lock()  # one block at a time: a late duplicate may arrive beside its repetition
        self._lines: dict[int, TranscriptLine] = {}  # by utterance; the last one that changed comes last
        self._open_at: dict[int, int] = {}  # where utterances without a final begin, in samples at 16 kHz
        self._ended_at = 0  # up to where there are finals
        self._lines_lock = threading.Lock()
        self._revision = 0
        self._safe_at = 0  # samples at 16 kHz
        self._fed = 0  # bytes that the listener has taken; behind `received` while it is taking a block
        self._finished: Future[None] | None = None
        self._finished_for_shutdown = False  # by the server, whatever the page was still to send
        self.delivered = False  # whether the page was given everything that there will be
        self._sink = start(options, self.on_events)

    @property
    def sha256(self) -> str:
        """Of all bytes received so far, as hex."""
        return self._digest.hexdigest()

    @property
    def finished(self) -> bool:
        """Whether the page has said that no more comes."""
        return self._finished is not None

    @property
    def time_limit_reached(self) -> bool:
        """Whether it has lasted as long as a recording may: the page is told to stop, and to send what it still has."""
        return self._clock() > self._time_limit_at

    @property
    def done(self) -> bool:
        """Whether all audio is in and all text is out."""
        return self.error is not None or (not self._finished_for_shutdown and self._all_delivered())

    def receive(self, offset: int, audio: bytes) -> int:
        """Takes the bytes at [offset, offset + len) that are new; returns the offset up to which all is here.

        Bytes received before are ignored. A block that starts beyond what is here is refused whole: the returned
        offset is then smaller than `offset`, and the page sends again from there.
        """
        if self._clock() > self._time_limit_at + MAX_BACKLOG_SECONDS:  # it does not stop, so it is stopped
            self.finish(self.received)
        with self._taking:
            self.heard_at = self._clock()
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

    def append(self, audio: bytes) -> int:
        """Takes bytes that carry no offset (the stock recorder's): they are what comes next."""
        return self.receive(self.received, audio)

    def finish(self, total: int) -> None:
        """The recording ends at `total` bytes. Nothing happens before all of them are here; may be said often."""
        with self._taking:
            self.heard_at = self._clock()
            if self.received >= total:
                self._finished_for_shutdown = False  # what the server ended was the whole of it
                self._finish()

    def finish_for_shutdown(self) -> None:
        """The server stops: the recording ends at what is here, and what the page sends from here on is not taken."""
        with self._taking:
            if not self.finished and not self.error:
                self._finished_for_shutdown = True
                self._finish()

    def shutdown_notice(self, revision: int) -> str | None:
        """What to tell a page that has everything up to `revision`, and will get no more from this server."""
        if not (self._finished_for_shutdown and self._all_delivered()) or self._revision > revision:
            return None
        self.delivered = True
        return "The server is restarting. Keep this page open: nothing is lost."

    def _finish(self) -> None:
        if self.finished or self.error:
            return
        try:
            self._sink.feed(self._resampler.finish())
            self._finished = self._sink.finish()
        except Exception:
            self._fail()
            return
        self._finished.add_done_callback(lambda _: self.notifier.notify())

    def _all_delivered(self) -> bool:
        return self._finished is not None and self._finished.done()

    def close(self) -> None:
        """Frees what the recording holds; no event is told after it."""
        self._sink.close()
        self.notifier.notify()

    def view(self, revision: int) -> dict[str, Any]:
        """What changed after `revision`, for the page: only so a long session costs no more than a short one."""
        # Asked first: when it says done, the lines read after it are the last ones.
        done = self.done
        # Likewise: what was listened to before the listener said that it is idle, and has told all of that by now.
        listened = self._fed
        idle = self._sink.idle
        with self._lines_lock:
            newer = takewhile(lambda line: line.revision > revision, reversed(self._lines.values()))
            changed = sorted(newer, key=lambda line: line.event.utterance)
            safe = self._safe(listened, idle)
            newest = self._revision
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
        }
        self.delivered = done
        return view | {"sha256": self.sha256} if done else view

    def has_changed(self, revision: int) -> bool:
        """Whether `view(revision)` would say anything new."""
        return self._revision > revision or self.done or (self._finished_for_shutdown and self._all_delivered())

    def _feed(self, samples: NDArray[np.float32]) -> None:
        try:
            self._sink.feed(self._resampler.feed(samples))
        except Exception:
            self._fail()

    def _fail(self) -> None:
        # The page must not send the same bytes again and again into the same failure.
        log.exception("a recording was ended by an error")
        self.error = "The server failed on this recording and ended it. The text above stays; press Record to go on."
        self.notifier.notify()

    def on_events(self, events: list[Event]) -> None:
        with self._lines_lock:
            for event in events:
                self._revision += 1
                self._lines.pop(event.utterance, None)
                self._lines[event.utterance] = TranscriptLine(self._revision, event)
                if isinstance(event, Partial):
                    self._open_at[event.utterance] = event.start
                else:
                    self._open_at.pop(event.utterance, None)
                    self._ended_at = max(self._ended_at, event.end)
        self.notifier.notify()

    def _safe(self, listened: int, idle: bool) -> int:
        """Bytes from the start that the page need not keep: their text is final, or there is none.

        `idle`: whether the listener has told all of the first `listened` bytes.

        Everything after it can be given to another session, so that not even a restart of the server loses a word.
        """
        if self._open_at:
            self._safe_at = max(self._safe_at, min(self._open_at.values()))
        elif not idle:  # speech waits for its first text; where it began is not known here
            self._safe_at = max(self._safe_at, self._ended_at)
        else:
            heard = listened // BYTES_PER_SAMPLE * SAMPLE_RATE // self.rate
            self._safe_at = max(self._safe_at, self._ended_at, heard - round(SKIPPED_MARGIN_SECONDS * SAMPLE_RATE))
        return min(self._safe_at * self.rate // SAMPLE_RATE * BYTES_PER_SAMPLE, self.received)


class RecordingRegistry:
    """All open recordings, each bound to its tab: nobody reads another's text by guessing a name.

    A tab is Gradio's session hash, a recording the 128-bit random name that the page gave it.
    """

    def __init__(
        self,
        start: OpenSink,
        *,
        idle_seconds: float = IDLE_SECONDS,
        leaving_seconds: float = LEAVING_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        admission: Admission | None = None,
        rates: Rates | None = None,
        session_seconds: float = math.inf,
    ) -> None:
        self._start = start
        self._admission = admission
        self._rates = rates
        self._session_seconds = session_seconds
        self._queue: dict[tuple[str, str], QueueEntry] = {}  # of recordings that are not open yet
        self._idle_seconds = idle_seconds
        self.leaving_seconds = leaving_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._recordings: dict[tuple[str, str], Recording] = {}
        self._closed_tabs: dict[str, float] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._sweep, name="qwen-asr-reaper", daemon=True).start()

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
        """The open recording of that tab, None where there is none (any more)."""
        with self._lock:
            self._closed_tabs.pop(tab, None)  # it speaks, so it has not left
            return self._recordings.get((tab, recording_id))

    def open(self, tab: str, recording_id: str, rate: int, options: SessionOptions) -> Recording:
        """Opens a recording; that tab's finished ones are forgotten. Raises what the listener raises, e.g. NotReady.

        The place that it has waited for, if it has, is the listener's from here on.
        """
        with self._lock:
            recording = self._recordings.get((tab, recording_id))
            if recording is not None:
                return recording
            entry = self._queue.pop((tab, recording_id), None)
            start = self._start if entry is None else partial(self._start, slot=entry.ticket)
            recording = Recording(rate, options, start, self._clock, self._session_seconds)
            self._recordings[tab, recording_id] = recording
            old = [key for key, other in self._recordings.items() if key[0] == tab and other.done]
            finished = [self._recordings.pop(key) for key in old]
        for other in finished:
            other.close()
        return recording

    def check_rate(self, address: str) -> None:
        """Counts a recording that is about to begin. Raises LimitExceeded."""
        if self._rates is not None:
            self._rates.hit(address)

    def queue_entry(self, tab: str, recording_id: str, address: str) -> QueueEntry | None:
        """The entry of a recording that is to be opened: at position 0 it can be. None where nobody ever waits.

        The same one each time that it is asked for, and freed as recordings are. Raises LimitExceeded.
        """
        if self._admission is None:
            return None
        with self._lock:
            self._closed_tabs.pop(tab, None)
            entry = self._queue.get((tab, recording_id))
            if entry is None:
                self.check_rate(address)
                entry = self._queue[tab, recording_id] = QueueEntry(self._admission)
            entry.heard_at = self._clock()
            return entry

    def remove(self, tab: str, recording_id: str) -> None:
        """Frees one recording, if it is there."""
        with self._lock:
            recording = self._recordings.pop((tab, recording_id), None)
        if recording is not None:
            recording.close()

    def tab_closed(self, tab: str) -> None:
        """The tab's connection ended: its recordings are freed unless it is heard again shortly."""
        with self._lock:
            if any(key[0] == tab for key in (*self._recordings, *self._queue)):
                self._closed_tabs[tab] = self._clock()

    def remove_idle(self) -> int:
        """Frees the recordings of tabs that left, and of those not heard for long; returns how many."""
        now = self._clock()
        with self._lock:
            left = {tab for tab, since in self._closed_tabs.items() if now - since > self.leaving_seconds}
            for tab in left:
                del self._closed_tabs[tab]

            def gone(heard: Mapping[tuple[str, str], Recording | QueueEntry]) -> list[tuple[str, str]]:
                return [key for key, one in heard.items() if key[0] in left or now - one.heard_at > self._idle_seconds]

            freed = [self._recordings.pop(key) for key in gone(self._recordings)]
            waited = [self._queue.pop(key) for key in gone(self._queue)]
        for recording in freed:
            recording.close()
        for entry in waited:
            entry.ticket.leave()
        return len(freed) + len(waited)

    def close(self) -> None:
        """Frees everything, when the server stops."""
        self._closing.set()
        with self._lock:
            recordings, self._recordings = list(self._recordings.values()), {}
            entries, self._queue = list(self._queue.values()), {}
        for recording in recordings:
            recording.close()
        for entry in entries:
            entry.ticket.leave()

    def _sweep(self) -> None:
        while not self._closing.wait(min(1.0, self.leaving_seconds / 4)):
            try:
                self.remove_idle()
            except Exception:
                log.exception("could not free a recording")
