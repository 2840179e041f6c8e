"""What the page refuses by itself, and what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.config.config import Config
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.web.page.page import AUTOMATIC
from qwen_asr.web.temporary_files import private_folder
from qwen_asr.web.zero_gpu.page import Clips
from tests.support.browser import write_wav

FINALS = [
    Final(0, 0, 16_000, "English", "One.", 0.0, words=(Word("One.", 0, 16_000),)),
    Final(1, 20_000, 40_000, "English", "Two.", 0.0),
]


class Called:
    """A task with known finals, which keeps what it was called with."""

    def __init__(self, *finals: Final, error: Exception | None = None) -> None:
        self.samples = 0
        self.options: SessionOptions | None = None
        self._finals, self._error = finals, error

    def __call__(self, samples: NDArray[np.float32], options: SessionOptions) -> Iterator[Final]:
        self.samples, self.options = len(samples), options
        yield from self._finals
        if self._error is not None:
            raise self._error


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path) -> Iterator[None]:  # pytest's own folder is not one of these
    with private_folder():
        yield


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(write_wav(tmp_path / "clip.wav", np.zeros(3 * SAMPLE_RATE, np.float32), SAMPLE_RATE))


def updates(task: Called, clip: str, language: str = AUTOMATIC, context: str = "", **options: Any) -> list[Any]:
    return list(Clips(task, Config(**options)).transcribe(clip, language, context))


def test_the_text_grows_and_is_saved_in_all_formats(clip: str) -> None:
    task = Called(*FINALS)
    shown = updates(task, clip, "German", "Grünau", default_prompt="Answer.")
    assert task.samples == 3 * SAMPLE_RATE
    assert task.options is not None
    assert (task.options.language, task.options.system_prompt) == ("German", "Answer.\n\nGrünau")
    assert [text for text, *_ in shown] == ["", "One.", "One. Two.", "One. Two."]
    assert not any(button["interactive"] for _, *buttons in shown[:-1] for button in buttons)
    saved = {Path(button["value"]).suffix: Path(button["value"]).read_text() for button in shown[-1][1:]}
    assert saved[".txt"] == "One.\nTwo.\n"
    assert saved[".vtt"].startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nOne.")
    assert json.loads(saved[".json"])["utterances"][0]["words"][0]["end"] == 1.0
    assert "00:00:01,250 -->" in saved[".srt"]


def test_what_cannot_be_transcribed(clip: str, tmp_path: Path) -> None:
    task = Called()
    with pytest.raises(gr.Error, match=r"The file is longer than .* cut it into parts"):
        updates(task, clip, max_file_seconds=2.0)
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(gr.Error, match="The file cannot be read as audio") as refused:
        updates(task, str(tmp_path / "text.wav"))
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(gr.Error, match="its audio is gone: record or choose it again"):
        updates(task, str(tmp_path / "removed.wav"))
    with pytest.raises(gr.Error, match="Klingon"):
        updates(task, clip, "Klingon")
    assert task.options is None  # no GPU was asked for
    with pytest.raises(gr.Error, match="No speech was found"):
        updates(task, clip)


def test_what_happens_on_the_gpu_is_told_in_a_sentence(clip: str, caplog: pytest.LogCaptureFixture) -> None:
    aborted = gr.Error("GPU task aborted", title="ZeroGPU worker error")
    with pytest.raises(gr.Error, match="needed more than 21 seconds"):
        updates(Called(FINALS[0], error=aborted), clip)
    with pytest.raises(gr.Error, match="scheduler cannot be reached"):
        updates(Called(error=httpx.ConnectError("no route")), clip)
    assert "no route" in caplog.text
