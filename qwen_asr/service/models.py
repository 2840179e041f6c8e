"""`Models`: the models of a server by name. They are loaded when they are first asked for, and unloaded when idle.

The default model is loaded first and stays. Another one is loaded by the first request that names it, one at a time.
It stays until memory is short: then the one that has been idle longest goes, and the next request loads it again. A
model that is in use is never unloaded.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

from qwen_asr.config.limits import RETRY_AFTER_SECONDS, ModelLimits
from qwen_asr.config.model_paths import ModelPath, model_named
from qwen_asr.engine.device.memory import return_memory
from qwen_asr.engine.device.out_of_memory import is_out_of_memory
from qwen_asr.engine.device.torch_thread import TorchThread
from qwen_asr.errors import NotReady, QwenASRError, ServerStopping

if TYPE_CHECKING:
    from qwen_asr.engine.interface import Engine

log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "failed"]
Load = Callable[[str, Callable[[str], None]], "Engine"]
"""Loads the checkpoint at a path; reports its progress in lines for people."""
Size = Callable[[str, Callable[[str], None]], int]
"""The bytes of a checkpoint's weights on disk. Fetches what is not there, and reports the progress of that."""


class Model:
    """One of the models. `state`, `text` and `error` describe it; `Models` changes them.

    text: the state for people. error: why loading has failed.
    """

    def __init__(self, source: ModelPath) -> None:
        self.source = source
        self.state: State = "unloaded"
        self.text = f"{source.name} is not loaded."
        self.error: QwenASRError | None = None
        self.engine: Engine | None = None
        self.settled: Future[None] | None = None  # of the loading under way: resolved once it has ended, however
        self.uses = 0
        self.idle_since = 0.0
        self.failed_at = 0.0

    @property
    def name(self) -> str:
        """What requests name it by, and answers show."""
        return self.source.name if self.source.has_known_name or self.engine is None else self.engine.info.name

    def loaded(self) -> Engine:
        """Its engine. Raises NotReady while there is none, or the error with which loading has failed."""
        if (engine := self.engine) is not None:
            return engine
        # A copy: an error keeps the frames of all that it went through, with what they hold.
        raise NotReady(self.text) if self.error is None else copy.copy(self.error)


class ModelUse:
    """Keeps a model from being unloaded, from `Models.use` to `leave`."""

    def __init__(self, models: Models, model: Model, settled: Future[None] | None) -> None:
        self.model = model
        self.settled = settled
        """Resolved once the model is loaded, or cannot be; None where nothing is being loaded."""
        self._models = models
        self._left = False

    def leave(self) -> None:
        """The model is no longer needed for this. A second call does nothing."""
        self._models._leave(self)


class Models:
    """The models of a server. Thread-safe.

    `load` and `size` belong to the checkpoints, `memory` says how many bytes are free and how many there are. `clock`
    is for tests.
    """

    def __init__(
        self,
        sources: Sequence[ModelPath],
        load: Load,
        size: Size,
        memory: Callable[[], tuple[int, int]],
        limits: ModelLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.all = tuple(map(Model, sources))
        self.default = self.all[0]
        self.default.state, self.default.text = "loading", "Loading …"
        self._load = load
        self._size = size
        self._memory = memory
        self._limits = limits or ModelLimits()
        self._clock = clock
        self._lock = threading.Lock()  # guards what the models hold, and the totals
        self._one_at_a_time = threading.Lock()  # of the models that are loaded
        self._unloading = threading.Lock()  # who wants memory waits for what another one unloads
        self._closed = False
        self._past_busy_seconds = 0.0  # of engines that were unloaded
        self._past_times_without_memory = 0

    # --- for requests

    def named(self, name: str | None) -> Model | None:
        """The model of that name, as `model_named` reads it; None if it is none of them."""
        found = model_named([model.source for model in self.all], name)
        return next((model for model in self.all if model.source is found), None)

    def find(self, name: str | None) -> Model:
        """The model that a request means by `name`: the default if it is none of them."""
        return self.named(name) or self.default

    def use(self, model: Model) -> ModelUse:
        """Keeps the model, and starts loading it if it is not loaded. Always call `leave` of what it returns."""
        with self._lock:
            model.uses += 1
            settled = model.settled
            if model.engine is None and settled is None and self._may_load(model):
                settled = self._begin_loading(model)
        return ModelUse(self, model, settled)

    def _may_load(self, model: Model) -> bool:
        pause = self._limits.retry_seconds if model.state == "failed" else RETRY_AFTER_SECONDS
        has_failed_lately = model.error is not None and self._clock() < model.failed_at + pause
        return model is not self.default and not self._closed and not has_failed_lately

    def _leave(self, use: ModelUse) -> None:
        with self._lock:
            if use._left:
                return
            use._left = True
            use.model.uses -= 1
            use.model.idle_since = self._clock()

    # --- loading

    def load_default(self, progress: Callable[[str], None]) -> None:
        """Loads the default model, in the calling thread, unless it is loaded or has failed."""
        with self._lock:
            if self.default.state != "loading" or self.default.settled is not None:
                return
            self.default.settled = Future()
        self._run(self.default, progress)

    def add(self, engine: Engine) -> None:
        """The engine is that of the default model, and loaded already."""
        with self._lock:
            self._ready(self.default, engine)

    def _begin_loading(self, model: Model) -> Future[None]:
        model.state, model.text, model.error = "loading", f"Waiting to load {model.name} …", None
        settled = model.settled = Future()

        def progress(text: str) -> None:
            log.info("%s", text)
            model.text = text.rstrip(" .…") + " …"

        TorchThread(self._run, model, progress, name="qwen-asr-loading").start()
        return settled

    def _run(self, model: Model, progress: Callable[[str], None]) -> None:
        engine, too_late, error = None, None, None
        try:
            with self._one_at_a_time:
                engine = self._loaded(model, progress)
        except QwenASRError as known:
            error = known
        except Exception as unknown:
            log.exception("the checkpoint could not be loaded")
            reason = f"{type(unknown).__name__}: {unknown}".splitlines()[0]
            error = QwenASRError(f"The checkpoint could not be loaded ({reason}). The server's log says more.")
        with self._lock:
            settled, model.settled = model.settled, None
            if engine is not None and self._closed:
                error, too_late = ServerStopping(), engine
            if error is not None:
                self._failed(model, error)
            elif engine is not None:
                self._ready(model, engine)
        if too_late is not None:
            too_late.close()
        if settled is not None:
            settled.set_result(None)

    def _ready(self, model: Model, engine: Engine) -> None:
        model.engine, model.error = engine, None
        model.state, model.text = "ready", "Ready"
        model.idle_since = self._clock()

    def _failed(self, model: Model, error: QwenASRError) -> None:
        if model is not self.default:
            log.warning("%s could not be loaded: %s", model.name, error)
        model.state = "unloaded" if isinstance(error, NotReady) else "failed"
        model.text, model.error, model.failed_at = str(error), error, self._clock()

    def _loaded(self, model: Model, progress: Callable[[str], None]) -> Engine:
        """Loads the model, after making room for it. Raises NotReady without enough memory, and what loading raises."""
        if model is self.default:  # first, and alone: nothing could go for it
            return self._load(model.source.path, progress)
        needed = int(self._size(model.source.path, progress) * self._limits.memory_per_byte)
        while (free := self._memory()[0]) < needed:
            if not self._unload_oldest(0.0) and (free := self._memory()[0]) < needed:
                raise _no_room(model, f"it needs about {needed / 1e9:.1f} GB, and {max(free, 0) / 1e9:.1f} GB are free")
        while True:
            if self._closed:
                raise ServerStopping
            try:
                return self._load(model.source.path, progress)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose error holds what was loaded so far.
            return_memory()
            if not self._unload_oldest(0.0):
                raise _no_room(model, "loading it took more than is free")

    # --- unloading

    def relieve(self) -> None:
        """Unloads idle models if memory is short. Call it regularly.

        It is short while less than `short_share` of it is free: then the model that has been idle longest goes, if that
        is `idle_seconds` or more. After a pass of any model has run out of memory, all idle ones go.
        """
        if len(self.all) == 1:
            return
        if any(model.engine is not None and model.engine.short_of_memory for model in self.all):
            while self._unload_oldest(0.0):
                pass
            return
        free, total = self._memory()
        if free < total * self._limits.short_share:
            self._unload_oldest(self._limits.idle_seconds)

    def _unload_oldest(self, idle_seconds: float) -> bool:
        """Unloads the model that has been idle longest, and at least so long. Returns whether there was one."""
        with self._unloading:
            return self._unload_one(idle_seconds)

    def _unload_one(self, idle_seconds: float) -> bool:
        with self._lock:
            before = self._clock() - idle_seconds
            idle = [
                model
                for model in self.all[1:]
                if model.engine is not None
                and not model.uses
                and model.idle_since <= before
                # What hangs keeps its memory, and the server has to be restarted.
                and model.engine.unhealthy_reason() is None
            ]
            if not idle:
                return False
            model = min(idle, key=lambda model: model.idle_since)
            engine, model.engine = model.engine, None
            model.state, model.text = "unloaded", f"{model.name} is not loaded."
            if engine is not None:
                self._past_busy_seconds += engine.busy_seconds
                self._past_times_without_memory += engine.times_without_memory
        if engine is not None:
            engine.close()
        log.info("Unloaded %s, which was idle, because memory is short.", model.name)
        del engine
        return_memory()
        return True

    def close(self) -> None:
        """Stops all engines. Nothing is loaded any more."""
        with self._lock:
            self._closed = True
            engines = self.engines
        for engine in engines:
            engine.close()

    # --- all together

    @property
    def engines(self) -> list[Engine]:
        """Those of the models that are loaded."""
        return [engine for model in self.all if (engine := model.engine) is not None]

    @property
    def busy_seconds(self) -> float:
        """How long the models have had work, in total; those that were unloaded too."""
        with self._lock:
            return self._past_busy_seconds + sum(engine.busy_seconds for engine in self.engines)

    @property
    def times_without_memory(self) -> int:
        """How many passes failed for lack of memory; those of models that were unloaded too."""
        with self._lock:
            return self._past_times_without_memory + sum(engine.times_without_memory for engine in self.engines)


def _no_room(model: Model, why: str) -> NotReady:
    return NotReady(
        f"There is not enough memory for {model.name} now: {why}, and no other model is idle. Try again later, or "
        "choose another model."
    )
