"""`Hypothesis`: what a step of an utterance gives. It needs no torch, so that programs without a model can use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """The model's answer for the first `samples` samples of an utterance.

    tokens: generated ids without the end token. raw: their text. language, text: what the processor's own
    `parse_output` makes of `raw`. truncated: whether it ended at the token limit instead of an end token.
    log_probabilities: the natural logarithm of each token's probability, if the utterance is `scored`; else empty.
    pieces: the UTF-8 bytes of each token, likewise. prompt_tokens: positions before the answer, those of the audio too.
    """

    tokens: tuple[int, ...] = ()
    raw: str = ""
    language: str | None = None
    text: str = ""
    samples: int = 0
    truncated: bool = False
    log_probabilities: tuple[float, ...] = ()
    pieces: tuple[bytes, ...] = ()
    prompt_tokens: int = 0
