"""The steps of all sessions → batches on the device.

One thread owns the model. It takes one pass from every step that is under way, runs those of a kind together, and hands
the results back; a step that is submitted meanwhile joins at the next pass (continuous batching, as Orca, Yu et al.
2022). A pass of ready tokens never waits for a queue, so a session is only ever one pass away from its turn.
"""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from qwen_asr.engine.recognizer import Pass, Recognizer
from qwen_asr.engine.streaming import Hypothesis, Step, Utterance
from qwen_asr.errors import StepFailed

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Running:
    """A step under way and the pass that it waits for (None until it was asked for the first)."""

    step: Step
    future: Future[Hypothesis]
    wanted: Pass | None = None

    def advance(self, result: Any) -> bool:
        """Give the step its result and take the pass that it needs next. False once the step is over."""
        try:
            self.wanted = self.step.send(result)
        except StopIteration as done:
            self.future.set_result(done.value)
            return False
        except Exception as error:
            self.fail(error)
            return False
        return True

    def fail(self, error: Exception) -> None:
        logger.error("A recognition step failed", exc_info=error)
        self.step.close()
        self.future.set_exception(StepFailed(explain(error)))


def explain(error: Exception) -> str:
    """One sentence for a person on why a step failed."""
    if isinstance(error, torch.OutOfMemoryError):
        return "The device ran out of memory on this utterance. Fewer sessions or a smaller checkpoint will fit."
    return f"The recogniser failed on this utterance ({type(error).__name__}). The next one goes on."


class Scheduler:
    """Runs submitted steps; safe to call from any thread. Close it, or use it as a context manager."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self._submitted: deque[_Running] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="recogniser", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, utterance: Utterance) -> Future[Hypothesis]:
        """One step over everything that `utterance` holds when the step begins.

        The caller has at most one step of an utterance under way. The future fails with `StepFailed` alone; it can be
        cancelled until the step begins.
        """
        running = _Running(utterance.step(), Future())
        with self._changed:
            if self._closed:
                running.future.set_exception(StepFailed("The recogniser was stopped."))
            else:
                self._submitted.append(running)
                self._changed.notify()
        return running.future

    def close(self) -> None:
        """Stop after the pass that is running; steps that are not over fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        active: list[_Running] = []
        while self._wait_for_work(active):
            results = self._passes(active)
            active = [running for running, result in results if running.advance(result)]
        for running in [*active, *self._submitted]:
            if running in active or running.future.set_running_or_notify_cancel():
                running.future.set_exception(StepFailed("The recogniser was stopped."))

    def _wait_for_work(self, active: list[_Running]) -> bool:
        """Take in what was submitted, sleeping only when nothing is under way. False when closed."""
        with self._changed:
            while not (active or self._submitted or self._closed):
                self._changed.wait()
            if self._closed:
                return False
            submitted, self._submitted = self._submitted, deque()
        for running in submitted:
            if running.future.set_running_or_notify_cancel() and running.advance(None):
                active.append(running)
        return True

    def _passes(self, active: list[_Running]) -> list[tuple[_Running, Any]]:
        """Run one pass of each together; if that fails, one by one, so that only the culprit's step fails."""
        wanted = [running.wanted for running in active if running.wanted is not None]
        lengths = self.recognizer.cache_lengths(wanted)
        try:
            return list(zip(active, self.recognizer.run(wanted), strict=True))
        except Exception as error:
            if len(active) == 1:
                active[0].fail(error)
                return []
        results: list[tuple[_Running, Any]] = []
        for running, wish, length in zip(active, wanted, lengths, strict=True):
            self.recognizer.restore(wish, length)
            try:
                results.append((running, self.recognizer.run([wish])[0]))
            except Exception as error:
                running.fail(error)
        return results
