"""`Service`: the models, loaded in the background and shared by all sessions, and everything around them.

The server answers while the default model loads: the page shows the progress, and opening a session raises `NotReady`.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from qwen_asr.audio.vad import Silero
from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits
from qwen_asr.engine.device.memory import reclaim
from qwen_asr.engine.device.out_of_memory import is_out_of_memory
from qwen_asr.engine.device.torch_thread import TorchThread
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError, ServerStopping, UnknownLanguage
from qwen_asr.live.events import Event
from qwen_asr.live.session_factory import check_options, create_session
from qwen_asr.live.session_options import DetectorFactory, SessionOptions, endpoints_of, voice_detector
from qwen_asr.service.admission import Admission, Slot
from qwen_asr.service.file_threads import FileThreads
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.load_engine import load_engine
from qwen_asr.service.models import Model, Models, ModelUse
from qwen_asr.service.rate_limit import Rates
from qwen_asr.service.real_time_factor import RealTimeFactor
from qwen_asr.service.sessions import SessionRegistry, TrackedRunner

if TYPE_CHECKING:
    from qwen_asr.engine.interface import Engine
    from qwen_asr.engine.recognizer import Recognizer

log = logging.getLogger(__name__)

DEMO_NOTE = (
    "A small demo that knows everyday sentences of a fixed kind, such as “Turn on the kitchen light.”, “The meeting is "
    "on Monday the tenth of May.”, “Wake me up at half past six.”, and nothing else. For real speech start the server "
    "with a Qwen3-ASR checkpoint."
)
FALLBACK_NOTE = "No Qwen3-ASR checkpoint could be loaded (the log says why), so this is the demo instead. "


def short_of_memory() -> LimitExceeded:
    """The refusal of a session while the open ones need all the memory of the device."""
    return LimitExceeded("The device is short of memory for another session: try again a little later.")


@contextlib.contextmanager
def _reporting_out_of_memory(engine: Engine) -> Iterator[None]:
    """Raises LimitExceeded for an out-of-memory error, and stops new sessions for a while."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        engine.out_of_memory()
        raise short_of_memory() from error


class Service:
    """Loads the models, opens sessions on them, and watches over them.

    `start` loads the default one. `state` is "loading", "ready" or "failed", `text` describes the state for people, and
    `error` is why loading failed: all three are those of the default model. Its recognizer can be given if it is loaded
    already; the state is then "ready" at once. `models` has all, and loads the others when a session wants them.

    `admission` and `rates` apply to all routes together. When `stopping` is set, no more sessions are opened. `clock`
    is for tests, and `memory` too, which says how many bytes of the device's memory are free, and how many it has.
    """

    def __init__(
        self,
        config: Config,
        recognizer: Recognizer | None = None,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.config = config
        self.limits = limits or Limits()
        self.admission = Admission(config.max_sessions, config.max_queue, config.max_sessions_per_address)
        self.rates = Rates(config.rate_limit)
        self.models = Models(config.models, self._load, self._size, memory or self._memory, self.limits.models, clock)
        self._silero: Silero | None = None
        self._load_finished = threading.Event()
        self.stopping = False
        self.instruments = Instruments()
        self.sessions = SessionRegistry(self.instruments.lag.observe, lambda: self.instruments.count("StepFailed"))
        self.file_threads = FileThreads(self.limits.upload.threads)
        self._clock = clock
        self._factor = RealTimeFactor(clock)
        self._closed = threading.Event()
        if recognizer is not None:
            from qwen_asr.fleet.watched_engine import WatchedEngine  # heavy: torch

            alone = len(config.models) == 1
            self._silero = Silero()
            self.models.add(WatchedEngine(recognizer, self.instruments, self.limits.watchdog, clock, alone=alone))
            self._settle()

    def start(self, when_settled: Callable[[], None] = lambda: None) -> None:
        """Starts loading in the background; calls `when_settled` once the state is "ready" or "failed"."""

        def load() -> None:
            if self.state == "loading":
                self.models.load_default(self._progress)
                self._settle()
            when_settled()

        TorchThread(load, name="qwen-asr-loading").start()

    @property
    def state(self) -> str:
        """That of the default model: "loading", "ready" or "failed"."""
        return self.models.default.state

    @property
    def text(self) -> str:
        """The state for people."""
        return self.models.default.text

    @property
    def error(self) -> QwenASRError | None:
        """Why the default model could not be loaded."""
        return self.models.default.error

    def wait(self, seconds: float | None = None) -> str:
        """Waits until the state is no longer "loading", at most `seconds`; returns the state."""
        self._load_finished.wait(seconds)
        return self.state

    def as_dict(self) -> dict[str, Any]:
        """The state for the page: `state`, `text`, `model` (names) and `note` (what the default one knows)."""
        state, text = self.readiness()
        names = [model.name for model in self.models.all]
        return {
            # The page keeps asking until a server is ready.
            "state": "loading" if state in ("stopping", "unavailable") else state,
            "text": text,
            "model": "" if self.engine is None else ("Models: " if names[1:] else "Model: ") + ", ".join(names),
            "note": self._note(),
        }

    def _note(self) -> str:
        if self.engine is None or not self.engine.info.is_demo:
            return ""
        is_wanted = self.config.models[0].path == "demo" or self.config.engine
        return DEMO_NOTE if is_wanted else FALLBACK_NOTE + DEMO_NOTE

    def session_options(
        self,
        *,
        language: str | None = None,
        context: str = "",
        prompt: str = "",
        chunk_seconds: float | Literal["auto"] | None = None,
        silence_seconds: float | None = None,
        detector: DetectorFactory | None = None,
        words: bool = False,
        model: str | None = None,
    ) -> SessionOptions:
        """The options of a session, with the server's defaults for what is empty or None.

        Raises `UnknownLanguage`, and `BadConfig` for `silence_seconds` out of the range of `--silence-threshold`.

        `model` is any name that a client sends; one that is none of the server's models stands for the default one.

        `language="auto"` has the language recognized even where the server has a default. So does
        `chunk_seconds="auto"` with the seconds between two partials.
        """
        config = self.config
        chunk = config.chunk_size_sec if chunk_seconds is None else chunk_seconds
        return SessionOptions(
            language=language or config.default_language,
            context=context or config.default_context or "",
            prompt=prompt or config.default_prompt or "",
            chunk_seconds=None if chunk == "auto" else chunk,
            max_new_tokens=config.max_new_tokens,
            endpoints=endpoints_of(config, silence_seconds),
            detector=detector or voice_detector,
            words=words,
            model=self.models.find(model).name,
        )

    def why_no_words(self, language: str | None = None, model: str | None = None) -> str | None:
        """Why finals in this language have no times of their words, as a sentence; None if they have.

        `language` is as in `session_options`; one that is recognized later counts as known. Or it is that of a final,
        where the model may have written any name. `model` is any name, too. Raises NotReady while it is not loaded.
        """
        aligner = self.models.find(model).loaded().aligner
        if aligner is None:
            return "This server has no aligner, which finds the times of words: start it with --aligner-model-path."
        given = language or self.config.default_language
        try:
            name = resolve_language(given)
        except UnknownLanguage:
            name = given
        return aligner.why_not(name) if name else None

    def check_options(self, options: SessionOptions) -> None:
        """Raises what `open_session` would raise for these options, without opening a session.

        `BadInput` for a system prompt that the model cannot take; NotReady, ServerStopping and LimitExceeded where no
        session can be opened now. A model that is not loaded is not asked, but the default one in its place.
        """
        model = self.models.find(options.model)
        engine, _ = self._ready(self.models.default if model.engine is None else model)
        check_options(engine, options)

    def open_session(
        self,
        options: SessionOptions,
        on_events: Callable[[list[Event]], None],
        *,
        kind: str = "page",
        name: str = "",
        slot: Slot | None = None,
        address: str = "",
    ) -> TrackedRunner:
        """Opens a session and starts it. Takes milliseconds: call it on a worker thread.

        `on_events` is `Runner`'s. `kind` is one of `sessions.KINDS`, `name` the session's id, for the log. `slot` is a
        slot that is held already; the session returns it when it ends, and at once if it cannot be opened. Without one
        it takes a free slot, from the share of the client's `address`. Raises NotReady, ServerStopping, BadInput for a
        system prompt that the model cannot take, and LimitExceeded if no slot is free or the device is short of memory.

        The model that the options name stays loaded until the session is closed. If it is not loaded, loading begins,
        and NotReady is raised: `use_model` first waits for it.
        """
        slot = slot or self.admission.enter_at_once(address)
        use = self.use_model(options.model)
        try:
            engine, silero = self._ready(use.model)
            name = name or secrets.token_hex(4)
            with _reporting_out_of_memory(engine):
                session = create_session(engine, silero, options)
                return self.sessions.open(kind, name, session, engine, on_events, slot.leave, use.leave)
        except BaseException:
            slot.leave()
            use.leave()
            raise

    def use_model(self, name: str | None = None) -> ModelUse:
        """Keeps the model loaded that a client means by `name`, and starts loading it. See `Models.use`."""
        return self.models.use(self.models.find(name))

    def readiness(self) -> tuple[str, str]:
        """Whether the default model can have a session: its state, "stopping" or "unavailable", and the text for it."""
        if self.stopping:
            return "stopping", str(ServerStopping())
        if self.state == "ready" and self.engine is not None and (reason := self.engine.unavailable_reason()):
            return "failed" if self.engine.unhealthy_reason() else "unavailable", reason
        return self.state, self.text

    def check_ready(self) -> None:
        """Raises NotReady while no session can be opened, and ServerStopping when none will be."""
        state, text = self.readiness()
        if state != "ready":
            raise ServerStopping(text) if state == "stopping" else NotReady(text)

    def unhealthy_reason(self) -> str | None:
        """Why the process has to be restarted, as a sentence; None if all models work."""
        if self._closed.is_set():
            return None
        return next(filter(None, (engine.unhealthy_reason() for engine in self.models.engines)), None)

    def has_quick_words(self, model: str | None = None) -> bool:
        """Whether finals of the model, by any name, can have the times of their words at once. False if not loaded."""
        engine = self.models.find(model).engine
        aligner = engine.aligner if engine else None
        return aligner is not None and aligner.is_quick

    def model_name(self, model: str | None = None) -> str:
        """The name of the model that answers a client which names this one. Raises NotReady while none is loaded."""
        if self.engine is None:
            raise NotReady(self.text)
        return self.models.find(model).name

    @property
    def kv_cache_used(self) -> float | None:
        """The share of the fullest KV pool that is in use, from 0 to 1; None while no checkpoint is loaded."""
        used = [share for engine in self.models.engines if (share := engine.kv_cache_used) is not None]
        return max(used, default=None)

    @property
    def busy_seconds(self) -> float:
        """How long the models have had work, in total."""
        return self.models.busy_seconds

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of recognition per second of audio, over the last minute; None without audio. Ask regularly."""
        return self._factor.over_last_minute(self.busy_seconds, self.sessions.audio_seconds())

    @property
    def times_without_memory(self) -> int:
        """How many passes failed for lack of memory."""
        return self.models.times_without_memory

    @property
    def engine(self) -> Engine | None:
        """What runs the steps of the default model; None while it is not loaded."""
        return self.models.default.engine

    def close(self) -> None:
        """Stops the engines. The utterances of open sessions fail."""
        self._closed.set()
        self.file_threads.close()
        self.models.close()

    def _ready(self, model: Model) -> tuple[Engine, Silero]:
        if self.stopping:
            raise ServerStopping
        engine = model.loaded()
        if self._silero is None:
            raise NotReady(self.text)
        if reason := engine.unavailable_reason():
            raise NotReady(reason)
        if engine.short_of_memory:
            raise short_of_memory()
        return engine, self._silero

    def _load(self, path: str, progress: Callable[[str], None]) -> Engine:
        engine = load_engine(path, self.config, self.instruments, self.limits, progress, self._clock)
        self._silero = self._silero or Silero()
        return engine

    def _size(self, path: str, progress: Callable[[str], None]) -> int:
        from qwen_asr.engine.checkpoint import find, pick_device  # heavy: torch

        return find(path, pick_device(self.config.device), progress).bytes

    def _memory(self) -> tuple[int, int]:
        from qwen_asr.engine.checkpoint import pick_device  # heavy: torch
        from qwen_asr.engine.device.memory import device_memory

        return device_memory(pick_device(self.config.device))

    def _settle(self) -> None:
        """The default model is loaded, or cannot be."""
        if self.engine is not None:
            threading.Thread(target=self._reclaim_memory, name="qwen-asr-memory", daemon=True).start()
        self._load_finished.set()

    def _reclaim_memory(self) -> None:
        reclaimed_at = 0
        while not self._closed.wait(self.limits.watchdog.poll_seconds):
            self.models.relieve()
            if self.sessions.ended > reclaimed_at:
                reclaimed_at = self.sessions.ended
                reclaim()

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.models.default.text = text.rstrip(" .…") + " …"
