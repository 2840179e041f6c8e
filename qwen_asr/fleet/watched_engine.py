"""`WatchedEngine`: an engine in this process, and a thread that watches over it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch

from qwen_asr.config.limits import WatchdogLimits
from qwen_asr.engine.local_engine import LocalEngine
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.fleet.watchdog import Instruments, Watchdog

log = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0  # how long `close` waits for the thread, so that none keeps the process from ending


class WatchedEngine(LocalEngine):
    """Abandons passes and callbacks that hang, and knows when only a restart of the process helps.

    `instruments` counts what it does. `clock` is for tests. `alone`: whether it is the only model of the process.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        instruments: Instruments,
        limits: WatchdogLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        alone: bool = True,
    ) -> None:
        if alone and recognizer.is_demo and recognizer.device.type == "cpu":
            # With so small a model, threads cost more in waiting for each other than they save.
            torch.set_num_threads(1)
        self._limits = limits or WatchdogLimits()
        self.watchdog = Watchdog(instruments, self._limits, clock)
        super().__init__(recognizer, self.watchdog)
        self._hanging: list[threading.Thread] = []
        self._hung: str | None = None  # why no more steps run
        self._closed = threading.Event()
        log.info("Ready: %s in %s", recognizer.name, self.info.form)
        if (aligner := recognizer.aligner) is not None:
            log.info("Times of words: %s%s", aligner.name, "" if aligner.is_quick else ", which come after the text")
        pool = recognizer.decoder.pool
        log.info("KV cache: up to %.1f GB, which holds %d positions.", pool.bytes / 1e9, pool.positions)
        self._watching = threading.Thread(target=self._watch, name="qwen-asr-watchdog", daemon=True)
        self._watching.start()

    @property
    def busy_seconds(self) -> float:
        """See `Engine`."""
        return self.watchdog.busy_seconds

    @property
    def times_without_memory(self) -> int:
        """See `Engine`."""
        return self.watchdog.times_without_memory

    @property
    def short_of_memory(self) -> bool:
        """See `Engine`."""
        return self.watchdog.short_of_memory

    def out_of_memory(self) -> None:
        """See `Engine`."""
        self.watchdog.out_of_memory()

    def unavailable_reason(self) -> str | None:
        """See `Engine`: after a pass has hung on a GPU, or too many on a CPU, no step can run again."""
        return self._hung

    def unhealthy_reason(self) -> str | None:
        """See `Engine`."""
        hanging = sum(thread.is_alive() for thread in self._hanging)
        if hanging:
            return f"{hanging} of the recognizer's threads hang in a pass or a callback that does not end."
        if not self.scheduler.alive and not self._closed.is_set():
            return "The recognizer's thread has ended."
        return None

    def close(self) -> None:
        """See `Engine`."""
        self._closed.set()
        super().close()
        self._watching.join(_JOIN_SECONDS)  # it holds the model, whose memory is wanted now

    def _watch(self) -> None:
        while not self._closed.wait(self._limits.poll_seconds):
            if (seconds := self.watchdog.stalled_for) is not None:
                self._abandon_pass(seconds)
            if (seconds := self.watchdog.delivery_stalled_for) is not None:
                self._abandon_callback(seconds)

    def _abandon_pass(self, seconds: float) -> None:
        """Fails the steps of a pass that hangs. On the CPU another thread continues with the other sessions."""
        replace = self.recognizer.device.type == "cpu" and not self._is_last_thread()
        sentence = f"The recognizer hung on this part for {seconds:.0f} seconds, so the part was abandoned."
        abandoned = self.scheduler.abandon(sentence, replace=replace)
        self.watchdog.iteration_ended()
        self._report(abandoned, "A pass over the model", seconds, replaced=replace)

    def _abandon_callback(self, seconds: float) -> None:
        """Leaves a callback of one session behind, so that the others get their texts."""
        last = self._is_last_thread()
        abandoned = self.scheduler.replace_results()
        self.watchdog.delivery_ended()
        self._report(abandoned, "The callback of a session", seconds, replaced=not last)

    def _is_last_thread(self) -> bool:
        """Whether no more threads may hang after the next one."""
        hanging = sum(thread.is_alive() for thread in self._hanging)
        return hanging + 1 >= self._limits.hanging_threads

    def _report(self, threads: list[threading.Thread], what: str, seconds: float, *, replaced: bool) -> None:
        self._hanging += threads
        if not threads:
            return
        if replaced:
            log.error("%s has not ended after %.0f s; another thread continues.", what, seconds)
        else:
            log.error("%s has not ended after %.0f s: restart the server.", what, seconds)
            self._hung = "The recognizer hangs: the server has to be restarted."
