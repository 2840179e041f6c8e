"""Faults inside of the real engine, set off by what is said: hooks of torch on the modules of the real model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from qwen_asr.engine.recognizer import Recognizer
from tests.support.checkpoints import Samples

_HIGH_BINS = slice(116, 128)  # of the log-mel: what is above 6.5 kHz
_TONE = 7_400.0  # Hz; the voices have next to nothing there
_LOUD = 0.7  # mean of the loudest of those bins: below 0.3 in speech, above 0.9 with the tone


def poisoned(speech: Samples) -> Samples:
    """The same speech with a tone that `whenever_poisoned` knows it by."""
    tone = 0.1 * np.sin(2 * np.pi * _TONE * np.arange(len(speech)) / 16_000)
    return (speech + tone).astype(np.float32)


@contextlib.contextmanager
def whenever_poisoned(recognizer: Recognizer, act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` within each pass of the encoder that holds poisoned speech."""

    def look(_: Any, inputs: tuple[torch.Tensor]) -> None:
        (chunks,) = inputs  # (chunks, 1, bins, frames)
        if chunks[:, 0, _HIGH_BINS].amax(dim=1).mean(dim=-1).max() > _LOUD:
            act()

    hook = recognizer.model.model.audio_tower.conv2d1.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def before_each_decoding(recognizer: Recognizer, act: Callable[[int], None]) -> Iterator[None]:
    """Calls `act(rows)` within each pass of the decoder, with the number of utterances in it."""

    def look(_: Any, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        act(len(inputs["rows"]))

    hook = recognizer.model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
