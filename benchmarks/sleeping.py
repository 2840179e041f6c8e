"""An engine on the real scheduler whose model sleeps: a pass takes a fixed time, however many steps share it.

So what a benchmark or a test measures of it is the way to the model, not the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo, NewUtterance
from qwen_asr.engine.local_engine import LocalEngine
from qwen_asr.engine.recognizer import Pass, Recognizer, Transform
from qwen_asr.engine.words import Aligner

Samples = NDArray[np.float32]
Transcribe = Callable[[Samples, str, "str | None"], Hypothesis]  # (samples, context, language) → hypothesis


def count_samples(samples: Samples, context: str, language: str | None) -> Hypothesis:
    """What a model hears that only counts."""
    return Hypothesis((1,), "raw", language or "English", f"{len(samples)} samples", len(samples))


class SleepingModel:
    """What the scheduler needs of a recognizer. `seconds`: how long a pass takes."""

    device = torch.device("meta")  # all steps start at once, as on a GPU
    name = "sleeping"
    aligner: Aligner | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passes = 0

    def run(self, passes: list[Pass]) -> list[None]:
        """One pass of these steps together."""
        self.passes += 1
        time.sleep(self.seconds)
        return [None] * len(passes)

    def cache_lengths(self, passes: list[Pass]) -> list[int]:
        """There is no cache."""
        return [0] * len(passes)

    def restore(self, one: Pass, length: int) -> None:
        """There is nothing to restore."""


@dataclass(frozen=True)
class _Heard:
    hypothesis: Hypothesis

    def parse(self) -> Hypothesis:
        return self.hypothesis


class SleepingUtterance:
    """An utterance whose step takes `passes` passes, and which must not change meanwhile."""

    def __init__(
        self, transcribe: Transcribe, passes: int, background: bool, context: str, language: str | None
    ) -> None:
        self.max_new_tokens = 1
        self.background = background
        self.samples: Samples = np.zeros(0, np.float32)
        self._transcribe, self._passes = transcribe, passes
        self._context, self._language = context, language

    @property
    def length(self) -> int:
        """See `EngineUtterance`."""
        return len(self.samples)

    def append(self, samples: Samples) -> None:
        """See `EngineUtterance`."""
        self.samples = np.concatenate((self.samples, samples))

    def truncate(self, length: int) -> None:
        """See `EngineUtterance`."""
        self.samples = self.samples[:length]

    def close(self) -> None:
        """See `EngineUtterance`."""

    def step(self) -> Generator[Pass, None, _Heard]:
        """See `engine.streaming.Utterance.step`."""
        samples = self.samples
        for _ in range(self._passes):
            yield Transform(cast("Any", None))
        if self.samples is not samples:
            raise RuntimeError("The utterance was changed during a step.")
        return _Heard(self._transcribe(samples, self._context, self._language))


class SleepingEngine(LocalEngine):
    """Runs steps of `passes` passes of `seconds` each; their texts are what `transcribe` makes of the samples."""

    info = EngineInfo("sleeping", False, "float32", "sleeping", 1_000_000)

    def __init__(self, seconds: float, passes: int, transcribe: Transcribe = count_samples) -> None:
        super().__init__(cast("Recognizer", SleepingModel(seconds)))
        self._passes, self._transcribe = passes, transcribe

    def utterances(self, *, background: bool = False, scored: bool = False, draft: Sequence[int] = ()) -> NewUtterance:
        """See `SpeechModel`."""

        def create(*, context: str, language: str | None, max_new_tokens: int) -> SleepingUtterance:
            return SleepingUtterance(self._transcribe, self._passes, background, context, language)

        return create

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        """There is always room."""
