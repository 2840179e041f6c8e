"""`SessionRegistry`: the open sessions of the server, their totals for the metrics, and their log lines.

A `TrackedRunner` is a `Runner` with counts of its own. Totals are summed up only when they are read.
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
from qwen_asr.live.events import Aligned, Event, Failed, Final
from qwen_asr.live.runner import Runner

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import Engine
    from qwen_asr.live.session import Session, Step

log = logging.getLogger(__name__)

KINDS = ("page", "asr", "realtime", "deepgram", "rest")
"""The route of a session: the page, /ws/asr, /v1/realtime, /v1/listen as a WebSocket, and REST with files."""


class SessionTrace:
    """Receives what happens in one session. This one ignores it: `service.telemetry.traces` makes spans of it.

    Its methods are called on any thread. They must return at once and never raise.
    """

    def step_submitted(self, step: Step) -> None:
        """A step waits for the recognizer."""

    def step_began(self, step: Step) -> None:
        """The recognizer has begun it; called again if it begins again."""

    def step_ended(self, step: Step, failed: bool) -> None:
        """It has ended, or was cancelled."""

    def happened(self, events: list[Event]) -> None:
        """These events are delivered."""

    def ended(self, audio_seconds: float, utterances: int, failed: int, why: str) -> None:
        """The session is over. `why` is its reason in a few words."""


class SessionRegistry:
    """The open sessions, and totals over these and all earlier ones. Thread-safe.

    `on_lag` is called with the lag of each event, `on_failed` for each utterance that failed. `trace(kind, name)` makes
    the trace of each new session; None for none. It can be set later.
    """

    def __init__(self, on_lag: Callable[[float], None], on_failed: Callable[[], None]) -> None:
        self.on_lag = on_lag
        self.on_failed = on_failed
        self.trace: Callable[[str, str], SessionTrace | None] = lambda kind, name: None
        self._lock = threading.Lock()
        self._open: set[TrackedRunner] = set()
        self._past_samples = 0  # of sessions that have ended
        self._past_outcomes: Counter[str] = Counter()
        self.ended = 0  # how many sessions have ended

    def open(
        self,
        kind: str,
        name: str,
        session: Session,
        engine: Engine,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> TrackedRunner:
        """Opens a session of one of the `KINDS`; `name` identifies it in the log, `on_end` is its `Runner`'s.

        `on_close` is called once it no longer uses the engine: after `close`.
        """
        runner = TrackedRunner(kind, name, session, engine, on_events, self, on_end, on_close)
        with self._lock:
            self._open.add(runner)
        return runner

    def close(self, runner: TrackedRunner) -> bool:
        """Called by the runner itself. Returns False if it was closed already."""
        with self._lock:
            if runner not in self._open:
                return False
            self._open.remove(runner)
            self.ended += 1
            self._past_samples += runner.received
            self._past_outcomes += runner.outcomes
        return True

    def open_by_kind(self) -> dict[str, int]:
        """The number of open sessions of each of the `KINDS`, without those that a page keeps after Stop."""
        with self._lock:
            counts = Counter(runner.kind for runner in self._open if not runner.finished)
        return {kind: counts[kind] for kind in KINDS}

    def audio_seconds(self) -> float:
        """Seconds of audio received by all sessions."""
        with self._lock:
            return (self._past_samples + sum(runner.received for runner in self._open)) / SAMPLE_RATE

    def outcomes(self) -> Counter[str]:
        """The number of utterances that ended as "final" and as "failed"."""
        with self._lock:
            return sum((runner.outcomes for runner in self._open), self._past_outcomes.copy())

    def longest_lag(self) -> float:
        """The largest lag of an open session, in seconds; 0 if there is none."""
        with self._lock:
            sessions = list(self._open)
        return max((runner.lag for runner in sessions), default=0.0)


class TrackedRunner(Runner):
    """A runner that logs its session and counts for its registry.

    Set `end_reason` before `close` to log a reason for the end; otherwise it is "finished" or "left".
    """

    _engine: Engine

    def __init__(
        self,
        kind: str,
        name: str,
        session: Session,
        engine: Engine,
        on_events: Callable[[list[Event]], None],
        sessions: SessionRegistry,
        on_end: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        super().__init__(session, engine, self._account, on_end)
        self._on_close = on_close
        self.kind = kind
        self.name = name
        self.end_reason = ""
        self.outcomes: Counter[str] = Counter()
        self._pass_on = on_events
        self._sessions = sessions
        self._lag_sum = 0.0
        self._events = 0
        self._finished: Future[None] | None = None
        self._trace = sessions.trace(kind, logs.short_id(name))
        self._log("Session began: %s.", kind, event="session_begin")

    @property
    def finished(self) -> bool:
        """Whether all events have been delivered. Its slot is then free."""
        return self._finished is not None and self._finished.done()

    def unavailable_reason(self) -> str | None:
        """See `Engine`."""
        return self._engine.unavailable_reason()

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
        self._on_close()
        if not self._sessions.close(self):
            return
        seconds, mean = self.received / SAMPLE_RATE, self._lag_sum / max(self._events, 1)
        why = self.end_reason or ("finished" if complete else "left")
        if self._trace is not None:
            self._trace.ended(round(seconds, 3), self.outcomes.total(), self.outcomes["failed"], why)
        self._log(
            "Session ended: %s, %.1f s of audio, %d utterances (%d failed), mean lag %.2f s, %s.",
            self.kind, seconds, self.outcomes.total(), self.outcomes["failed"], mean, why,
            event="session_end", audio_seconds=round(seconds, 3), utterances=self.outcomes.total(),
            failed=self.outcomes["failed"], mean_lag=round(mean, 3), why=why,
        )  # fmt: skip

    def _account(self, events: list[Event]) -> None:
        """Counts the events and passes them on, on the thread that made them."""
        for event in events:
            if isinstance(event, Aligned):
                continue
            self._lag_sum += event.lag
            self._events += 1
            self._sessions.on_lag(event.lag)
            if isinstance(event, Final | Failed):
                self.outcomes["failed" if isinstance(event, Failed) else "final"] += 1
            if isinstance(event, Failed):
                self._sessions.on_failed()
        if self._trace is not None:
            self._trace.happened(events)
        self._pass_on(events)

    def _submit(self, step: Step) -> None:
        if self._trace is not None:
            self._trace.step_submitted(step)
        super()._submit(step)

    def _began(self, step: Step) -> None:
        if self._trace is not None:
            self._trace.step_began(step)
        super()._began(step)

    def _step_done(self, step: Step, done: Future[Hypothesis]) -> None:
        if self._trace is not None:
            self._trace.step_ended(step, done.cancelled() or done.exception() is not None)
        super()._step_done(step, done)

    def _log(self, sentence: str, *values: object, event: str, **fields: object) -> None:
        with logs.session_context(self.name):
            log.info(sentence, *values, extra={"fields": {"event": event, "kind": self.kind, **fields}})
