"""`EngineHost`: an engine that serves utterances whose samples come from other processes, message by message.

It keeps a copy of the samples of each utterance, inside the engine's own utterance. After each `StepRequest` that is
its first `offset` samples, then `samples`. A request that comes while a step of the utterance is under way does not
wait for it: the step takes the new samples when it starts. One that has started is started again, unless its samples
are those of the request: then an answer was lost, and its result is that of the request too.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.engine.languages import LANGUAGES
from qwen_asr.errors import BadInput, QwenASRError, StepFailed
from qwen_asr.fleet.messages import (
    VERSION,
    AlignerInfo,
    AlignRequest,
    CheckRequest,
    CloseRequest,
    Done,
    Draining,
    Empty,
    Have,
    Hello,
    HelloRequest,
    Refused,
    Reply,
    Request,
    Settings,
    StepRequest,
    Superseded,
    Words,
)

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import EngineUtterance, LoadedModel
    from qwen_asr.engine.words import Aligner

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""An utterance that nobody asked about for so long is forgotten: its scheduler has gone, or it is asked of another."""
MOST_UTTERANCES = 2048
"""How many utterances are kept; beyond it, those that were idle longest are forgotten. Each holds at most some MB."""
MOST_FORGOTTEN = 8192
"""Of how many forgotten utterances the last request's number is kept, so that none returns with an older one."""


@dataclass(eq=False)
class _Held:
    """An utterance that is kept for a scheduler. Everything is guarded by the host's lock."""

    uid: str
    utterance: EngineUtterance
    number: int = 0  # of the newest request
    length: int = 0  # samples after the newest request
    used: float = 0.0  # when that came
    urgent: bool = False  # whether the step under way has to start, or to start again
    running: Future[Hypothesis] | None = None
    covered: NDArray[np.float32] | None = None  # the samples of the step under way, once it has started
    newer: list[StepRequest] = field(default_factory=list)  # not yet in `utterance`, because a step is under way
    waiting: list[tuple[int, Future[Reply]]] = field(default_factory=list)  # the number of each request, and its answer


class EngineHost:
    """Answers the requests of schedulers in other processes. Any thread may call it.

    engine: runs the steps. idle_seconds, most_utterances: what is kept at most. engine_id: new for each host, so that a
    scheduler can tell a restarted engine from the one before. The host does not close the engine. `clock` is for tests.
    """

    def __init__(
        self,
        engine: LoadedModel,
        *,
        idle_seconds: float = IDLE_SECONDS,
        most_utterances: int = MOST_UTTERANCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine_id = secrets.token_hex(8)
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._most_utterances = most_utterances
        self._clock = clock
        self._lock = threading.RLock()  # again, where a callback of a future runs at once
        self._idle = threading.Condition(self._lock)
        self._held: dict[str, _Held] = {}  # in the order of use
        self._forgotten: dict[str, int] = {}  # the number of the last request of utterances that were forgotten
        self._under_way = 0  # steps and alignments
        self._draining = False

    def call(self, request: Request) -> Future[Reply]:
        """Answer a request. Takes milliseconds, and never raises: what fails is answered with `Refused`.

        A step that is asked for becomes part of the engine's batches. Cancelling the future says that nobody waits for
        the answer any more: the utterance is forgotten, and a step that has not started is dropped. Callbacks of the
        future must return at once: the other utterances wait for them.
        """
        reply: Future[Reply] = Future()
        try:
            self._answer(request, reply)
        except Exception as error:
            _set(reply, _refused(error))
        return reply

    def hello(self) -> Hello:
        """Who this engine is."""
        return Hello(self.engine_id, self._engine.info, describe_aligner(self._engine.aligner))

    def drain(self) -> None:
        """From now on, answer what would begin a step with `Draining`. What is under way ends as ever."""
        with self._lock:
            self._draining = True

    @property
    def busy(self) -> bool:
        """Whether a step or an alignment is under way."""
        return self._under_way > 0

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing is under way, for at most so many seconds; returns whether that is so."""
        with self._idle:
            return self._idle.wait_for(lambda: not self.busy, seconds)

    def close(self) -> None:
        """Forget all utterances. Requests that wait are answered with `Draining`."""
        with self._lock:
            self._draining = True
            for held in list(self._held.values()):
                self._forget(held, Draining())

    def __len__(self) -> int:
        """How many utterances are kept."""
        return len(self._held)

    def _answer(self, request: Request, reply: Future[Reply]) -> None:
        if isinstance(request, StepRequest):
            self._step(request, reply)
        elif isinstance(request, CloseRequest):
            with self._lock:
                if (held := self._held.get(request.uid)) is not None:
                    self._forget(held, Superseded())
            _set(reply, Empty())
        elif isinstance(request, AlignRequest):
            self._align(request, reply)
        elif isinstance(request, CheckRequest):
            self._engine.check_room(request.seconds, request.max_new_tokens, request.context, request.language)
            _set(reply, Empty())
        elif isinstance(request, HelloRequest):
            if request.version != VERSION:
                raise BadInput(
                    f"The scheduler speaks version {request.version} of the messages, and this engine version "
                    f"{VERSION}: run the same version of the program on both sides."
                )
            _set(reply, self.hello())

    def _align(self, request: AlignRequest, reply: Future[Reply]) -> None:
        with self._lock:
            if self._draining:
                _set(reply, Draining())
                return
            self._under_way += 1
        try:
            words = self._engine.align(request.clip, background=request.background)
        except Exception:
            self._ended()
            raise

        def done(future: Future[Any]) -> None:
            self._ended()
            error = StepFailed("The recognizer was stopped.") if future.cancelled() else future.exception()
            _set(reply, Words(future.result()) if error is None else _refused(error))

        words.add_done_callback(done)
        reply.add_done_callback(lambda answered: words.cancel() if answered.cancelled() else None)

    def _ended(self) -> None:
        with self._idle:
            self._under_way -= 1
            self._idle.notify_all()

    def _step(self, request: StepRequest, reply: Future[Reply]) -> None:
        with self._lock:
            held = self._held.get(request.uid)
            if request.number < (self._forgotten.get(request.uid, 0) if held is None else held.number):
                _set(reply, Superseded())
                return
            if self._draining and (held is None or held.running is None):
                _set(reply, Draining())
                return
            if held is None:
                if request.settings is None or request.offset:
                    _set(reply, Have(self.engine_id, 0))
                    return
                held = self._create(request.uid, request.settings)
            elif request.offset and request.holder != self.engine_id:
                _set(reply, Have(self.engine_id, 0))  # what is kept is of an earlier time
                return
            elif request.offset > held.length:
                _set(reply, Have(self.engine_id, held.length))
                return
            self._take(held, request, reply)
        self._sweep()

    def _create(self, uid: str, settings: Settings) -> _Held:
        new_utterance = self._engine.utterances(
            background=settings.background, scored=settings.scored, draft=settings.draft
        )
        utterance = new_utterance(context=settings.context, language=settings.language, max_new_tokens=1)
        held = self._held[uid] = _Held(uid, utterance)
        self._forgotten.pop(uid, None)
        return held

    def _take(self, held: _Held, request: StepRequest, reply: Future[Reply]) -> None:
        """Take the samples of a request, and have a step cover them."""
        self._held[held.uid] = self._held.pop(held.uid)  # now the one that was used last
        held.number, held.used = request.number, self._clock()
        held.length = request.offset + len(request.samples)
        held.waiting.append((request.number, reply))
        reply.add_done_callback(partial(self._abandoned, held))
        if held.covered is not None and not held.newer and is_same(held.utterance, held.covered, request):
            return  # the step under way answers it
        held.newer.append(request)
        if held.running is None:
            self._run(held)
        elif request.urgent or held.covered is not None:
            held.urgent = True

    def _run(self, held: _Held) -> None:
        """Begin a step. None is under way."""
        held.urgent = held.newer[-1].urgent
        # The engine asks for the urgency with its own lock held, so that takes no lock.
        try:
            held.running = self._engine.submit(held.utterance, partial(self._begin, held), lambda: held.urgent)
        except Exception as error:
            self._forget(held, _refused(error))
            return
        self._under_way += 1
        held.running.add_done_callback(partial(self._step_ended, held))

    def _begin(self, held: _Held) -> None:
        """The step starts, or starts again, so that the utterance may change. On the thread that owns the model."""
        with self._lock:
            if self._held.get(held.uid) is not held:
                return  # it was forgotten meanwhile
            for request in held.newer:
                replace(held.utterance, request)
            held.newer = []
            held.covered = held.utterance.samples  # nothing changes them while the step is under way
            held.urgent = False

    def _step_ended(self, held: _Held, done: Future[Hypothesis]) -> None:
        with self._lock:
            held.running = held.covered = None
            error = StepFailed("The recognizer was stopped.") if done.cancelled() else done.exception()
            if self._held.get(held.uid) is not held:
                pass  # it was forgotten meanwhile, and its requests are answered
            elif error is not None:
                self._forget(held, _refused(error))
            elif held.newer:
                self._run(held)
            else:
                self._answer_waiting(held, Done(self.engine_id, done.result()))
            self._ended()

    def _answer_waiting(self, held: _Held, reply: Reply) -> None:
        waiting, held.waiting = held.waiting, []
        for number, future in waiting:
            _set(future, reply if number == held.number else Superseded())

    def _abandoned(self, held: _Held, reply: Future[Reply]) -> None:
        """Nobody waits for this answer any more. A thread may still be in the utterance, so it is not used again."""
        if not reply.cancelled():
            return
        with self._lock:
            if self._held.get(held.uid) is held and all(future.cancelled() for _, future in held.waiting):
                self._forget(held, Superseded())

    def _forget(self, held: _Held, reply: Reply) -> None:
        """Forget an utterance; `reply` is the answer to those who wait for it."""
        del self._held[held.uid]
        self._forgotten[held.uid] = held.number
        if len(self._forgotten) > MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        held.urgent = False
        if held.running is not None:
            held.running.cancel()  # does nothing for a step that has started: it ends as ever
        held.utterance.close()
        self._answer_waiting(held, reply)

    def _sweep(self) -> None:
        """Forget utterances that were idle for too long, and those that are too many."""
        with self._lock:
            oldest = self._clock() - self._idle_seconds
            for held in list(self._held.values()):
                if held.used >= oldest and len(self._held) <= self._most_utterances:
                    break
                if held.running is None:
                    self._forget(held, Superseded())


def is_same(utterance: EngineUtterance, samples: NDArray[np.float32], request: StepRequest) -> bool:
    """Whether a request would change nothing about an utterance that has these samples."""
    return (
        utterance.max_new_tokens == request.max_new_tokens
        and len(samples) == request.offset + len(request.samples)
        and np.array_equal(samples[request.offset :], request.samples)
    )


def replace(utterance: EngineUtterance, request: StepRequest) -> None:
    """Let the utterance be its first `offset` samples, then `samples`. What is the same already stays computed."""
    kept = utterance.samples[request.offset :]
    common = min(len(kept), len(request.samples))
    differing = np.flatnonzero(kept[:common] != request.samples[:common])
    same = int(differing[0]) if len(differing) else common
    if same < len(kept):
        utterance.truncate(request.offset + same)
    if same < len(request.samples):
        utterance.append(request.samples[same:])
    utterance.max_new_tokens = request.max_new_tokens


UNKNOWN = "{}"  # stands for the name of a language in the sentence for those that no list has


def describe_aligner(aligner: Aligner | None) -> AlignerInfo | None:
    """What a scheduler in another process needs to answer as the aligner would."""
    if aligner is None:
        return None
    reasons = {name: reason for name in LANGUAGES.values() if (reason := aligner.why_not(name)) is not None}
    known = tuple(name for name in LANGUAGES.values() if name not in reasons)
    return AlignerInfo(aligner.name, aligner.is_quick, reasons, known, aligner.why_not(UNKNOWN) or "")


def _refused(error: BaseException) -> Refused:
    if isinstance(error, QwenASRError):
        return Refused(type(error).__name__, str(error))
    log.error("A request could not be answered.", exc_info=error)
    return Refused(
        StepFailed.__name__, f"The engine failed on this request ({type(error).__name__}); its log says why."
    )


def _set(future: Future[Reply], reply: Reply) -> None:
    """Answer, unless nobody waits any more."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(reply)
