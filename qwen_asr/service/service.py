"""`Service`: the recognizer, loaded in the background and shared by all sessions, and everything around them.

The server answers while the checkpoint loads: the page shows the progress, and opening a session raises `NotReady`.
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
from qwen_asr.engine.device.out_of_memory import is_out_of_memory
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError, ServerStopping, UnknownLanguage
from qwen_asr.live.events import Event
from qwen_asr.live.session_factory import check_options, create_session
from qwen_asr.live.session_options import DetectorFactory, SessionOptions, endpoints_of, voice_detector
from qwen_asr.service.admission import Admission, Slot
from qwen_asr.service.file_threads import FileThreads
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.load_engine import load_engine
from qwen_asr.service.memory import reclaim
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
    """Loads the recognizer, opens sessions on it, and watches over it.

    `start` loads it. `state` is "loading", "ready" or "failed", `text` describes the state for people, and `error` is
    why loading failed. A recognizer that is already loaded can be given; the state is then "ready" at once.

    `admission` and `rates` apply to all routes together. When `stopping` is set, no more sessions are opened. `clock`
    is for tests.
    """

    def __init__(
        self,
        config: Config,
        recognizer: Recognizer | None = None,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.limits = limits or Limits()
        self.admission = Admission(config.max_sessions, config.max_queue, config.max_sessions_per_address)
        self.rates = Rates(config.rate_limit)
        self.state = "loading"
        self.text = "Loading …"
        self.error: QwenASRError | None = None
        self._engine: Engine | None = None
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

            self._use(WatchedEngine(recognizer, self.instruments, self.limits.watchdog, clock))

    def start(self, when_settled: Callable[[], None] = lambda: None) -> None:
        """Starts loading in the background; calls `when_settled` once the state is "ready" or "failed"."""

        def load() -> None:
            if self.state == "loading":
                self._load()
            when_settled()

        threading.Thread(target=load, name="qwen-asr-loading", daemon=True).start()

    def wait(self, seconds: float | None = None) -> str:
        """Waits until the state is no longer "loading", at most `seconds`; returns the state."""
        self._load_finished.wait(seconds)
        return self.state

    def as_dict(self) -> dict[str, Any]:
        """The state for the page: `state`, `text`, `model` (its name) and `note` (what it recognizes)."""
        state, text = self.readiness()
        return {
            # The page keeps asking until a server is ready.
            "state": "loading" if state in ("stopping", "unavailable") else state,
            "text": text,
            "model": f"Model: {self._engine.info.name}" if self._engine else "",
            "note": self._note(),
        }

    def _note(self) -> str:
        if self._engine is None or not self._engine.info.is_demo:
            return ""
        return DEMO_NOTE if self.config.asr_model_path == "demo" else FALLBACK_NOTE + DEMO_NOTE

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
    ) -> SessionOptions:
        """The options of a session, with the server's defaults for what is empty or None.

        Raises `UnknownLanguage`, and `BadConfig` for `silence_seconds` out of the range of `--silence-threshold`.

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
        )

    def why_no_words(self, language: str | None = None) -> str | None:
        """Why finals in this language have no times of their words, as a sentence; None if they have.

        `language` is as in `session_options`; one that is recognized later counts as known. Or it is that of a final,
        where the model may have written any name. Raises NotReady while no checkpoint is loaded.
        """
        if self._engine is None:
            raise NotReady(self.text)
        aligner = self._engine.aligner
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
        session can be opened now.
        """
        engine, _ = self._ready()
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
        """
        slot = slot or self.admission.enter_at_once(address)
        try:
            engine, silero = self._ready()
            with _reporting_out_of_memory(engine):
                session = create_session(engine, silero, options)
                return self.sessions.open(kind, name or secrets.token_hex(4), session, engine, on_events, slot.leave)
        except BaseException:
            slot.leave()
            raise

    def readiness(self) -> tuple[str, str]:
        """Whether a session can be opened: the state, "stopping" or "unavailable", and its text."""
        if self.stopping:
            return "stopping", str(ServerStopping())
        if self.state == "ready" and self._engine is not None and (reason := self._engine.unavailable_reason()):
            return "failed" if self._engine.unhealthy_reason() else "unavailable", reason
        return self.state, self.text

    def check_ready(self) -> None:
        """Raises NotReady while no session can be opened, and ServerStopping when none will be."""
        state, text = self.readiness()
        if state != "ready":
            raise ServerStopping(text) if state == "stopping" else NotReady(text)

    def unhealthy_reason(self) -> str | None:
        """Why the process has to be restarted, as a sentence; None if it works."""
        return None if self._engine is None or self._closed.is_set() else self._engine.unhealthy_reason()

    @property
    def has_quick_words(self) -> bool:
        """Whether finals can have the times of their words at once."""
        aligner = self._engine.aligner if self._engine else None
        return aligner is not None and aligner.is_quick

    @property
    def model_name(self) -> str:
        """The name of the checkpoint. Raises NotReady while none is loaded."""
        if self._engine is None:
            raise NotReady(self.text)
        return self._engine.info.name

    @property
    def kv_cache_used(self) -> float | None:
        """The share of the KV pool that is in use, from 0 to 1; None while no checkpoint is loaded."""
        return None if self._engine is None else self._engine.kv_cache_used

    @property
    def busy_seconds(self) -> float:
        """How long the recognizer has had work, in total."""
        return 0.0 if self._engine is None else self._engine.busy_seconds

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of recognition per second of audio, over the last minute; None without audio. Ask regularly."""
        return self._factor.over_last_minute(self.busy_seconds, self.sessions.audio_seconds())

    @property
    def times_without_memory(self) -> int:
        """How many passes failed for lack of memory."""
        return 0 if self._engine is None else self._engine.times_without_memory

    @property
    def engine(self) -> Engine | None:
        """What runs the steps; None while no checkpoint is loaded."""
        return self._engine

    def close(self) -> None:
        """Stops the engine. The utterances of open sessions fail."""
        self._closed.set()
        self.file_threads.close()
        if self._engine is not None:
            self._engine.close()

    def _ready(self) -> tuple[Engine, Silero]:
        self.check_ready()
        if self._engine is None or self._silero is None:
            raise NotReady(self.text)
        if self._engine.short_of_memory:
            raise short_of_memory()
        return self._engine, self._silero

    def _load(self) -> None:
        config, limits = self.config, self.limits
        try:
            self._use(load_engine(config.asr_model_path, config, self.instruments, limits, self._progress, self._clock))
        except QwenASRError as error:
            self._fail(error)
        except Exception as error:
            log.exception("the checkpoint could not be loaded")
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(QwenASRError(f"The checkpoint could not be loaded ({reason}). The server's log says more."))

    def _use(self, engine: Engine) -> None:
        self._silero = Silero()
        self._engine = engine
        threading.Thread(target=self._reclaim_memory, name="qwen-asr-memory", daemon=True).start()
        self._settle("ready", "Ready")

    def _reclaim_memory(self) -> None:
        reclaimed_at = 0
        while not self._closed.wait(self.limits.watchdog.poll_seconds):
            if self.sessions.ended > reclaimed_at:
                reclaimed_at = self.sessions.ended
                reclaim()

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.text = text.rstrip(" .…") + " …"

    def _fail(self, error: QwenASRError) -> None:
        self.error = error
        self._settle("failed", str(error))

    def _settle(self, state: str, text: str) -> None:
        self.state, self.text = state, text
        self._load_finished.set()
