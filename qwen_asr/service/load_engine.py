"""`load_engine`: the engine that a server's options ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.engine.device.inference_only import for_inference_only

if TYPE_CHECKING:
    from qwen_asr.config.config import Config
    from qwen_asr.config.limits import Limits
    from qwen_asr.engine.interface import Engine
    from qwen_asr.engine.recognizer import Recognizer
    from qwen_asr.service.instruments import Instruments


def load_engine(
    path: str,
    config: Config,
    instruments: Instruments,
    limits: Limits,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Engine:
    """Loads the checkpoint `path`, which takes seconds to minutes; `progress` gets a line for people at each stage.

    Raises what `engine.checkpoint.load_recognizer` and `engine.aligner.load_with_aligner` raise.
    """
    recognizer = for_inference_only(lambda: _load_recognizer(path, config, progress))
    from qwen_asr.service.watched_engine import WatchedEngine  # heavy: torch

    return WatchedEngine(recognizer, instruments, limits.watchdog, clock, alone=len(config.models) == 1)


def _load_recognizer(path: str, config: Config, progress: Callable[[str], None]) -> Recognizer:
    from qwen_asr.engine.aligner import load_with_aligner  # heavy: takes seconds, and the page is up meanwhile

    return load_with_aligner(
        path,
        config.device,
        config.dtype,
        progress,
        aligner_path=config.aligner_model_path,
        quantize=config.quantize,
        memory_share=1 / len(config.models),
    )
