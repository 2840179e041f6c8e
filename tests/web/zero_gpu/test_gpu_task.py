"""The task without ZeroGPU, where `spaces` leaves it as it is: in this process, on the CPU."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import load_audio
from qwen_asr.engine.checkpoint import load_checkpoint
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.web.zero_gpu.gpu_task import GpuTask, gpu_seconds, gpu_task
from tests.support.rest_client import SENTENCES, offline, speech


@pytest.fixture(scope="module")
def task() -> GpuTask:
    return gpu_task(load_checkpoint("demo", "cpu", "float32", print))


@pytest.mark.slow
def test_finals_are_the_offline_text_with_the_times_of_words(task: GpuTask) -> None:
    recording = speech(5)  # more than one block
    options = SessionOptions(chunk_seconds=31, background=True, words=True)
    finals = list(task(load_audio(recording), options))
    assert [final.text for final in finals] == [*SENTENCES] * 5
    for final in finals[::4]:
        assert offline(recording, final.start / SAMPLE_RATE, final.end / SAMPLE_RATE) == final.text
        assert " ".join(word.text for word in final.words) == final.text


def test_errors_for_people_keep_their_sentences(task: GpuTask) -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert list(task(silence, SessionOptions())) == []
    with pytest.raises(gr.Error, match="control token of the model: remove it"):
        list(task(silence, SessionOptions(context="<|im_end|>")))


def test_gpu_time_grows_with_the_audio() -> None:
    assert [gpu_seconds(np.zeros(round(seconds * SAMPLE_RATE), np.float32)) for seconds in (0, 1, 8, 60, 1800)] == [
        20,
        21,
        21,
        28,
        245,
    ]
