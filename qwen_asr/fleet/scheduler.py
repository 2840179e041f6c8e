"""`RemoteScheduler`: an `Engine` whose model runs in other processes. It needs no torch.

The samples of each utterance stay here, so an engine in another process is only a cache: if it dies, another one gets
all samples of the utterance, and nothing is lost. A step is a call, which is made again until it is answered:

- The engine is gone, or drains: the call is made again with all samples, and goes to another engine.
- The engine has fewer samples than the call says, because it was restarted or has forgotten: it is sent the rest.
- An answer is late: nothing happens. A slow engine must not get double load.
- No engine is there: live speech waits for one as long as its session lasts, a file for `PATIENCE_SECONDS`.
- A step becomes urgent, because its utterance has ended: it is called again, with what has come meanwhile.

One thread makes all calls, and calls `on_start`. Others run the callbacks of results.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from qwen_asr import errors
from qwen_asr.engine.decoder.drafts import Beginning
from qwen_asr.errors import NotReady, QwenASRError, StepFailed
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.host import UNKNOWN
from qwen_asr.fleet.messages import (
    AlignerInfo,
    AlignRequest,
    CheckRequest,
    CloseRequest,
    Done,
    Draining,
    Empty,
    Have,
    Refused,
    Reply,
    Request,
    Words,
)
from qwen_asr.fleet.utterance import RemoteUtterance

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import EngineInfo, EngineUtterance, NewUtterance
    from qwen_asr.engine.words import Clip, Word
    from qwen_asr.fleet.calls import Calls

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long a step is called again that was sent to engines which did not answer: it may be what they die of. An engine
on a GPU is back half a minute after it died, and until then the session only lags."""
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0
"""Seconds before a call is made again; they double each time."""
URGENCY_SECONDS = 0.02
"""How often steps under way are asked whether they have become urgent."""
CHECK_SECONDS = 10.0
"""How long `check_room` waits for an answer."""
RESULT_THREADS = 4
"""How many threads run the callbacks of results. As many may hang before the other sessions wait."""
JOIN_SECONDS = 5.0
"""How long `close` waits for threads, so that one that hangs does not keep the process from ending."""


NONE_THERE = "Waiting for an engine: none can be reached now."
"""For everybody. Which engines, and why they cannot be reached, is in the log, for whoever runs the server."""


class RemoteAligner:
    """The aligner of the engines, as far as a session has to know it."""

    def __init__(self, info: AlignerInfo) -> None:
        self._info = info

    @property
    def name(self) -> str:
        """Its name for people."""
        return self._info.name

    @property
    def is_quick(self) -> bool:
        """Whether the times come so soon that a final can wait for them."""
        return self._info.is_quick

    def why_not(self, language: str | None) -> str | None:
        """Why text in this language cannot be aligned, as a sentence; None if it can."""
        info = self._info
        if language is None or language in info.known:
            return None
        return info.reasons.get(language) or info.other.replace(UNKNOWN, language) or None


class _Task:
    """What is called until it is answered: a step, or an alignment. Only the calling thread uses it, but for `future`.

    `attempt` tells an answer that is awaited from one to an earlier call. `deadline`: when it is given up. `is_live`:
    whether it is of live speech, which nobody can send again.
    """

    is_live = False

    def __init__(self, key: str) -> None:
        self.key = key
        self.future: Future[Any] = Future()
        self.attempt = 0
        self.wait = FIRST_WAIT
        self.deadline: float | None = None
        self.context = contextvars.copy_context()  # log entries and callbacks get that of the submitter
        self.started = False

    def start(self) -> bool:
        """Mark it as started: it can no longer be cancelled. False if it was cancelled."""
        if not self.started:
            self.started = self.future.set_running_or_notify_cancel()
        return self.started

    @property
    def dropped(self) -> bool:
        """Whether nobody wants the result any more."""
        return False

    def request(self) -> Request:
        """What to call with now."""
        raise NotImplementedError

    def result(self, reply: Reply) -> Any:
        """The result; None if the engine needs more, at once. Raises `EngineLost` for what is no answer."""
        raise NotImplementedError

    def lost(self) -> None:
        """The engine is gone."""


class _Alignment(_Task):
    def __init__(self, clip: Clip, background: bool) -> None:
        super().__init__(secrets.token_hex(8))  # any engine will do
        self._request = AlignRequest(clip, background)

    def request(self) -> Request:
        return self._request

    def result(self, reply: Reply) -> tuple[Word, ...]:
        if not isinstance(reply, Words):
            raise _no_answer(reply)
        return reply.words


class _Step(_Task):
    def __init__(
        self, utterance: RemoteUtterance, on_start: Callable[[], None] | None, is_urgent: Callable[[], bool]
    ) -> None:
        super().__init__(utterance.uid)
        self.is_live = not utterance.background
        self._utterance = utterance
        self._on_start = on_start
        self._is_urgent = is_urgent
        self._offset = self._length = 0  # of the last request: from where its samples are, and how many there are then
        self.urgent = False

    @property
    def dropped(self) -> bool:
        return self._utterance.closed

    def becomes_urgent(self) -> bool:
        """Whether it was not urgent and is now; it is not asked again after a yes."""
        if self.urgent or not self._is_urgent():
            return False
        self.urgent = True
        return True

    def request(self) -> Request:
        self.becomes_urgent()
        if self._on_start is not None:
            self.context.copy().run(self._on_start)  # may append samples
        request = self._utterance.request(self.urgent)
        self._offset, self._length = request.offset, request.offset + len(request.samples)
        return request

    def result(self, reply: Reply) -> Hypothesis | None:
        if isinstance(reply, Have) and reply.have < self._offset:
            self._utterance.has_fewer(reply.engine, reply.have)
            return None
        if not isinstance(reply, Done) or reply.hypothesis.samples != self._length:
            raise _no_answer(reply)
        self._utterance.confirmed(reply.engine, self._length)
        self._utterance.recognized(reply.hypothesis)
        return reply.hypothesis

    def lost(self) -> None:
        self._utterance.lost()


def _no_answer(reply: Reply) -> EngineLost:
    """Why a reply does not answer the request."""
    if isinstance(reply, Draining):
        return EngineLost("The engine is about to stop.")
    return EngineLost(f"The engine has answered with {type(reply).__name__}.")


class _Results:
    """Threads that call what they are given. One that hangs keeps neither the others nor the process's end waiting."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"fleet-results-{number}", daemon=True)
            for number in range(RESULT_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, todo: Callable[[], object]) -> None:
        self._todo.put(todo)

    def close(self) -> None:
        """Stop after what was put."""
        for _ in self._threads:
            self._todo.put(None)
        until = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0.0))

    def _run(self) -> None:
        while (todo := self._todo.get()) is not None:
            try:
                todo()
            except Exception:  # one session's fault must not stop the others' texts
                log.exception("The result of a recognition step could not be delivered.")


class RemoteScheduler:
    """See `engine.interface.Engine`. `calls` reaches the engines, and is closed with this.

    patience_seconds: how long a step is called again that engines do not answer, or, of a file, while there is none.
    """

    def __init__(self, calls: Calls, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._calls = calls
        self._patience = patience_seconds
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # the calling thread's
        self._order = itertools.count()
        self._under_way: set[_Task] = set()  # likewise
        self._closed = False
        self._closing = threading.Lock()
        self._asking = False  # whether `_ask_urgency` is due
        self._busy = 0.0
        self._busy_since: float | None = None
        self._results = _Results()
        self._check = lru_cache(maxsize=256)(self._check_once)
        self._thread = threading.Thread(target=self._run, name="fleet-calls", daemon=True)
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self._calls.hello.info

    @property
    def aligner(self) -> RemoteAligner | None:
        """See `SpeechModel`."""
        aligner = self._calls.hello.aligner
        return None if aligner is None else RemoteAligner(aligner)

    @property
    def kv_cache_used(self) -> float | None:
        """Unknown: each engine tells its own, at `/metrics`."""
        return None

    @property
    def busy_seconds(self) -> float:
        """How long steps or alignments were under way, in total."""
        since = self._busy_since
        return self._busy + (time.monotonic() - since if since is not None else 0.0)

    @property
    def times_without_memory(self) -> int:
        """Always 0: each engine tells its own, at `/metrics`."""
        return 0

    @property
    def short_of_memory(self) -> bool:
        """Never: an engine that is short of memory is slow, not full."""
        return False

    def out_of_memory(self) -> None:
        """See `Engine`; here a session needs no memory but that of its samples."""

    def unavailable_reason(self) -> str | None:
        """See `Engine`."""
        return NONE_THERE if self._calls.unavailable_reason() else None

    def unhealthy_reason(self) -> str | None:
        """See `Engine`: no restart of this process would bring an engine back."""
        return None if self._thread.is_alive() or self._closed else "The thread that calls the engines has ended."

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        """See `SpeechModel`. Waits for an engine's answer, unless it has given the same one before.

        Raises `NotReady` if none answers in time.
        """
        self._check(seconds, max_new_tokens, context, language)

    def utterances(self, *, background: bool, scored: bool, draft: Sequence[int] = ()) -> NewUtterance:
        """See `SpeechModel`."""
        return partial(
            RemoteUtterance, self._forget, scored=scored, background=background, beginning=Beginning(list(draft))
        )

    def submit(
        self,
        utterance: EngineUtterance,
        on_start: Callable[[], None] | None = None,
        is_urgent: Callable[[], bool] = lambda: True,
    ) -> Future[Hypothesis]:
        """See `engine.scheduler.Scheduler.submit`. The step starts when it is sent, and each time it is sent again."""
        return self._submit(_Step(cast("RemoteUtterance", utterance), on_start, is_urgent))

    def align(self, clip: Clip, *, background: bool = False) -> Future[tuple[Word, ...]]:
        """See `engine.scheduler.Scheduler.align`."""
        if self._calls.hello.aligner is None:
            raise RuntimeError("The engines have no aligner.")
        return self._submit(_Alignment(clip, background))

    def close(self) -> None:
        """See `Engine`."""
        with self._closing:
            self._closed = True
            self._todo.put(None)
        self._thread.join(JOIN_SECONDS)
        self._calls.close()
        self._results.close()

    def _submit(self, task: _Task) -> Future[Any]:
        with self._closing:  # what is put before the end is called
            closed = self._closed
            if not closed:
                self._todo.put(partial(self._call, task))
        if closed:
            task.start()
            task.future.set_exception(StepFailed("The recognizer was stopped."))
        return task.future

    def _forget(self, uid: str) -> None:
        """Tell the engine that an utterance is over. If that is lost, it forgets it a little later by itself."""
        self._todo.put(lambda: self._tell(CloseRequest(uid), uid))

    def _tell(self, request: Request, key: str) -> None:
        try:
            self._calls.call(request, key)
        except (EngineLost, NoEngine) as error:
            log.debug("An engine was not told that an utterance is over: %s", error)

    # --- the calling thread

    def _run(self) -> None:
        while True:
            seconds = self._timers[0][0] - time.monotonic() if self._timers else None
            if seconds is not None and seconds <= 0:
                todo: Callable[[], None] | None = heapq.heappop(self._timers)[2]
            else:
                try:
                    todo = self._todo.get(timeout=seconds)
                except queue.Empty:
                    continue
            if todo is None:
                break
            try:
                todo()
            except Exception:  # one session's fault must not stop the others' texts
                log.exception("A call to an engine could not be made.")
        for task in list(self._under_way):
            self._fail(task, "The recognizer was stopped.")

    def _later(self, seconds: float, todo: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), todo))

    def _call(self, task: _Task) -> None:
        """Make the call, for the first time or again."""
        if not task.start():
            return
        if task.dropped:
            self._fail(task, "Nobody waits for this step any more.")
            return
        if not self._under_way:
            self._busy_since = time.monotonic()
        if not self._asking:
            self._asking = True
            self._later(URGENCY_SECONDS, self._ask_urgency)
        self._under_way.add(task)
        task.attempt += 1
        try:
            call = self._calls.call(task.request(), task.key)
        except (EngineLost, NoEngine) as error:
            self._again(task, error)
        except Exception as error:
            task.context.copy().run(log.error, "A recognition step failed", exc_info=error)
            self._fail(task, str(error) if isinstance(error, QwenASRError) else "The recognizer failed on this part.")
        else:
            answered = partial(self._answered, task, task.attempt)
            call.add_done_callback(lambda done: self._todo.put(partial(answered, done)))

    def _answered(self, task: _Task, attempt: int, call: Future[Reply]) -> None:
        if attempt != task.attempt or task not in self._under_way:
            return  # it was called again meanwhile, and that answer counts
        error = EngineLost("The call was dropped.") if call.cancelled() else call.exception()
        if isinstance(error, EngineLost | NoEngine):
            self._again(task, error)
            return
        if error is not None:
            task.context.copy().run(log.error, "A recognition step failed", exc_info=error)
            self._fail(task, "The recognizer failed on this part; the log says why.")
            return
        reply = call.result()
        if isinstance(reply, Refused):
            self._fail(task, reply.message)
            return
        try:
            result = task.result(reply)
        except EngineLost as lost:
            self._again(task, lost)
            return
        if result is None:
            self._call(task)
            return
        self._end(task)
        self._results.put(partial(task.context.copy().run, task.future.set_result, result))

    def _again(self, task: _Task, error: QwenASRError) -> None:
        """Call again a little later, with all samples, unless that went on for too long."""
        task.lost()
        if not (task.is_live and isinstance(error, NoEngine)):
            now = time.monotonic()
            task.deadline = task.deadline or now + self._patience
            if now >= task.deadline:
                task.context.copy().run(log.warning, "A step was given up after %g s: %s", self._patience, error)
                self._fail(task, f"No engine has answered for {self._patience:g} seconds.")
                return
        wait, task.wait = task.wait, min(2 * task.wait, LONGEST_WAIT)
        attempt = task.attempt
        self._later(wait, lambda: self._call(task) if task.attempt == attempt and task in self._under_way else None)

    def _ask_urgency(self) -> None:
        """Calls again what has become urgent meanwhile."""
        for task in [task for task in self._under_way if isinstance(task, _Step) and task.becomes_urgent()]:
            self._call(task)
        self._asking = bool(self._under_way)
        if self._asking:
            self._later(URGENCY_SECONDS, self._ask_urgency)

    def _end(self, task: _Task) -> None:
        self._under_way.discard(task)
        if not self._under_way and self._busy_since is not None:
            self._busy, self._busy_since = self.busy_seconds, None

    def _fail(self, task: _Task, sentence: str) -> None:
        if task.start():
            self._end(task)
            self._results.put(partial(task.context.copy().run, task.future.set_exception, StepFailed(sentence)))

    # --- any thread

    def _check_once(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        request = CheckRequest(seconds, max_new_tokens, context, language)
        until, wait = time.monotonic() + CHECK_SECONDS, FIRST_WAIT
        while True:
            try:
                call = self._calls.call(request, secrets.token_hex(8))  # any engine will do
                try:
                    reply = call.result(max(until - time.monotonic(), 0.0))
                finally:
                    call.cancel()  # does nothing once it is answered
                if isinstance(reply, Empty):
                    return
                if not isinstance(reply, Refused):
                    raise _no_answer(reply)
            except (EngineLost, NoEngine, TimeoutError) as error:
                if time.monotonic() + wait > until:
                    sentence = self.unavailable_reason() or "No engine has answered in time: try again a little later."
                    raise NotReady(sentence) from error
            else:
                raise _error(reply)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _error(refused: Refused) -> QwenASRError:
    """What the engine raised."""
    kind: Any = getattr(errors, refused.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, QwenASRError)) or kind is errors.BadField:
        kind = QwenASRError  # `BadField` takes more than a sentence
    error: QwenASRError = kind(refused.message)
    return error
