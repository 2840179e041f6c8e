"""Faults in the real engine that certain audio triggers, at the parts of the recognizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from qwen_asr.engine.decoder.forward import Prediction
from qwen_asr.engine.decoder.packing import Row
from qwen_asr.engine.recognizer import Recognizer
from tests.support.checkpoints import Samples

_HIGH_BINS = slice(116, 128)  # of the log-mel: above 6.5 kHz
_TONE = 7_400.0  # Hz; the voices have almost no energy there
_LOUD = 0.7  # mean over time of the loudest of those bins: below 0.3 in speech, above 0.9 with the tone


def poisoned(speech: Samples) -> Samples:
    """The speech with a tone added that `whenever_poisoned` detects."""
    tone = 0.1 * np.sin(2 * np.pi * _TONE * np.arange(len(speech)) / 16_000)
    return (speech + tone).astype(np.float32)


@contextlib.contextmanager
def whenever_poisoned(recognizer: Recognizer, action: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `action` in each encoder pass that contains poisoned speech."""

    def check(_: Any, inputs: tuple[torch.Tensor]) -> None:
        (chunks,) = inputs  # (chunks, 1, bins, frames)
        if chunks[:, 0, _HIGH_BINS].amax(dim=1).mean(dim=-1).max() > _LOUD:
            action()

    hook = recognizer.model.model.audio_tower.conv2d1.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def before_each_decoding(recognizer: Recognizer, action: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call `action(rows)` in each decoder pass, with the number of utterances in it."""

    predict = recognizer.decoder.predict

    def check(rows: list[Row]) -> list[Prediction]:
        action(len(rows))
        return predict(rows)

    recognizer.decoder.predict = check  # type: ignore[method-assign]  # restored below
    try:
        yield
    finally:
        del recognizer.decoder.predict
