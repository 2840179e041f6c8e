"""`LocalEngine`: a recognizer in this process and its scheduler, as an `Engine`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial

from qwen_asr.engine.checkpoint import weights_digest
from qwen_asr.engine.decoder.drafts import Beginning
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo, EngineUtterance, NewUtterance
from qwen_asr.engine.observer import Observer
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Utterance
from qwen_asr.engine.words import Clip, Word, WordAligner


class LocalModel:
    """A recognizer as a `SpeechModel`: a session can run its steps in its own thread."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @property
    def aligner(self) -> WordAligner | None:
        """The recognizer's."""
        return self.recognizer.aligner

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        """See `Recognizer.check_room`."""
        self.recognizer.check_room(seconds, max_new_tokens, context, language)

    def utterances(self, *, background: bool = False, scored: bool = False, draft: Sequence[int] = ()) -> NewUtterance:
        """What creates the utterances of one new session; see `SpeechModel`."""
        beginning = Beginning(list(draft))
        return partial(Utterance, self.recognizer, beginning=beginning, background=background, scored=scored)


class LocalEngine(LocalModel):
    """A recognizer and the scheduler that runs its steps. `observer` gets the scheduler's reports."""

    def __init__(self, recognizer: Recognizer, observer: Observer | None = None) -> None:
        super().__init__(recognizer)
        self.scheduler = Scheduler(recognizer, observer)

    @cached_property
    def info(self) -> EngineInfo:
        """See `Engine`. The digest takes some milliseconds at the first use."""
        recognizer = self.recognizer
        precision = str(recognizer.dtype).removeprefix("torch.")
        form = f"{precision}, decoder in int8" if recognizer.quantized else precision
        config = recognizer.model.config.to_json_string() + form
        digest = hashlib.sha256(config.encode() + weights_digest(recognizer.model).encode()).hexdigest()
        form = f"{form} on {recognizer.device}"
        return EngineInfo(recognizer.name, recognizer.is_demo, form, digest, recognizer.decoder.pool.positions)

    @property
    def kv_cache_used(self) -> float:
        """See `Engine`."""
        pool = self.recognizer.decoder.pool
        return pool.positions_used / pool.positions

    def submit(
        self,
        utterance: EngineUtterance,
        on_start: Callable[[], None] | None = None,
        is_urgent: Callable[[], bool] = lambda: True,
    ) -> Future[Hypothesis]:
        """See `Scheduler.submit`."""
        return self.scheduler.submit(utterance, on_start, is_urgent)

    def align(self, clip: Clip, *, background: bool = False) -> Future[tuple[Word, ...]]:
        """See `Scheduler.align`."""
        return self.scheduler.align(clip, background=background)

    def close(self) -> None:
        """See `Scheduler.close`."""
        self.scheduler.close()
