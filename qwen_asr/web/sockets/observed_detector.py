"""A voice detector whose findings a protocol sees too: it announces where speech starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.endpointing import DetectorEvent, UtteranceDetector


class ObservedDetector:
    """A voice detector that calls `on_events` with what it finds, before the session gets that."""

    def __init__(self, detector: UtteranceDetector, on_events: Callable[[Sequence[DetectorEvent]], None]) -> None:
        self.config = detector.config
        self._detector = detector
        self._on_detected = on_events

    @property
    def quiet(self) -> bool:
        return self._detector.quiet

    def feed(self, samples: NDArray[np.float32], /) -> Sequence[DetectorEvent]:
        found = self._detector.feed(samples)
        self._on_detected(found)
        return found

    def set_silence(self, seconds: float) -> None:
        self._detector.set_silence(seconds)

    def finish(self) -> Sequence[DetectorEvent]:
        found = self._detector.finish()
        self._on_detected(found)
        return found
