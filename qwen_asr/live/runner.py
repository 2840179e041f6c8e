"""What drives a session: `Runner` on the scheduler's threads, `run_session` in a plain loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr.errors import QwenASRError
from qwen_asr.live.events import Event
from qwen_asr.live.session import Session, Step

if TYPE_CHECKING:
    from qwen_asr.engine.scheduler import Scheduler
    from qwen_asr.engine.streaming import Hypothesis

logger = logging.getLogger(__name__)


class Runner:
    """A session whose audio comes from any thread and whose steps run on the shared scheduler. It has no thread itself.

    Voice detection (0.1 to 1 ms of CPU for each 32 ms of audio) runs on the thread that calls `feed`, under a lock of
    its own. A live block is cheap; a minute of backlog at once is not: feed that from a worker thread, not on an event
    loop. The scheduler's thread never waits for it.

    `on_events` gets the events in order, one call at a time, with no lock held; it may call back into the runner. It
    runs on whichever thread has just learnt something, the scheduler's among them, which serves every speaker: it
    should hand the events on and return.

    `on_end` is called once the session needs nothing more: behind the last event after `finish`, and at each `close`.
    """

    def __init__(
        self,
        session: Session,
        scheduler: Scheduler,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._scheduler = scheduler
        self._on_events = on_events
        self._on_end = on_end
        self._listening = threading.Lock()  # keeps blocks of audio in order; taken before _state, never after it
        self._state = threading.Lock()  # the session but its detector, and what stands below
        self._undelivered: list[Event] = []
        self._driving = False  # one thread at a time submits and delivers; the others leave their work to it
        self._finishing: Future[None] | None = None
        self._delivery_error: Exception | None = None
        self._resolved = False
        self._closed = False

    @property
    def lag(self) -> float:
        """`Session.lag`, from any thread."""
        with self._state:
            return self._session.lag

    @property
    def busy(self) -> bool:
        """`Session.busy`, from any thread."""
        with self._state:
            return self._session.busy

    @property
    def idle(self) -> bool:
        """Whether all that is to be said of the audio fed so far was told, from any thread.

        `lag` is 0 a little earlier: when the text is there, but `on_events` is still to return from being told it.
        """
        with self._state:
            return not (self._driving or self._undelivered or self._session.busy or self._session.lag > 0)

    @property
    def received(self) -> int:
        """Samples fed so far."""
        return self._session.received

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples (float32 mono 16 kHz). Ignored after `close`.

        Raises AudioError for a block that is no audio, RuntimeError after `finish`.
        """
        with self._listening:
            if self._closed:
                return
            detected = self._session.listen(samples)
            with self._state:
                if not self._closed:
                    self._undelivered += self._session.take(detected)
        self._drive()

    def finish(self) -> Future[None]:
        """No more audio comes. The future is resolved once the last event was delivered; the same one at each call.

        It holds the first exception that `on_events` raised, if it did, and is cancelled by `close`.
        """
        with self._listening, self._state:
            if self._finishing is None:
                self._finishing = Future()
                if self._closed:
                    self._finishing.cancel()
                else:
                    self._session.finish()
            finishing = self._finishing
        self._drive()
        return finishing

    def close(self) -> None:
        """Drop everything: nothing is delivered any more, later audio is ignored. May be called at any time, again too.

        An `on_events` that another thread is in at this moment still runs to its end.
        """
        with self._state:
            self._closed = True
            self._undelivered.clear()
            self._session.drop()
            abandoned = self._finishing if not self._resolved else None
            self._resolved = True
        if abandoned is not None:
            abandoned.cancel()
        self._on_end()

    def _drive(self) -> None:
        """Submit and deliver until nothing is left to do, unless another thread is already at it."""
        with self._state:
            if self._driving:
                return  # that thread looks again, under this lock, before it stops
            self._driving = True
        try:
            while (work := self._next_work()) is not None:
                step, events = work
                if step is not None:
                    self._submit(step)
                if events:
                    self._deliver(events)
        except BaseException:
            with self._state:
                self._driving = False  # or the session would stand still for good
            raise

    def _next_work(self) -> tuple[Step | None, list[Event]] | None:
        with self._state:
            step = None if self._closed else self._session.next_step()
            events, self._undelivered = self._undelivered, []
            if step is not None or events:
                return step, events
            self._driving = False
            finishing = self._finishing
            if self._closed or self._resolved or finishing is None or not self._session.done:
                return None
            self._resolved = True
        self._on_end()  # first: whoever waits for the future may come again at once, and finds the place free
        if finishing.set_running_or_notify_cancel():
            if self._delivery_error is None:
                finishing.set_result(None)
            else:
                finishing.set_exception(self._delivery_error)
        return None

    def _submit(self, step: Step) -> None:
        try:
            future = self._scheduler.submit(step.utterance)
        except Exception as error:  # a scheduler that refuses must not lose the utterance in silence
            message = _sentence(error)
            self._report(lambda: self._session.failed(step, message))
        else:
            future.add_done_callback(lambda done: self._step_done(step, done))

    def _step_done(self, step: Step, done: Future[Hypothesis]) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled():
            self._report(lambda: self._session.failed(step, "The recognizer was stopped."))
        elif error is not None:
            message = _sentence(error)
            self._report(lambda: self._session.failed(step, message))
        else:
            self._report(lambda: self._session.completed(step, done.result()))
        self._drive()

    def _report(self, outcome: Callable[[], list[Event]]) -> None:
        with self._state:
            if not self._closed:
                self._undelivered += outcome()

    def _deliver(self, events: list[Event]) -> None:
        try:
            self._on_events(events)
        except Exception as error:  # one listener's mistake must not stop the thread that serves all speakers
            logger.exception("A listener of session events failed.")
            self._delivery_error = self._delivery_error or error


def run_session(session: Session, blocks: Iterable[NDArray[np.float32]]) -> Iterator[Event]:
    """Feed the blocks to the session, carry out each step in this thread, and yield the events as they come.

    A step that fails gives a `Failed` event (and a log entry), as it does under a `Runner`.
    """
    for block in blocks:
        yield from session.feed(block)
        yield from _run_steps(session)
    session.finish()
    yield from _run_steps(session)


def _run_steps(session: Session) -> Iterator[Event]:
    while (step := session.next_step()) is not None:
        try:
            nothing = np.zeros(0, np.float32)
            hypothesis = step.utterance.finish() if step.final else step.utterance.feed(nothing)
        except Exception as error:
            yield from session.failed(step, _sentence(error))
        else:
            yield from session.completed(step, hypothesis)


def _sentence(error: BaseException) -> str:
    """What to tell people: our own errors speak for themselves, others stay in the log."""
    logger.error("A recognition step failed.", exc_info=error)
    return str(error) if isinstance(error, QwenASRError) else "The recognizer failed on this part; the log says why."
