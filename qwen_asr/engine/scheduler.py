"""The steps of all sessions → batches on the device.

One thread owns the model. It takes one pass from every step that is under way, runs those of a kind together, and hands
the results back; a step that is submitted meanwhile joins at the next pass (continuous batching, as Orca, Yu et al.
2022). A pass of ready tokens never waits for a queue, so a session is only ever one pass away from its turn.

What goes wrong stays where it went wrong. Passes that fail together are run again in halves, so that only the culprit's
step fails, and so that what the device's memory does not hold at once is done bit by bit. A step that finds no memory
even alone waits until another one is over, and begins again.
"""

import contextvars
import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import torch

from qwen_asr.engine.observer import Load, Observer
from qwen_asr.engine.recognizer import Encode, Pass, Predict, Recognizer
from qwen_asr.engine.streaming import Hypothesis, Utterance
from qwen_asr.errors import StepFailed

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""How often a step that finds no memory is begun before it fails."""
_JOIN_SECONDS = 5.0  # how long `close` waits for a pass; one that is stuck must not hold up the end of the process


class _Running:
    """A step under way and the pass that it waits for (None until it was asked for the first)."""

    def __init__(self, utterance: Utterance) -> None:
        self.future: Future[Hypothesis] = Future()
        self.wanted: Pass | None = None
        self.tries = 1
        self._utterance = utterance
        self._step = utterance.step()
        # What is logged and called back belongs to whoever submitted it, not to the thread that it happens on.
        self._context = contextvars.copy_context()
        self._settling = threading.Lock()
        self._begun = False
        self._settled = False

    def begin(self) -> bool:
        """It is not to be cancelled any more. False where it was already. A second call changes nothing."""
        if not self._begun:
            self._begun = self.future.set_running_or_notify_cancel()
        return self._begun

    def send(self, result: Any) -> bool:
        """Give the step its result and take the pass that it needs next. False once the step is over. Raises its error.

        It is restartable at any point: an utterance keeps what its steps have completed, and drops what they have not.
        """
        try:
            self.wanted = self._step.send(result)
        except StopIteration as done:
            hypothesis = done.value
        else:
            return True
        self._settle(lambda: self.future.set_result(hypothesis))
        return False

    def begin_again(self) -> None:
        """From the start of the step, as if it had not begun."""
        self._step.close()
        self._step = self._utterance.step()
        self.wanted = None
        self.tries += 1

    def fail(self, error: Exception) -> None:
        """The step is over, and has failed."""
        self._context.copy().run(logger.error, "A recognition step failed", exc_info=error)
        self._step.close()
        self.give_up(explain(error))

    def give_up(self, sentence: str) -> None:
        """The step is over for whoever waits for it; the thread that is in it is left alone."""
        if self.begin():
            self._settle(lambda: self.future.set_exception(StepFailed(sentence)))

    def _settle(self, outcome: Any) -> None:
        """Once only: a thread that was given up may come back with a result that nobody waits for any more."""
        with self._settling:
            if self._settled:
                return
            self._settled = True
        # A context can be entered by one thread at a time; another may have got stuck in this one.
        self._context.copy().run(outcome)


class _Worker:
    """A thread that owns the model, and what it has under way. `abandoned`: another one owns it by now."""

    def __init__(self) -> None:
        self.active: list[_Running] = []
        self.abandoned = False
        self.thread: threading.Thread


def explain(error: Exception) -> str:
    """One sentence for a person on why a step failed."""
    if is_out_of_memory(error):
        return "The device ran out of memory on this utterance. Fewer sessions or a smaller checkpoint will fit."
    return f"The recognizer failed on this utterance ({type(error).__name__}). The next one goes on."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that there was no memory, as torch's allocators do in more than one way."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()  # the CPU's allocator, MPS and cuBLAS have no class of their own for it
    return isinstance(error, RuntimeError) and any(
        sign in said for sign in ("out of memory", "can't allocate memory", "alloc_failed")
    )


def _load(passes: list[Pass]) -> Load:
    windows = [window for one in passes if isinstance(one, Encode) for window in one.windows]
    return Load(
        rows=len(passes),
        frames=sum(window.shape[1] for window in windows),
        positions=sum(len(one.row.embeds) for one in passes if isinstance(one, Predict)),
    )


class Scheduler:
    """Runs submitted steps; safe to call from any thread. Close it, or use it as a context manager."""

    def __init__(self, recognizer: Recognizer, observer: Observer | None = None) -> None:
        self.recognizer = recognizer
        self._observer = observer or Observer()
        self._submitted: deque[_Running] = deque()
        self._postponed: deque[_Running] = deque()  # for want of memory, until another step is over
        self._changed = threading.Condition()
        self._refusal: str | None = None  # why no more steps are taken
        self._worker = self._new_worker()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether there is a thread that takes steps."""
        return self._worker.thread.is_alive() and not self._worker.abandoned

    def submit(self, utterance: Utterance) -> Future[Hypothesis]:
        """One step over everything that `utterance` holds when the step begins.

        The caller has at most one step of an utterance under way. The future fails with `StepFailed` alone; it can be
        cancelled until the step begins. A step that failed leaves its utterance to be dropped: a thread may be in it.
        """
        running = _Running(utterance)
        self._observer.step_begins(running)
        running.future.add_done_callback(self._noted(running))
        with self._changed:
            refusal = self._refusal
            if refusal is None:
                self._submitted.append(running)
                self._changed.notify_all()
        if refusal is not None:
            running.give_up(refusal)
        return running.future

    def close(self) -> None:
        """Stop after the pass that is running; steps that are not over fail. A pass that is stuck is not waited for."""
        with self._changed:
            self._refusal = self._refusal or "The recognizer was stopped."
            self._changed.notify_all()
        self._worker.thread.join(_JOIN_SECONDS)
        if self._worker.thread.is_alive():
            self.abandon("The recognizer was stopped.", replace=False)

    def abandon(self, sentence: str, *, replace: bool) -> list[threading.Thread]:
        """Give up the pass that is running, and its thread: its steps fail with `sentence`. Returns the thread, if any.

        With `replace` another thread goes on with the steps that were not in it. That is sound on the CPU, where
        threads share weights that are only read, and the one that is stuck touches nothing but utterances which were
        given up; on a GPU it is not, since what is stuck there is the device. Without, all steps fail, and no more are
        taken.
        """
        with self._changed:
            stuck = self._worker
            if stuck.abandoned or not stuck.active:
                return []
            stuck.abandoned = True
            lost = list(stuck.active)
            if replace:
                self._submitted.extendleft(reversed(self._postponed))
                self._worker = self._new_worker()
            else:
                self._refusal = sentence
                lost += [*self._submitted, *self._postponed]
                self._submitted.clear()
            self._postponed.clear()
            self._changed.notify_all()
        for running in lost:
            running.give_up(sentence)
        return [stuck.thread]

    def _noted(self, running: _Running) -> Any:
        def note(done: Future[Hypothesis]) -> None:
            self._observer.step_ends(running, done.cancelled() or done.exception() is not None)

        return note

    def _new_worker(self) -> _Worker:
        worker = _Worker()
        worker.thread = threading.Thread(target=self._run, args=(worker,), name="recognizer", daemon=True)
        worker.thread.start()
        return worker

    def _run(self, worker: _Worker) -> None:
        while self._wait_for_work(worker):
            self._observer.turn_begins()
            for running in [running for running in worker.active if running.wanted is None]:
                self._advance(worker, running, None)
            for running, result in self._passes(worker, list(worker.active)):
                self._advance(worker, running, result)
            with self._changed:
                if worker.abandoned:
                    return
                self._observer.turn_ends()
        with self._changed:
            if worker.abandoned:
                return
            left = [*worker.active, *self._postponed, *self._submitted]
        for running in left:
            running.give_up(self._refusal or "The recognizer was stopped.")

    def _wait_for_work(self, worker: _Worker) -> bool:
        """Take in what was submitted, sleeping only when nothing is under way. False when closed or abandoned."""
        with self._changed:
            while not (worker.active or self._submitted or self._refusal or worker.abandoned):
                self._changed.wait()
            if self._refusal or worker.abandoned:
                return False
            submitted, self._submitted = self._submitted, deque()
            worker.active += [running for running in submitted if running.begin()]
        return True

    def _advance(self, worker: _Worker, running: _Running, result: Any) -> None:
        if worker.abandoned:
            return
        try:
            goes_on = running.send(result)
        except Exception as error:
            self._failed(worker, running, error)
            return
        if not goes_on:
            self._over(worker, running)

    def _over(self, worker: _Worker, running: _Running) -> None:
        """Whatever memory a step has used is free again, for those that found none."""
        with self._changed:
            if not worker.abandoned:
                worker.active.remove(running)
                self._submitted.extend(self._postponed)
                self._postponed.clear()

    def _failed(self, worker: _Worker, running: _Running, error: Exception) -> None:
        if is_out_of_memory(error):
            self._make_room()
            with self._changed:
                # The last one is never postponed, so there is always one whose end lets the others try again.
                if running.tries < MOST_TRIES and len(worker.active) > 1 and not worker.abandoned:
                    running.begin_again()
                    worker.active.remove(running)
                    self._postponed.append(running)
                    return
        running.fail(error)
        self._over(worker, running)

    def _make_room(self) -> None:
        self._observer.out_of_memory()
        if self.recognizer.device.type == "cuda":
            torch.cuda.empty_cache()

    def _passes(self, worker: _Worker, active: list[_Running]) -> list[tuple[_Running, Any]]:
        """Run one pass of each together; those that fail together again in halves. What fails alone is left out."""
        if not active or worker.abandoned:
            return []
        wanted = [running.wanted for running in active if running.wanted is not None]
        lengths = self.recognizer.cache_lengths(wanted)
        self._observer.pass_begins(_load(wanted))
        try:
            return list(zip(active, self.recognizer.run(wanted), strict=True))
        except Exception as error:
            if len(active) == 1:
                self._failed(worker, active[0], error)
                return []
            logger.warning("%d passes failed together (%s); they run again apart.", len(active), type(error).__name__)
            if is_out_of_memory(error):
                self._make_room()
        for wish, length in zip(wanted, lengths, strict=True):
            self.recognizer.restore(wish, length)
        half = len(active) // 2
        return [*self._passes(worker, active[:half]), *self._passes(worker, active[half:])]
