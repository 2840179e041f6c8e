"""What runs on the borrowed GPU: one clip, transcribed by a session of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import gradio as gr
import numpy as np
import spaces
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.vad import Silero
from qwen_asr.engine.aligner import Aligner, own_aligner
from qwen_asr.engine.checkpoint import LoadedCheckpoint
from qwen_asr.engine.local_engine import LocalModel
from qwen_asr.errors import QwenASRError
from qwen_asr.live.events import Failed, Final
from qwen_asr.live.runner import run_session
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions

START_SECONDS = 20
"""GPU time that every call asks for: the weights are copied to the GPU, and the first passes are slow."""
SECONDS_TO_ONE = 8
"""How many seconds of audio one more second of GPU time is asked for. It is a cautious guess: utterances are decoded
one after another, without captured graphs. Only the time that a call takes is charged."""
BLOCK = 30 * SAMPLE_RATE
"""Samples that the session is fed at once. Between two blocks it decodes the utterances that are over."""

GpuTask = Callable[[NDArray[np.float32], SessionOptions], Iterator[Final]]
"""Transcribes float32 mono samples at 16 kHz, and yields each final as soon as it is known."""


def gpu_seconds(samples: NDArray[np.float32], options: SessionOptions | None = None) -> int:
    """The GPU time in seconds that a call with these samples asks for. `options` are those of the call: unused."""
    return START_SECONDS + math.ceil(len(samples) / SAMPLE_RATE / SECONDS_TO_ONE)


def gpu_task(checkpoint: LoadedCheckpoint, aligner: Aligner | None = None) -> GpuTask:
    """The task for these weights, which the calling process has put on "cuda".

    The task raises gr.Error with a sentence for people, of this package or of `spaces`; see `refusals`. It raises other
    exceptions if the scheduler of ZeroGPU cannot be used.
    """
    made: list[tuple[LocalModel, Silero]] = []  # stays empty in the main process: a recognizer needs the real GPU

    # `spaces` passes arguments by position.
    @spaces.GPU(duration=gpu_seconds)  # type: ignore[untyped-decorator]  # it ships no types
    def transcribe(samples: NDArray[np.float32], options: SessionOptions) -> Iterator[Final]:
        if not made:
            recognizer = checkpoint.recognizer()
            recognizer.aligner = aligner or own_aligner(recognizer)
            made.append((LocalModel(recognizer), Silero()))
        try:
            session = create_session(*made[0], options)
            blocks = (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
            for event in run_session(session, blocks):
                if isinstance(event, Failed):
                    raise gr.Error(event.message, print_exception=False)
                if isinstance(event, Final) and event.text:
                    yield event
        except QwenASRError as error:  # of any other exception `spaces` passes on nothing but the name of its class
            raise gr.Error(str(error), print_exception=False) from error

    task: GpuTask = transcribe
    return task
