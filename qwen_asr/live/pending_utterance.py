"""`PendingUtterance`: an utterance of a session from its first sample until its `Final` or `Failed`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr.live import guards
from qwen_asr.live.events import Final
from qwen_asr.live.settling import Settling

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import EngineUtterance


@dataclass(eq=False)
class SpokenLanguage:
    """The language of utterances in a row: `given` by the options, or `established` by the last long one."""

    given: str | None
    established: str | None = None


@dataclass(eq=False)
class PendingUtterance:
    """The state of an utterance. Lengths are in samples since `start`."""

    number: int
    start: int
    engine: EngineUtterance
    context: str
    language: SpokenLanguage
    length: int = 0  # received from the detector; after the end, the exact length of the utterance
    ended: bool = False
    buffered: deque[NDArray[np.float32]] = field(default_factory=deque)  # not yet appended to `engine`
    submitted: int = 0  # length at the start of the last step
    covered: int = 0  # length of the last hypothesis
    shown: int = 0  # length of the last partial
    audible: bool = False
    settling: Settling = field(default_factory=Settling)
    warnings: list[str] = field(default_factory=list)  # for the next event
    retry: guards.Retry | None = None  # set while the utterance is decoded again
    first: Hypothesis | None = None  # the hypothesis that caused the retry
    retried: set[str] = field(default_factory=set)  # reasons of retries so far; each is allowed once
    final: Final | None = None  # recalled, or waiting for its words: the utterance needs no more steps

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def uncovered(self) -> int:
        return self.length - min(self.covered, self.length)

    def hand_over(self) -> None:
        """Appends the buffered audio to the engine utterance, and removes audio after a cut."""
        while self.buffered:
            self.engine.append(self.buffered[0])
            self.buffered.popleft()
        if self.ended and self.engine.length > self.length:
            self.engine.truncate(self.length)

    def restart(self, fresh: EngineUtterance) -> None:
        """Replaces the engine utterance by a new one with the same samples."""
        fresh.append(self.engine.samples)
        self.engine.close()
        self.engine = fresh
