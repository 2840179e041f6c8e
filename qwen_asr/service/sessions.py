"""The sessions that are open on this server, whoever opened them: counted, and told of in the log.

A `TrackedRunner` is a `Runner` that counts for itself. Nothing is summed up while audio is fed: the totals are added
up when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr import logs
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Event, Failed, Final
from qwen_asr.live.runner import Runner

if TYPE_CHECKING:
    from qwen_asr.engine.scheduler import Scheduler
    from qwen_asr.live.session import Session

log = logging.getLogger(__name__)

KINDS = ("page", "asr", "realtime", "rest")
"""By which door a session came in: the page, /ws/asr, /v1/realtime, /v1/audio/transcriptions."""


class SessionRegistry:
    """The open sessions, and totals over all that there ever were.

    `on_lag` is given the lag of each event, `on_failed` is called for each utterance that failed.
    """

    def __init__(self, on_lag: Callable[[float], None], on_failed: Callable[[], None]) -> None:
        self.on_lag = on_lag
        self.on_failed = on_failed
        self._lock = threading.Lock()
        self._open: set[TrackedRunner] = set()
        self._past_samples = 0
        self._past_ends: Counter[str] = Counter()
        self.ended = 0  # sessions

    def open(
        self,
        kind: str,
        name: str,
        session: Session,
        scheduler: Scheduler,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> TrackedRunner:
        """Opens a session of one of the `KINDS`; `name` is what the log calls it, `on_end` is its `Runner`'s."""
        runner = TrackedRunner(kind, name, session, scheduler, on_events, self, on_end)
        with self._lock:
            self._open.add(runner)
        return runner

    def close(self, runner: TrackedRunner) -> bool:
        """To be called by the seat alone. False where it had left already."""
        with self._lock:
            if runner not in self._open:
                return False
            self._open.remove(runner)
            self.ended += 1
            self._past_samples += runner.received
            self._past_ends += runner.ends
        return True

    def open_by_kind(self) -> dict[str, int]:
        """How many sessions are open, for each of the `KINDS`; one that a page keeps after Stop is not."""
        with self._lock:
            counts = Counter(runner.kind for runner in self._open if not runner.finished)
        return {kind: counts[kind] for kind in KINDS}

    def audio_seconds(self) -> float:
        """Seconds of audio that all sessions have taken."""
        with self._lock:
            return (self._past_samples + sum(runner.received for runner in self._open)) / SAMPLE_RATE

    def ends(self) -> Counter[str]:
        """How utterances ended: "final" or "failed" → how many."""
        with self._lock:
            return sum((runner.ends for runner in self._open), self._past_ends.copy())

    def longest_lag(self) -> float:
        """The lag, in seconds, of the session that is furthest behind; 0 where there is none."""
        with self._lock:
            sessions = list(self._open)
        return max((runner.lag for runner in sessions), default=0.0)


class TrackedRunner(Runner):
    """A session that runs. `why` may be set to a few words on its end, before `close`; a common one is found."""

    def __init__(
        self,
        kind: str,
        name: str,
        session: Session,
        scheduler: Scheduler,
        on_events: Callable[[list[Event]], None],
        sessions: SessionRegistry,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(session, scheduler, self._account, on_end)
        self.kind = kind
        self.name = name
        self.why = ""
        self.ends: Counter[str] = Counter()
        self._pass_on = on_events
        self._sessions = sessions
        self._lags = 0.0
        self._events = 0
        self._finished: Future[None] | None = None
        self._log("Session began: %s.", kind, event="session_begin")

    @property
    def finished(self) -> bool:
        """Whether everything was told, and its place is another's."""
        return self._finished is not None and self._finished.done()

    def feed(self, samples: NDArray[np.float32]) -> None:
        """As `Runner.feed`."""
        with logs.session_context(self.name):
            super().feed(samples)

    def finish(self) -> Future[None]:
        """As `Runner.finish`."""
        with logs.session_context(self.name):
            self._finished = super().finish()
        return self._finished

    def close(self) -> None:
        """As `Runner.close`."""
        complete = self.finished
        super().close()
        if not self._sessions.close(self):
            return
        seconds, mean = self.received / SAMPLE_RATE, self._lags / max(self._events, 1)
        why = self.why or ("finished" if complete else "left")
        self._log(
            "Session ended: %s, %.1f s of audio, %d utterances (%d failed), mean lag %.2f s, %s.",
            self.kind, seconds, self.ends.total(), self.ends["failed"], mean, why,
            event="session_end", audio_seconds=round(seconds, 3), utterances=self.ends.total(),
            failed=self.ends["failed"], mean_lag=round(mean, 3), why=why,
        )  # fmt: skip

    def _account(self, events: list[Event]) -> None:
        """On whichever thread has just learnt something: count, and hand on."""
        for event in events:
            self._lags += event.lag
            self._events += 1
            self._sessions.on_lag(event.lag)
            if isinstance(event, Final | Failed):
                self.ends["failed" if isinstance(event, Failed) else "final"] += 1
            if isinstance(event, Failed):
                self._sessions.on_failed()
        self._pass_on(events)

    def _log(self, sentence: str, *values: object, event: str, **fields: object) -> None:
        with logs.session_context(self.name):
            log.info(sentence, *values, extra={"fields": {"event": event, "kind": self.kind, **fields}})
