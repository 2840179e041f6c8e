"""What a session and a server need of an engine, in this process or in another one. Needs no torch.

`SpeechModel` creates utterances, and an `Engine` also runs their steps. `engine.local_engine` has both for a recognizer
in this process, `fleet.scheduler` for engines in other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    import numpy as np

    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.words import Aligner, Clip, Word


class EngineUtterance(Protocol):
    """An utterance whose samples an engine recognizes while they arrive. Samples are float32 mono at 16 kHz."""

    max_new_tokens: int

    @property
    def length(self) -> int:
        """Samples appended so far, without those that were cut off."""

    @property
    def samples(self) -> NDArray[np.float32]:
        """These samples, (length,)."""

    def append(self, samples: NDArray[np.float32], /) -> None:
        """Append validated samples, (n,). The model does not run."""

    def truncate(self, length: int, /) -> None:
        """Drop the samples from `length` on."""

    def close(self) -> None:
        """Return what the engine keeps for the utterance. No step may be started after it; one that runs may end."""


class NewUtterance(Protocol):
    """Creates the utterances of one session. Raises `BadInput` for a context that the model cannot take."""

    def __call__(self, *, context: str, language: str | None, max_new_tokens: int) -> EngineUtterance: ...


class SpeechModel(Protocol):
    """What a session needs to create utterances."""

    @property
    def aligner(self) -> Aligner | None:
        """Finds the times of words, if there is one."""

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None, /) -> None:
        """Raise `LimitExceeded` if the KV pool could not hold one utterance of `seconds` with this prompt.

        Raise `BadInput` for a context that the model cannot take.
        """

    def utterances(self, *, background: bool, scored: bool, draft: Sequence[int] = ()) -> NewUtterance:
        """What creates the utterances of one new session; the arguments are those of `engine.streaming.Utterance`.

        draft: tokens that may begin the answer to the first of them, which are verified first.
        """


class StepRunner(Protocol):
    """Runs steps and alignments, those of many sessions. Any thread may call it."""

    def submit(
        self,
        utterance: EngineUtterance,
        on_start: Callable[[], None] | None = None,
        is_urgent: Callable[[], bool] = lambda: True,
        /,
    ) -> Future[Hypothesis]:
        """Run one step over all samples that `utterance`, one of `utterances`, has when the step starts.

        See `engine.scheduler.Scheduler.submit`, which has the rules.
        """

    def align(self, clip: Clip, /, *, background: bool = False) -> Future[tuple[Word, ...]]:
        """Find the words of a clip; see `engine.scheduler.Scheduler.align`."""


@dataclass(frozen=True)
class EngineInfo:
    """An engine's checkpoint, for people and for a fleet.

    name: of the checkpoint. is_demo: whether it is the bundled demo. form: its data type and device, for the log.
    digest: of the checkpoint's configuration, form and a sample of its weights: engines with the same digest give the
    same text, up to the arithmetic of their devices. positions: what the KV pool holds.
    """

    name: str
    is_demo: bool
    form: str
    digest: str
    positions: int


class LoadedModel(SpeechModel, StepRunner, Protocol):
    """A model that runs the steps of many utterances. Any thread may call it."""

    @property
    def info(self) -> EngineInfo:
        """Its checkpoint."""


class Engine(LoadedModel, Protocol):
    """A model that a server uses, with what the server has to know of its state."""

    @property
    def kv_cache_used(self) -> float | None:
        """The share of the KV pool that is in use, from 0 to 1; None if unknown."""

    @property
    def busy_seconds(self) -> float:
        """How long the model has had work, in total."""

    @property
    def times_without_memory(self) -> int:
        """How many passes failed for lack of memory."""

    @property
    def short_of_memory(self) -> bool:
        """Whether no session should be opened now, because a pass failed for lack of memory a short while ago."""

    def out_of_memory(self) -> None:
        """Take note that there was not enough memory for what a session needs."""

    def unavailable_reason(self) -> str | None:
        """Why no step can run now, though one may later, as a sentence; None if steps can run."""

    def unhealthy_reason(self) -> str | None:
        """Why this process has to be restarted, as a sentence; None if it works."""

    def close(self) -> None:
        """Stop. Unfinished steps fail."""
