"""`SampleBuffer`: the samples of an utterance, which grow. It needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INITIAL_CAPACITY = 16_000


class SampleBuffer:
    """Float32 mono samples at 16 kHz. `length`: how many there are."""

    def __init__(self) -> None:
        self._buffer = np.zeros(INITIAL_CAPACITY, dtype=np.float32)
        self.length = 0

    @property
    def samples(self) -> NDArray[np.float32]:
        """All samples appended so far, (length,)."""
        return self._buffer[: self.length]

    def append(self, samples: NDArray[np.float32]) -> None:
        """Append validated samples, (n,). No model runs."""
        end = self.length + len(samples)
        if end > len(self._buffer):
            grown = np.zeros(max(end, 2 * len(self._buffer)), dtype=np.float32)
            grown[: self.length] = self.samples
            self._buffer = grown
        self._buffer[self.length : end] = samples
        self.length = end
