"""`RealTimeFactor`: how long the recognizer works for a second of audio, over the last minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_WINDOW_SECONDS = 60.0


class RealTimeFactor:
    """Thread-safe. `clock` is for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float, float]] = deque()  # time, busy seconds, audio seconds
        self._sampling = threading.Lock()

    def over_last_minute(self, busy_seconds: float, audio_seconds: float) -> float | None:
        """Seconds of recognition per second of audio; None if no audio was received in that time.

        Both arguments are totals so far. The factor is computed from those of earlier calls, so call it regularly.
        """
        with self._sampling:
            now = self._clock()
            while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_SECONDS:
                self._samples.popleft()
            since = self._samples[0] if self._samples else (0.0, 0.0, 0.0)
            # A bound on the number of samples, however often this is called.
            if not self._samples or now - self._samples[-1][0] > _WINDOW_SECONDS / 60:
                self._samples.append((now, busy_seconds, audio_seconds))
        received = audio_seconds - since[2]
        return (busy_seconds - since[1]) / received if received > 0 else None
