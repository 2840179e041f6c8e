"""`RemoteUtterance`: the samples of an utterance that engines in other processes recognize."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from qwen_asr.engine.decoder.drafts import LANGUAGE_TOKENS, Beginning
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.sample_buffer import SampleBuffer
from qwen_asr.fleet.messages import Settings, StepRequest


class RemoteUtterance(SampleBuffer):
    """Keeps all samples, so that any engine can take over, and knows how many of them one has.

    Not safe for use by two threads at once, but for `close`. context … beginning: as in `engine.streaming.Utterance`.
    on_close: called with the `uid` at the first `close`.
    """

    def __init__(
        self,
        on_close: Callable[[str], None],
        *,
        context: str,
        language: str | None,
        max_new_tokens: int,
        scored: bool,
        background: bool,
        beginning: Beginning,
    ) -> None:
        self.uid = secrets.token_hex(16)
        self.max_new_tokens = max_new_tokens
        super().__init__()
        self.closed = False
        self._on_close = on_close
        self._context, self._language = context, language
        self._scored, self.background = scored, background
        self._beginning = beginning
        self._holder = ""  # the engine that has the first `_confirmed` samples
        self._confirmed = 0
        self._number = 0  # of the last request
        self._tokens: tuple[int, ...] = ()  # of the last hypothesis: the draft where another engine takes over

    def truncate(self, length: int) -> None:
        """Drop the samples from `length` on."""
        self.length = min(length, self.length)
        self._confirmed = min(self._confirmed, self.length)

    def close(self) -> None:
        """Have the engine forget the utterance."""
        if self.closed:
            return
        self.closed = True
        if self._tokens and self._language is None:
            self._beginning.tokens = list(self._tokens[:LANGUAGE_TOKENS])
        if self._number:
            self._on_close(self.uid)

    def request(self, urgent: bool) -> StepRequest:
        """The request for a step over all samples: with those that the engine does not have yet."""
        self._number += 1
        offset = self._confirmed
        settings = None
        if not offset:
            draft = self._tokens or tuple(self._beginning.tokens)
            settings = Settings(self._context, self._language, self._scored, self.background, draft)
        return StepRequest(
            self.uid,
            self._number,
            self._holder if offset else "",
            offset,
            self.samples[offset:].copy(),
            self.max_new_tokens,
            urgent,
            settings,
        )

    def confirmed(self, engine: str, length: int) -> None:
        """The engine has the first `length` samples of the last request."""
        self._holder = engine
        self._confirmed = min(length, self.length)

    def has_fewer(self, engine: str, have: int) -> None:
        """The engine has only the first `have` samples, and those only if it was the one that confirmed them."""
        self._confirmed = min(have, self._confirmed) if engine == self._holder else 0

    def lost(self) -> None:
        """The engine is gone: another one gets all samples."""
        self._holder, self._confirmed = "", 0

    def recognized(self, hypothesis: Hypothesis) -> None:
        """The last hypothesis."""
        self._tokens = hypothesis.tokens
