"""The spans of sessions: one for each session, in it one for each utterance, and in that one for each recognition step.

Spans hold numbers, languages, kinds and reasons: no recognized text, no context, no client address and no secret.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.languages import LANGUAGES
from qwen_asr.live.events import Event, Failed, Final
from qwen_asr.service.sessions import SessionTrace

if TYPE_CHECKING:
    from qwen_asr.live.session import Step

_KNOWN_LANGUAGES = frozenset(LANGUAGES.values())


class SessionSpans(SessionTrace):
    """The spans of one session. Thread-safe, because steps end on other threads than they begin.

    The span of an utterance begins with its first step and ends with its text: it is the time that the server took, not
    that of the speech, which its attributes have. The parent of the session's span is the context of the thread that
    opens the session, which is that of its request.
    """

    def __init__(self, tracer: Tracer, kind: str, name: str) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()
        attributes = {"qwen_asr.kind": kind, "qwen_asr.session": name}
        self._session = tracer.start_span("session", kind=SpanKind.SERVER, attributes=attributes)
        self._utterances: dict[int, Span] = {}
        self._steps: dict[int, tuple[Span, int]] = {}  # of each step: its span, and when it was submitted, in ns
        self._begun: dict[int, int] = {}

    def step_submitted(self, step: Step) -> None:
        """See `SessionTrace`."""
        now = time.time_ns()
        with self._lock:
            inside = trace.set_span_in_context(self._utterance(step.number, now))
            span = self._tracer.start_span("recognition step", inside, start_time=now)
            self._steps[id(step)] = span, now

    def step_began(self, step: Step) -> None:
        """See `SessionTrace`. A step that begins again, because its utterance has ended, waits until then."""
        with self._lock:
            self._begun[id(step)] = time.time_ns()

    def step_ended(self, step: Step, failed: bool) -> None:
        """See `SessionTrace`."""
        now = time.time_ns()
        with self._lock:
            span, submitted = self._steps.pop(id(step), (None, 0))
            begun = self._begun.pop(id(step), None)
        if span is None:
            return
        begun = now if begun is None else begun
        span.set_attribute("qwen_asr.wait_seconds", (begun - submitted) / 1e9)
        span.set_attribute("qwen_asr.run_seconds", (now - begun) / 1e9)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def happened(self, events: list[Event]) -> None:
        """See `SessionTrace`."""
        for event in events:
            if not isinstance(event, Final | Failed):
                continue
            with self._lock:
                span = self._utterance(event.utterance, time.time_ns())
                del self._utterances[event.utterance]
            span.set_attribute("qwen_asr.start_seconds", event.start / SAMPLE_RATE)
            span.set_attribute("qwen_asr.end_seconds", event.end / SAMPLE_RATE)
            span.set_attribute("qwen_asr.lag_seconds", event.lag)
            if isinstance(event, Failed):
                span.set_attribute("qwen_asr.outcome", "failed")
                span.set_status(Status(StatusCode.ERROR))
            else:
                span.set_attribute("qwen_asr.outcome", "final")
                if event.language is not None:
                    # The model writes the name, and may write anything.
                    known = event.language in _KNOWN_LANGUAGES
                    span.set_attribute("qwen_asr.language", event.language if known else "other")
            span.end()

    def ended(self, audio_seconds: float, utterances: int, failed: int, why: str) -> None:
        """See `SessionTrace`."""
        with self._lock:
            left = [*(span for span, _ in self._steps.values()), *self._utterances.values()]
            self._steps.clear()
            self._utterances.clear()
        for span in left:
            span.set_attribute("qwen_asr.outcome", "dropped")
            span.end()
        self._session.set_attribute("qwen_asr.audio_seconds", audio_seconds)
        self._session.set_attribute("qwen_asr.utterances", utterances)
        self._session.set_attribute("qwen_asr.failed", failed)
        self._session.set_attribute("qwen_asr.end_reason", why)
        self._session.end()

    def _utterance(self, number: int, now: int) -> Span:
        """The span of an utterance that has not ended; a new one at first. Call it with the lock held."""
        span = self._utterances.get(number)
        if span is None:
            inside = trace.set_span_in_context(self._session)
            attributes = {"qwen_asr.utterance": number}
            span = self._tracer.start_span("utterance", inside, attributes=attributes, start_time=now)
            self._utterances[number] = span
        return span
