"""`Watchdog`: times the work of the recognizer's thread, and detects a pass or a callback that hangs.

The engine reads no clock. It reports to an observer what it begins and ends, and the observer's clock is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from qwen_asr.config.limits import WatchdogLimits
from qwen_asr.engine.observer import Observer, PassSize


class Histogram(Protocol):
    """Takes measured values. Prometheus' and Ray's are such."""

    def observe(self, value: float, /) -> object:
        """Count one value."""


class Instruments(Protocol):
    """What the watchdog measures. `service.instruments` has them for Prometheus, `ray_engine` for Ray."""

    @property
    def rows(self) -> Histogram:
        """Utterances in one pass over the model."""

    @property
    def step(self) -> Histogram:
        """Seconds from submitting a step to its result."""


class Watchdog(Observer):
    """The scheduler reports to it on its own thread; everything else may be called from any thread."""

    def __init__(
        self,
        instruments: Instruments,
        limits: WatchdogLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.times_without_memory = 0
        self._instruments = instruments
        self._limits = limits or WatchdogLimits()
        self._clock = clock
        self._began: float | None = None  # start of the current iteration
        self._progressed = 0.0  # start of its latest pass
        self._timeout = self._limits.base_seconds
        self._busy = 0.0
        self._delivering_since: float | None = None
        self._out_of_memory_at: float | None = None
        self._steps: dict[object, float] = {}

    # --- called by the scheduler

    def iteration_started(self) -> None:
        """See `Observer`."""
        self._timeout = self._limits.base_seconds
        self._progressed = self._began = self._clock()

    def pass_started(self, size: PassSize) -> None:
        """See `Observer`. A pass may take longer the more work there is."""
        self._instruments.rows.observe(size.rows)
        limits = self._limits
        work = size.frames * limits.seconds_per_frame + size.positions * limits.seconds_per_position
        self._timeout = limits.base_seconds + work
        self._progressed = self._clock()

    def iteration_ended(self) -> None:
        """See `Observer`."""
        began, self._began = self._began, None
        if began is not None:
            self._busy += self._clock() - began

    def delivery_started(self) -> None:
        """See `Observer`."""
        self._delivering_since = self._clock()

    def delivery_ended(self) -> None:
        """See `Observer`."""
        self._delivering_since = None

    def step_started(self, step: object) -> None:
        """See `Observer`."""
        self._steps[step] = self._clock()

    def step_ended(self, step: object, failed: bool) -> None:
        """See `Observer`."""
        began = self._steps.pop(step, None)
        if began is not None and not failed:
            self._instruments.step.observe(self._clock() - began)

    def out_of_memory(self) -> None:
        """See `Observer`."""
        self.times_without_memory += 1
        self._out_of_memory_at = self._clock()

    # --- for everyone else

    @property
    def busy_seconds(self) -> float:
        """How long the recognizer has had work, in total."""
        began = self._began
        return self._busy + (self._clock() - began if began is not None else 0.0)

    @property
    def stalled_for(self) -> float | None:
        """How long the current pass has taken, in seconds, if it has exceeded its timeout; else None."""
        if self._began is None:
            return None
        seconds = self._clock() - self._progressed
        return seconds if seconds > self._timeout else None

    @property
    def delivery_stalled_for(self) -> float | None:
        """How long the callbacks of one step have taken, in seconds, if that exceeds `base_seconds`; else None."""
        since = self._delivering_since
        seconds = 0.0 if since is None else self._clock() - since
        return seconds if seconds > self._limits.base_seconds else None

    @property
    def short_of_memory(self) -> bool:
        """Whether a pass failed for lack of memory within the last `memory_seconds`."""
        at = self._out_of_memory_at
        return at is not None and self._clock() - at < self._limits.memory_seconds
