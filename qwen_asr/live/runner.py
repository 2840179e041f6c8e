"""Runs a session: `Runner` on an engine that many share, `run_session` in the calling thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from qwen_asr.errors import QwenASRError
from qwen_asr.live.alignment import Alignment
from qwen_asr.live.events import Event
from qwen_asr.live.session import Session, Step

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import StepRunner
    from qwen_asr.engine.streaming import Utterance
    from qwen_asr.engine.words import Word, WordAligner
    from qwen_asr.live.session_options import SessionOptions

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Runner:
    """Runs a session's steps on an engine that it shares with others. Thread-safe, and has no thread of its own.

    Voice detection (0.1 to 1 ms of CPU for each 32 ms of audio) runs in the thread that calls `feed`, under a separate
    lock, so that the scheduler's thread never waits for it. A live block is cheap. Feed a long backlog, such as a
    minute of audio, from a worker thread, not from an event loop.

    A step covers all audio that arrived before the device begins it, however long it waited in the scheduler's queue.

    `on_events` receives the events in order, one call at a time, and without a lock held, so it may call methods of the
    runner. It can run in any thread that calls the runner, including the scheduler's thread for results, which serves
    all sessions: it should pass the events on and return quickly.

    `on_end` is called when the session is over: after the last event that follows `finish`, and at each `close`.
    """

    def __init__(
        self,
        session: Session,
        engine: StepRunner,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._engine = engine
        self._on_events = on_events
        self._on_end = on_end
        self._detector_lock = threading.Lock()  # keeps blocks in order; always acquired before _state_lock
        self._state_lock = threading.Lock()  # guards the session, except its detector, and the fields below
        self._undelivered: list[Event] = []
        self._driving = False  # whether a thread is submitting steps and delivering events; only one does at a time
        self._submitted: Future[Hypothesis] | None = None
        self._aligning: set[Future[tuple[Word, ...]]] = set()
        self._finishing: Future[None] | None = None
        self._delivery_error: Exception | None = None
        self._resolved = False
        self._closed = False

    @property
    def lag(self) -> float:
        """`Session.lag`, from any thread."""
        with self._state_lock:
            return self._session.lag

    @property
    def backlog(self) -> float:
        """Seconds of speech that wait for a step under way. 0 without one: then only more audio can make it smaller."""
        with self._state_lock:
            return self._session.lag if self._session.busy else 0.0

    @property
    def gathering(self) -> float:
        """`Session.gathering`, from any thread."""
        with self._state_lock:
            return self._session.gathering

    @property
    def idle(self) -> bool:
        """Whether all events for the audio fed so far have been delivered, from any thread.

        `lag` becomes 0 a little earlier: when the text exists, but `on_events` has not returned yet.
        """
        with self._state_lock:
            coming = self._session.busy or self._session.aligning or self._session.lag > 0
            return not (self._driving or self._undelivered or coming)

    @property
    def received(self) -> int:
        """Samples fed so far."""
        return self._session.received

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Processes the next samples. Does nothing after `close`.

        `samples` are float32 mono at 16 kHz that an edge has validated (`audio.validation.to_mono`). Raises
        `RuntimeError` after `finish`.
        """
        with self._detector_lock:
            if self._closed:
                return
            detected = self._session.listen(samples)
            with self._state_lock:
                if not self._closed:
                    self._undelivered += self._session.take(detected)
        self._drive()

    def change(self, options: SessionOptions) -> int:
        """`Session.change`, from any thread. Does nothing after `close`, and returns 0."""
        with self._detector_lock, self._state_lock:
            return 0 if self._closed else self._session.change(options)

    def finish(self) -> Future[None]:
        """Ends the audio. Returns a future that is resolved after the last event; each call returns the same one.

        The future holds the first exception that `on_events` raised, if any. `close` cancels it.
        """
        with self._detector_lock, self._state_lock:
            if self._finishing is None:
                self._finishing = Future()
                if self._closed:
                    self._finishing.cancel()
                else:
                    self._undelivered += self._session.finish()
            finishing = self._finishing
        self._drive()
        return finishing

    def close(self) -> None:
        """Drops the session: no more events are delivered, and later audio is ignored. Can be called repeatedly.

        A call of `on_events` that is running in another thread still completes.
        """
        with self._state_lock:
            self._closed = True
            self._undelivered.clear()
            self._session.drop()
            abandoned = [self._submitted, *self._aligning, self._finishing if not self._resolved else None]
            self._resolved = True
        for future in abandoned:
            if future is not None:
                future.cancel()  # does nothing for a step that has started: it ends as ever
        self._on_end()

    def _drive(self) -> None:
        """Submits steps and delivers events until none is left, unless another thread is already doing so."""
        with self._state_lock:
            if self._driving:
                return  # that thread checks for new work, under this lock, before it stops
            self._driving = True
        try:
            while (work := self._next_work()) is not None:
                step, alignment, events = work
                if step is not None:
                    self._submit(step)
                if alignment is not None:
                    self._align(alignment)
                if events:
                    self._deliver(events)
        except BaseException:
            with self._state_lock:
                self._driving = False  # otherwise the session would never run again
            raise

    def _next_work(self) -> tuple[Step | None, Alignment | None, list[Event]] | None:
        with self._state_lock:
            step = None if self._closed else self._session.next_step()
            alignment = None if self._closed else self._session.next_alignment()
            events, self._undelivered = self._undelivered, []
            if step is not None or alignment is not None or events:
                return step, alignment, events
            self._driving = False
            finishing = self._finishing
            if self._closed or self._resolved or finishing is None or not self._session.done:
                return None
            self._resolved = True
        self._on_end()  # before the future is resolved, so that its waiter finds the slot free
        if finishing.set_running_or_notify_cancel():
            if self._delivery_error is None:
                finishing.set_result(None)
            else:
                finishing.set_exception(self._delivery_error)
        return None

    def _submit(self, step: Step) -> None:
        try:
            future = self._engine.submit(step.utterance, lambda: self._began(step), lambda: step.urgent)
        except Exception as error:  # a refused step becomes a `Failed` event or a warning
            message = _public_message(error)
            self._report(lambda: self._session.failed(step, message))
        else:
            with self._state_lock:
                self._submitted = future
                closed = self._closed
            future.add_done_callback(lambda done: self._step_done(step, done))
            if closed:
                future.cancel()

    def _began(self, step: Step) -> None:
        with self._state_lock:
            self._session.began(step)

    def _step_done(self, step: Step, done: Future[Hypothesis]) -> None:
        completed, failed = self._session.completed, self._session.failed
        self._report_end(done, partial(completed, step), partial(failed, step), _public_message)
        self._drive()

    def _align(self, alignment: Alignment) -> None:
        try:
            future = self._engine.align(alignment.clip, background=alignment.background)
        except Exception as error:  # the final does without its words
            message = _why_no_words(error)
            self._report(lambda: self._session.not_aligned(alignment, message))
            return
        with self._state_lock:
            self._aligning.add(future)
            closed = self._closed
        future.add_done_callback(lambda done: self._alignment_done(alignment, done))
        if closed:
            future.cancel()

    def _alignment_done(self, alignment: Alignment, done: Future[tuple[Word, ...]]) -> None:
        aligned, not_aligned = self._session.aligned, self._session.not_aligned
        self._report_end(done, partial(aligned, alignment), partial(not_aligned, alignment), _why_no_words)
        with self._state_lock:
            self._aligning.discard(done)
        self._drive()

    def _report_end(
        self,
        done: Future[T],
        succeeded: Callable[[T], Sequence[Event]],
        failed: Callable[[str], Sequence[Event]],
        explain: Callable[[BaseException], str],
    ) -> None:
        """Reports the result of a step or an alignment, or why there is none."""
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            message = "The recognizer was stopped." if error is None else explain(error)
            self._report(lambda: failed(message))
        else:
            self._report(lambda: succeeded(done.result()))

    def _report(self, outcome: Callable[[], Sequence[Event]]) -> None:
        with self._state_lock:
            if not self._closed:
                self._undelivered += outcome()

    def _deliver(self, events: list[Event]) -> None:
        try:
            self._on_events(events)
        except Exception as error:  # an error of one callback must not stop the thread that serves all sessions
            logger.exception("The callback for session events failed.")
            self._delivery_error = self._delivery_error or error


def run_session(session: Session, blocks: Iterable[NDArray[np.float32]]) -> Iterator[Event]:
    """Feeds `blocks` (float32 mono 16 kHz) to `session`, runs its steps in this thread, and yields the events.

    The session is one of a model in this process (`engine.local_engine.LocalModel`). A failed step is logged. A failed
    final step yields a `Failed` event, as with a `Runner`. Words are found in this thread too.
    """
    for block in blocks:
        yield from session.feed(block)
        yield from _run_steps(session)
    yield from session.finish()
    yield from _run_steps(session)


def _run_steps(session: Session) -> Iterator[Event]:
    while True:
        if (alignment := session.next_alignment()) is not None:
            yield from _align(session, alignment)
            continue
        if (step := session.next_step()) is None:
            return
        try:
            utterance = cast("Utterance", step.utterance)
            nothing = np.zeros(0, np.float32)
            hypothesis = utterance.finish() if step.final else utterance.feed(nothing)
        except Exception as error:
            yield from session.failed(step, _public_message(error))
        else:
            yield from session.completed(step, hypothesis)


def _align(session: Session, alignment: Alignment) -> list[Event]:
    try:
        [words] = cast("WordAligner", alignment.aligner).align_words([alignment.clip])
    except Exception as error:
        return session.not_aligned(alignment, _why_no_words(error))
    return session.aligned(alignment, words)


def _public_message(error: BaseException) -> str:
    """The message for the user. Details of errors other than `QwenASRError` appear only in the log."""
    logger.error("A recognition step failed.", exc_info=error)
    return str(error) if isinstance(error, QwenASRError) else "The recognizer failed on this part; the log says why."


def _why_no_words(error: BaseException) -> str:
    """The message for the user, as `_public_message`: the text is whole, so this is only a warning."""
    logger.warning("The times of an utterance's words could not be found.", exc_info=error)
    return f"their times are unknown. {error if isinstance(error, QwenASRError) else 'The log says why.'}"
