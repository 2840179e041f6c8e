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
from qwen_asr.engine.inference_only import for_inference_only
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import LimitExceeded, NotReady, QwenASRError, ServerStopping, UnknownLanguage
from qwen_asr.live.events import Event
from qwen_asr.live.session_options import DetectorFactory, SessionOptions, endpoints_of, voice_detector
from qwen_asr.service.admission import Admission, Slot
from qwen_asr.service.file_threads import FileThreads
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.memory import reclaim
from qwen_asr.service.rate_limit import Rates
from qwen_asr.service.sessions import SessionRegistry, TrackedRunner
from qwen_asr.service.watchdog import Watchdog

if TYPE_CHECKING:
    from qwen_asr.engine.recognizer import Recognizer
    from qwen_asr.engine.scheduler import Scheduler

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
        self._scheduler: Scheduler | None = None
        self._silero: Silero | None = None
        self._load_finished = threading.Event()
        self.stopping = False
        self.instruments = Instruments()
        self.sessions = SessionRegistry(self.instruments.lag.observe, lambda: self.instruments.count("StepFailed"))
        self.watchdog = Watchdog(self.instruments, self.limits.watchdog, clock)
        self.file_threads = FileThreads(self.limits.upload.threads)
        self._hanging: list[threading.Thread] = []
        self._closed = threading.Event()
        if recognizer is not None:
            self._use(recognizer)

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
        recognizer = self._scheduler.recognizer if self._scheduler else None
        state, text = self.readiness()
        return {
            "state": "loading" if state == "stopping" else state,  # the page keeps asking until a server is ready
            "text": text,
            "model": f"Model: {recognizer.name}" if recognizer else "",
            "note": self._note(),
        }

    def _note(self) -> str:
        if self._scheduler is None or not self._scheduler.recognizer.is_demo:
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
        if self._scheduler is None:
            raise NotReady(self.text)
        aligner = self._scheduler.recognizer.aligner
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
        scheduler, _ = self._ready()
        from qwen_asr.live.session_factory import check_options  # heavy: torch, which is loaded by now

        check_options(scheduler.recognizer, options)

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
            scheduler, silero = self._ready()
            from qwen_asr.live.session_factory import create_session  # heavy: torch, which is loaded by now

            with self._reporting_out_of_memory():
                session = create_session(scheduler.recognizer, silero, options)
                return self.sessions.open(kind, name or secrets.token_hex(4), session, scheduler, on_events, slot.leave)
        except BaseException:
            slot.leave()
            raise

    @contextlib.contextmanager
    def _reporting_out_of_memory(self) -> Iterator[None]:
        """Raises LimitExceeded for an out-of-memory error, and stops new sessions for a while."""
        from qwen_asr.engine.scheduler import is_out_of_memory  # heavy: torch

        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.watchdog.out_of_memory()
            raise short_of_memory() from error

    def readiness(self) -> tuple[str, str]:
        """Whether a session can be opened: the state, or "stopping", and its text."""
        return ("stopping", str(ServerStopping())) if self.stopping else (self.state, self.text)

    def unhealthy_reason(self) -> str | None:
        """Why the process has to be restarted, as a sentence; None if it works."""
        hanging = sum(thread.is_alive() for thread in self._hanging)
        if hanging:
            return f"{hanging} of the recognizer's threads hang in a pass or a callback that does not end."
        working = self._scheduler is not None and self._scheduler.alive
        if self.state == "ready" and not working and not self._closed.is_set():
            return "The recognizer's thread has ended."
        return None

    @property
    def has_quick_words(self) -> bool:
        """Whether finals can have the times of their words at once."""
        aligner = self._scheduler.recognizer.aligner if self._scheduler else None
        return aligner is not None and aligner.is_quick

    @property
    def model_name(self) -> str:
        """The name of the checkpoint. Raises NotReady while none is loaded."""
        if self._scheduler is None:
            raise NotReady(self.text)
        return self._scheduler.recognizer.name

    @property
    def kv_cache_used(self) -> float | None:
        """The share of the KV pool that is in use, from 0 to 1; None while no checkpoint is loaded."""
        if self._scheduler is None:
            return None
        pool = self._scheduler.recognizer.decoder.pool
        return pool.positions_used / pool.positions

    def close(self) -> None:
        """Stops the recognizer's thread. The utterances of open sessions fail."""
        self._closed.set()
        self.file_threads.close()
        if self._scheduler is not None:
            self._scheduler.close()

    def _ready(self) -> tuple[Scheduler, Silero]:
        if self.stopping:
            raise ServerStopping
        if self._scheduler is None or self._silero is None or self.state != "ready":
            raise NotReady(self.text)
        if self.watchdog.short_of_memory:
            raise short_of_memory()
        return self._scheduler, self._silero

    def _load(self) -> None:
        try:
            self._use(for_inference_only(self._load_recognizer))
        except QwenASRError as error:
            self._fail(error)
        except Exception as error:
            log.exception("the checkpoint could not be loaded")
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(QwenASRError(f"The checkpoint could not be loaded ({reason}). The server's log says more."))

    def _load_recognizer(self) -> Recognizer:
        from qwen_asr.engine.aligner import load_with_aligner  # heavy: takes seconds, and the page is up meanwhile

        config = self.config
        return load_with_aligner(
            config.asr_model_path,
            config.device,
            config.dtype,
            self._progress,
            aligner_path=config.aligner_model_path,
            quantize=config.quantize,
        )

    def _use(self, recognizer: Recognizer) -> None:
        import torch  # heavy, as is what follows

        from qwen_asr.engine.scheduler import Scheduler

        if recognizer.is_demo and recognizer.device.type == "cpu":
            # With so small a model, threads cost more in waiting for each other than they save.
            torch.set_num_threads(1)
        self._silero = Silero()
        self._scheduler = Scheduler(recognizer, self.watchdog)
        threading.Thread(target=self._watch, args=(self._scheduler,), name="qwen-asr-watchdog", daemon=True).start()
        form = f"{recognizer.dtype}, decoder in int8" if recognizer.quantized else str(recognizer.dtype)
        log.info("Ready: %s on %s (%s)", recognizer.name, recognizer.device, form)
        if (aligner := recognizer.aligner) is not None:
            log.info("Times of words: %s%s", aligner.name, "" if aligner.is_quick else ", which come after the text")
        pool = recognizer.decoder.pool
        log.info("KV cache: up to %.1f GB, which holds %d positions.", pool.bytes / 1e9, pool.positions)
        self._settle("ready", "Ready")

    def _watch(self, scheduler: Scheduler) -> None:
        reclaimed_at = 0
        while not self._closed.wait(self.limits.watchdog.poll_seconds):
            if (seconds := self.watchdog.stalled_for) is not None:
                self._abandon_pass(scheduler, seconds)
            if (seconds := self.watchdog.delivery_stalled_for) is not None:
                self._abandon_callback(scheduler, seconds)
            if self.sessions.ended > reclaimed_at:
                reclaimed_at = self.sessions.ended
                reclaim()

    def _abandon_pass(self, scheduler: Scheduler, seconds: float) -> None:
        """Fails the steps of a pass that hangs. On the CPU another thread continues with the other sessions."""
        replace = scheduler.recognizer.device.type == "cpu" and not self._is_last_thread()
        sentence = f"The recognizer hung on this part for {seconds:.0f} seconds, so the part was abandoned."
        abandoned = scheduler.abandon(sentence, replace=replace)
        self.watchdog.iteration_ended()
        self._hung(abandoned, "A pass over the model", seconds, replaced=replace)

    def _abandon_callback(self, scheduler: Scheduler, seconds: float) -> None:
        """Leaves a callback of one session behind, so that the others get their texts."""
        last = self._is_last_thread()
        abandoned = scheduler.replace_results()
        self.watchdog.delivery_ended()
        self._hung(abandoned, "The callback of a session", seconds, replaced=not last)

    def _is_last_thread(self) -> bool:
        """Whether no more threads may hang after the next one."""
        hanging = sum(thread.is_alive() for thread in self._hanging)
        return hanging + 1 >= self.limits.watchdog.hanging_threads

    def _hung(self, threads: list[threading.Thread], what: str, seconds: float, *, replaced: bool) -> None:
        self._hanging += threads
        if not threads:
            return
        if replaced:
            log.error("%s has not ended after %.0f s; another thread continues.", what, seconds)
        else:
            log.error("%s has not ended after %.0f s: restart the server.", what, seconds)
            self._fail(NotReady("The recognizer hangs: the server has to be restarted."))

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self.text = text.rstrip(" .…") + " …"

    def _fail(self, error: QwenASRError) -> None:
        self.error = error
        self._settle("failed", str(error))

    def _settle(self, state: str, text: str) -> None:
        self.state, self.text = state, text
        self._load_finished.set()
