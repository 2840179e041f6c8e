"""Watches over the recognizer's thread: how long its work takes, and whether it still gets on.

The engine reads no clock; it tells an observer what it begins and ends, and the clock is here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.config.limits import MEMORY_SECONDS, STALL_SECONDS, STALL_SECONDS_PER_FRAME, STALL_SECONDS_PER_POSITION
from qwen_asr.engine.observer import Load, Observer

if TYPE_CHECKING:
    from qwen_asr.service.instruments import Instruments

_WINDOW = 60.0  # seconds over which the real-time factor is taken


class Watchdog(Observer):
    """Told of the scheduler's work on its own thread; asked from any other."""

    def __init__(self, instruments: Instruments, clock: Callable[[], float] = time.monotonic) -> None:
        self.times_without_memory = 0
        self._instruments = instruments
        self._clock = clock
        self._began: float | None = None  # this turn
        self._moved = 0.0  # when this turn was last seen to get on
        self.base_timeout = STALL_SECONDS  # for a pass without anything to do
        self._allowed = self.base_timeout
        self._busy = 0.0
        self._without_memory: float | None = None
        self._steps: dict[object, float] = {}
        self._readings: deque[tuple[float, float, float]] = deque()  # time, busy seconds, audio seconds
        self._reading = threading.Lock()

    # --- what the scheduler tells

    def turn_begins(self) -> None:
        """See `Observer`."""
        self._allowed = self.base_timeout
        self._moved = self._began = self._clock()

    def pass_begins(self, load: Load) -> None:
        """See `Observer`. The more there is to do, the longer it may take."""
        self._instruments.rows.observe(load.rows)
        more = load.frames * STALL_SECONDS_PER_FRAME + load.positions * STALL_SECONDS_PER_POSITION
        self._allowed = self.base_timeout + more
        self._moved = self._clock()

    def turn_ends(self) -> None:
        """See `Observer`."""
        began, self._began = self._began, None
        if began is not None:
            self._busy += self._clock() - began

    def step_begins(self, step: object) -> None:
        """See `Observer`."""
        self._steps[step] = self._clock()

    def step_ends(self, step: object, failed: bool) -> None:
        """See `Observer`."""
        began = self._steps.pop(step, None)
        if began is not None and not failed:
            self._instruments.step.observe(self._clock() - began)

    def out_of_memory(self) -> None:
        """See `Observer`."""
        self.times_without_memory += 1
        self._without_memory = self._clock()

    # --- what others ask

    @property
    def busy_seconds(self) -> float:
        """How long the recognizer has had work, all turns together."""
        began = self._began
        return self._busy + (self._clock() - began if began is not None else 0.0)

    @property
    def stalled_for(self) -> float | None:
        """For how many seconds a pass has taken longer than it may; None while all is well."""
        if self._began is None:
            return None
        seconds = self._clock() - self._moved
        return seconds if seconds > self._allowed else None

    @property
    def short_of_memory(self) -> bool:
        """Whether there was no memory for a pass a moment ago."""
        return self._without_memory is not None and self._clock() - self._without_memory < MEMORY_SECONDS

    def real_time_factor(self, audio_seconds: float) -> float | None:
        """Seconds of recognition for a second of audio, of the last minute; None where no audio came in it.

        `audio_seconds` is the total so far. To be asked now and then: what it is taken from are the questions.
        """
        with self._reading:
            now = self._clock()
            while len(self._readings) > 1 and now - self._readings[1][0] >= _WINDOW:
                self._readings.popleft()
            busy = self.busy_seconds
            since = self._readings[0] if self._readings else (0.0, 0.0, 0.0)
            if not self._readings or now - self._readings[-1][0] > _WINDOW / 60:  # however often it is asked
                self._readings.append((now, busy, audio_seconds))
        heard = audio_seconds - since[2]
        return (busy - since[1]) / heard if heard > 0 else None
