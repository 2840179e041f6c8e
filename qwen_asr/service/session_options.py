"""What a recording is opened with, and who listens to it: what speakers, sockets and the service have in common."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class AudioSink(Protocol):
    """Who listens to a speaker: takes 16 kHz float32 mono as it comes, tells events to the function it was given."""

    @property
    def lag(self) -> float:
        """Seconds of audio taken that no text covers yet."""

    @property
    def idle(self) -> bool:
        """Whether everything heard so far has been told. With a `lag` of 0 the text may still be on its way."""

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Takes more audio. Must not block on the model."""

    def finish(self) -> Future[None]:
        """No more audio comes. The future is done once the last event was told."""

    def close(self) -> None:
        """Forget everything; nobody reads any more."""


@dataclass(frozen=True)
class SessionOptions:
    """What a recording is opened with: sampling rate in Hz, what the model is told, seconds from one text to the next.

    What is left empty is the server's default.
    """

    rate: int
    context: str = ""
    language: str | None = None
    prompt: str = ""
    chunk_seconds: float | None = None
