"""The scheduler: runs the steps of all sessions as batches on the device.

One thread owns the model. In each iteration it runs the passes of the active steps, those of the same kind together:
first those of the frontend, then those of the encoder, then those of the decoder. So the iteration in which a step
starts brings it up to its first tokens. A step that is submitted meanwhile joins at the next iteration (continuous
batching, as in Orca, Yu et al. 2022). A step covers what its utterance holds when it starts, not when it was submitted.
If it becomes urgent later, because the utterance has ended, it starts again instead of being followed by another one.

Steps for final text start at once, and on a GPU so does every step. On a CPU a pass takes the longer the more rows it
has, so only `_STARTS` of the other steps start in an iteration, those that wait longest first: under load each takes
little time once it has started, and covers all audio that arrived while it waited.

Steps in the background, those of files, give way to the others on a CPU: while there are others, one of them is active
at most, and takes part in every `_BACKGROUND_EVERY`-th iteration only. So live speech waits for one pass of one file at
most, however many there are, and files still advance. On a GPU they only make a pass wider, which costs it little.

The passes of the aligner, for the times of words, run last in an iteration, together. Those of an aligner that is slow
on this device are background work too, and run one clip at a time. A pass takes as long as many of the others, so it
waits until nothing else is active, or for `_SLOW_EVERY` iterations.

Another thread hands the hypotheses over and runs the callbacks, so that the model never waits for what is done with
the text.

A failure stays with its step. Passes that fail together run again in halves, so that only the step that causes the
failure fails, and so that passes which do not fit into memory together run one after another. A step that does not fit
even alone waits until another one ends, and starts again.
"""

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, cast, get_args

import torch

from qwen_asr.engine.decoder.kv_pool import PoolFull
from qwen_asr.engine.device.out_of_memory import is_out_of_memory
from qwen_asr.engine.device.torch_thread import TorchThread
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineUtterance
from qwen_asr.engine.observer import Observer, PassSize
from qwen_asr.engine.recognizer import Align, Encode, Pass, Predict, Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import QwenASRError, StepFailed

logger = logging.getLogger(__name__)

_STARTS = {"cpu": 2}
"""How many steps that are not urgent start in an iteration, by the type of the device. Not listed: all."""
_BACKGROUND_EVERY = 4
"""In which iterations a step in the background takes part while there are others."""
_SLOW_EVERY = 64
"""Likewise for an alignment: live text stands still while it runs, for seconds at the true size of the models."""
MAX_TRIES = 3
"""How often a step without enough memory is tried before it fails."""
FRAME = 160
"""Samples in a log-mel frame, by which the watchdog measures the work of a pass."""
_JOIN_SECONDS = 5.0  # how long `close` waits for a thread, so that one that hangs does not block the process's exit


class _Outcome(Protocol):
    """How a step ends on the thread that owns the model. `parse`, on another one, makes of it what the future gets."""

    def parse(self) -> Any: ...


class _Work(Protocol):
    """What a step is a step of: an utterance, or an alignment. A step may start again from its beginning."""

    background: bool

    def step(self) -> Generator[Pass, Any, _Outcome]: ...


class _Alignment:
    """The alignment of a clip, in one step of one pass. It is its own outcome: the words."""

    def __init__(self, clip: Clip, background: bool) -> None:
        self.background = background
        self._clip = clip
        self._words: tuple[Word, ...] = ()

    def step(self) -> Generator[Pass, Any, _Outcome]:
        self._words = yield Align(self._clip)
        return self

    def parse(self) -> tuple[Word, ...]:
        return self._words


class _ActiveStep:
    """An active step, and the pass that it waits for: None until the step has started."""

    def __init__(self, work: _Work, on_start: Callable[[], None] | None, is_urgent: Callable[[], bool]) -> None:
        self.is_urgent = is_urgent
        self.urgent = False  # what `is_urgent` said last; it is not asked again after a yes
        self.future: Future[Any] = Future()
        self.next_pass: Pass | None = None
        self.background = work.background
        self.is_alignment = isinstance(work, _Alignment)
        self.tries = 1
        self._work = work
        self._on_start = on_start
        self._step = work.step()
        self._ended: _Outcome
        # Log entries and callbacks get the context of the submitter, not that of the thread they run on.
        self._context = contextvars.copy_context()
        self._outcome_lock = threading.Lock()
        self._started = False
        self._outcome_set = False

    def start(self) -> bool:
        """Mark the step as started: it can no longer be cancelled. False if it was cancelled. May be called again."""
        if not self._started:
            self._started = self.future.set_running_or_notify_cancel()
        return self._started

    def send(self, result: Any) -> bool:
        """Send the step a result and take its next pass. False when the step has ended. Raises the step's error.

        A step can be restarted at any point: the utterance keeps what its steps completed and drops the rest.
        """
        if self.next_pass is None and self._on_start is not None:
            self._context.copy().run(self._on_start)
        try:
            self.next_pass = self._step.send(result)
        except StopIteration as done:
            self._ended = done.value
            return False
        return True

    def conclude(self) -> None:
        """Give the submitter the result of a step that has ended. Runs on the thread for results."""
        try:
            result = self._ended.parse()
        except Exception as error:
            self.fail(error)
            return
        self._set_outcome(lambda: self.future.set_result(result))

    def stop(self) -> None:
        """Drop what the step has not completed. Only the thread that runs the step may call it."""
        self._step.close()

    def restart(self) -> None:
        """Start the step again from its beginning."""
        self._step.close()
        self._step = self._work.step()
        self.next_pass = None

    def fail(self, error: Exception) -> None:
        """Report a failure to the log and the submitter."""
        self._context.copy().run(logger.error, "A recognition step failed", exc_info=error)
        self.abort(explain(error))

    def abort(self, sentence: str) -> None:
        """End the step for its submitter with `StepFailed`. A thread that is still in the step is left alone."""
        if self.start():
            self._set_outcome(lambda: self.future.set_exception(StepFailed(sentence)))

    def _set_outcome(self, outcome: Any) -> None:
        """Set the outcome once: a thread that was abandoned may still return a result, which is ignored."""
        with self._outcome_lock:
            if self._outcome_set:
                return
            self._outcome_set = True
        # Only one thread at a time can enter a context, and one that hangs may be in this one: use a copy.
        self._context.copy().run(outcome)


class _Results:
    """A thread that calls what it is given, in that order: it sets the outcomes of steps, and so runs callbacks."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._delivering = False
        self._start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def put(self, outcome: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(outcome)
            self._changed.notify_all()

    def replace(self) -> list[threading.Thread]:
        """Let another thread go on after the outcome that is being delivered. Returns the thread that delivers it."""
        with self._changed:
            if not self._delivering:
                return []
            hanging = self._thread
            self._start()
            return [hanging]

    def close(self, seconds: float) -> None:
        """Stop after the outcomes that were put; wait for them for at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _start(self) -> None:
        self._delivering = False
        self._thread = threading.Thread(target=self._run, name="recognizer-results", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (outcome := self._take()) is not None:
            try:
                outcome()
            except Exception:  # one session's fault must not stop the others' texts
                logger.exception("The outcome of a recognition step could not be delivered.")

    def _take(self) -> Callable[[], None] | None:
        """Wait for the next outcome. None if there is no more, or if another thread has replaced this one."""
        with self._changed:
            if self._thread is not threading.current_thread():
                return None
            if self._delivering:
                self._observer.delivery_ended()
            self._delivering = False
            while not (self._waiting or self._closed):
                self._changed.wait()
            if not self._waiting:
                return None
            self._delivering = True
            self._observer.delivery_started()
            return self._waiting.popleft()


class _Worker:
    """A thread that owns the model, and its active steps. `abandoned`: it no longer owns the model."""

    def __init__(self) -> None:
        self.active: list[_ActiveStep] = []
        self.held_back = 0  # iterations since a step in the background took part
        self.abandoned = False
        self.thread: threading.Thread


def explain(error: Exception) -> str:
    """One sentence for people that says why a step failed."""
    if is_out_of_memory(error):
        return "The device ran out of memory on this utterance. Fewer sessions or a smaller checkpoint will fit."
    if isinstance(error, QwenASRError):
        return str(error)
    return f"The recognizer failed on this utterance ({type(error).__name__}). The next one goes on."


def _pass_size(passes: list[Pass]) -> PassSize:
    frames = positions = 0
    for one in passes:
        if isinstance(one, Encode):
            frames += sum(window.frames.shape[1] for window in one.windows)
        elif isinstance(one, Predict):
            positions += one.row.positions
        elif isinstance(one, Align):
            spoken = len(one.clip.samples) // FRAME
            frames += spoken
            positions += spoken * 13 // 100 + len(one.clip.text)  # an aligner's pass reads 13 positions a second
    return PassSize(rows=len(passes), frames=frames, positions=positions)


class Scheduler:
    """Runs submitted steps. Any thread may call it. Close it, or use it as a context manager."""

    def __init__(self, recognizer: Recognizer, observer: Observer | None = None) -> None:
        self.recognizer = recognizer
        self._observer = observer or Observer()
        self._submitted: deque[_ActiveStep] = deque()
        self._postponed: deque[_ActiveStep] = deque()  # without enough memory, until another step ends
        self._changed = threading.Condition()
        self._refusal: str | None = None  # why no more steps are accepted
        self._results = _Results(self._observer)
        self._worker = self._new_worker()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether a thread accepts steps, and another hands over their results."""
        return self._worker.thread.is_alive() and not self._worker.abandoned and self._results.alive

    def submit(
        self,
        utterance: EngineUtterance,
        on_start: Callable[[], None] | None = None,
        is_urgent: Callable[[], bool] = lambda: True,
    ) -> Future[Hypothesis]:
        """Run one step over all samples that `utterance` has when the step starts.

        `on_start` is called when the step starts, or starts again, and may append samples. The step fails with what it
        raises. `is_urgent` says whether the step starts before those that wait longer, or, once it has started, whether
        it must start again. It is asked until it has said yes, and must not raise. Both run on the thread that owns the
        model, so they must return at once.

        Submit at most one step of an utterance at a time. The future fails with `StepFailed` only, and can be cancelled
        until the step starts. Its callbacks run on a thread for results, those of a session in order. After a failed
        step, drop the utterance: an abandoned thread may still use it.
        """
        running = _ActiveStep(cast("Utterance", utterance), on_start, is_urgent)
        self._observer.step_started(running)
        running.future.add_done_callback(self._report_end(running))
        return self._submit(running)

    def align(self, clip: Clip, *, background: bool = False) -> Future[tuple[Word, ...]]:
        """Find the words of a clip, with times from its first sample; see `WordAligner.align_words`.

        `background` is as in `Utterance`. The future is like that of `submit`. Raises `RuntimeError` if the recognizer
        has no aligner.
        """
        if self.recognizer.aligner is None:
            raise RuntimeError("The recognizer has no aligner.")
        background = background or not self.recognizer.aligner.is_quick
        return self._submit(_ActiveStep(_Alignment(clip, background), None, lambda: True))

    def _submit(self, running: _ActiveStep) -> Future[Any]:
        with self._changed:
            refusal = self._refusal
            if refusal is None:
                self._submitted.append(running)
                self._changed.notify_all()
        if refusal is not None:
            running.abort(refusal)
        return running.future

    def close(self) -> None:
        """Stop after the running pass; unfinished steps fail. A thread that hangs is abandoned after some seconds."""
        with self._changed:
            self._refusal = self._refusal or "The recognizer was stopped."
            self._changed.notify_all()
        self._worker.thread.join(_JOIN_SECONDS)
        if self._worker.thread.is_alive():
            self.abandon("The recognizer was stopped.", replace=False)
        self._results.close(_JOIN_SECONDS)

    def abandon(self, sentence: str, *, replace: bool) -> list[threading.Thread]:
        """Abandon the running pass and its thread: its steps fail with `sentence`. Returns the thread, if any.

        With `replace`, another thread continues with the other steps. That is safe on the CPU: the weights are only
        read, and the thread that hangs uses nothing else but utterances that were dropped. It is not safe on a GPU,
        where the device itself hangs. Without `replace`, all steps fail and no more are accepted.
        """
        with self._changed:
            hanging = self._worker
            if hanging.abandoned or not hanging.active:
                return []
            hanging.abandoned = True
            lost = list(hanging.active)
            if replace:
                self._submit_postponed()
                self._worker = self._new_worker()
            else:
                self._refusal = sentence
                lost += [*self._submitted, *self._postponed]
                self._submitted.clear()
                self._postponed.clear()
            self._changed.notify_all()
        for running in lost:
            running.abort(sentence)
        return [hanging.thread]

    def replace_results(self) -> list[threading.Thread]:
        """Abandon the callback that runs now: another thread goes on with the results of the other steps.

        Returns the thread that still runs it, if any. That thread touches no model, so this is safe on every device.
        Only the session that the callback belongs to may wait for its text.
        """
        return self._results.replace()

    def _report_end(self, running: _ActiveStep) -> Any:
        def report(done: Future[Any]) -> None:
            self._observer.step_ended(running, done.cancelled() or done.exception() is not None)

        return report

    def _new_worker(self) -> _Worker:
        worker = _Worker()
        worker.thread = TorchThread(self._run, worker, name="recognizer")
        worker.thread.start()
        return worker

    def _run(self, worker: _Worker) -> None:
        while self._wait_for_work(worker):
            self._observer.iteration_started()
            for running in worker.active:
                if not running.urgent and running.is_urgent():
                    running.urgent = True
                    running.restart()
            resting = self._resting(worker)
            for running in [running for running in worker.active if running.next_pass is None]:
                if running not in resting:
                    self._advance(worker, running, None)
            for kind in get_args(Pass):  # in the order in which a step needs them, so that it can take one of each
                waiting = [
                    running
                    for running in worker.active
                    if isinstance(running.next_pass, kind) and running not in resting
                ]
                if kind is Align and self._aligns_slowly:
                    del waiting[1:]  # so that live speech waits for one clip at most
                for running, result in self._passes(worker, waiting):
                    self._advance(worker, running, result)
            with self._changed:
                if worker.abandoned:
                    return
                self._observer.iteration_ended()
        with self._changed:
            if worker.abandoned:
                return
            left = [*worker.active, *self._postponed, *self._submitted]
        for running in left:
            running.abort(self._refusal or "The recognizer was stopped.")

    def _wait_for_work(self, worker: _Worker) -> bool:
        """Activate submitted steps, waiting only while none is active. False when closed or abandoned."""
        with self._changed:
            while not (worker.active or self._submitted or self._refusal or worker.abandoned):
                self._changed.wait()
            if self._refusal or worker.abandoned:
                return False
            waiting, self._submitted = self._submitted, deque()
            left = _STARTS.get(self.recognizer.device.type, len(waiting))
            room = len(waiting)  # for steps in the background
            if self._gives_way([*worker.active, *waiting]):
                room = 1 - sum(running.background for running in worker.active)
            for running in waiting:
                running.urgent = running.is_urgent()
                if not (room > 0 if running.background else running.urgent or left > 0):
                    self._submitted.append(running)
                elif running.start():
                    worker.active.append(running)
                    room -= running.background
                    left -= not (running.urgent or running.background)
        return True

    @property
    def _aligns_slowly(self) -> bool:
        return self.recognizer.aligner is not None and not self.recognizer.aligner.is_quick

    def _gives_way(self, steps: list[_ActiveStep]) -> bool:
        """Whether those of the steps that are in the background give way to others."""
        return self.recognizer.device.type in _STARTS and not all(running.background for running in steps)

    def _resting(self, worker: _Worker) -> list[_ActiveStep]:
        """The active steps in the background that take no part in this iteration."""
        background = [running for running in worker.active if running.background]
        if not (background and self._gives_way(worker.active)):
            worker.held_back = 0
            return []
        worker.held_back += 1
        if worker.held_back < (_SLOW_EVERY if background[0].is_alignment else _BACKGROUND_EVERY):
            return background
        worker.held_back = 0
        return background[1:]

    def _advance(self, worker: _Worker, running: _ActiveStep, result: Any) -> None:
        if worker.abandoned:
            return
        try:
            active = running.send(result)
        except Exception as error:
            self._failed(worker, running, error)
            return
        if not active:
            self._remove(worker, running)
            self._results.put(running.conclude)

    def _remove(self, worker: _Worker, running: _ActiveStep) -> None:
        """Remove a step that has ended. Its memory is free again, so steps that had not enough start again."""
        with self._changed:
            if not worker.abandoned:
                worker.active.remove(running)
                self._submit_postponed()

    def _submit_postponed(self) -> None:
        self._submitted.extendleft(reversed(self._postponed))  # they have waited longest
        self._postponed.clear()

    def _failed(self, worker: _Worker, running: _ActiveStep, error: Exception) -> None:
        if is_out_of_memory(error):
            full = isinstance(error, PoolFull)
            if not full:
                self._free_memory()
            with self._changed:
                # The last active step is never postponed, so there is always one whose end restarts the others. While
                # the KV pool is full a step only waits: it is never failed for the others' sake.
                if (full or running.tries < MAX_TRIES) and len(worker.active) > 1 and not worker.abandoned:
                    running.restart()
                    running.tries += 1
                    worker.active.remove(running)
                    self._postponed.append(running)
                    return
        running.stop()
        self._remove(worker, running)
        self._results.put(partial(running.fail, error))

    def _free_memory(self) -> None:
        self._observer.out_of_memory()
        if self.recognizer.device.type == "cuda":
            torch.cuda.empty_cache()

    def _passes(self, worker: _Worker, active: list[_ActiveStep]) -> list[tuple[_ActiveStep, Any]]:
        """Run one pass of each step together; those that fail run again in halves. What fails alone is left out."""
        if not active or worker.abandoned:
            return []
        passes = [running.next_pass for running in active if running.next_pass is not None]
        lengths = self.recognizer.cache_lengths(passes)
        self._observer.pass_started(_pass_size(passes))
        try:
            return list(zip(active, self.recognizer.run(passes), strict=True))
        except Exception as error:
            if len(active) == 1:
                self._failed(worker, active[0], error)
                return []
            logger.warning(
                "%d passes failed together (%s); running them again in halves.", len(active), type(error).__name__
            )
            if is_out_of_memory(error):
                self._free_memory()
        for one, length in zip(passes, lengths, strict=True):
            self.recognizer.restore(one, length)
        half = len(active) // 2
        return [*self._passes(worker, active[:half]), *self._passes(worker, active[half:])]
