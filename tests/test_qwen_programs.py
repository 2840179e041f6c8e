"""Programs in the shape of the examples of Qwen's own package: what they import, call, assert and print."""

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen_asr import Qwen3ASRModel, Qwen3ForcedAligner, parse_asr_output
from qwen_asr.audio.decode import load_audio
from tests.support.browser import write_wav
from tests.support.checkpoints import save_aligner, spoken

TEXTS = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
ON_THE_CPU: dict[str, Any] = {"dtype": torch.float32, "device_map": "cpu"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, one.wav and two.wav, and the checkpoint of an aligner."""
    folder = tmp_path_factory.mktemp("programs")
    for name, text in zip(("one.wav", "two.wav"), TEXTS, strict=True):
        write_wav(folder / name, spoken(text), 16_000)
    save_aligner(folder / "aligner", classes=100)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load_with_transformers(folder: Path) -> Qwen3ASRModel:
    return Qwen3ASRModel.from_pretrained(
        "demo",
        dtype=torch.float32,
        device_map="cpu",
        attn_implementation="flash_attention_2",
        forced_aligner=str(folder / "aligner"),
        forced_aligner_kwargs=ON_THE_CPU | {"attn_implementation": "flash_attention_2"},
        max_inference_batch_size=32,
        max_new_tokens=256,
    )


def load_with_vllm(folder: Path) -> Qwen3ASRModel:
    return Qwen3ASRModel.LLM(
        model="demo",
        gpu_memory_utilization=0.8,
        forced_aligner=str(folder / "aligner"),
        forced_aligner_kwargs=ON_THE_CPU,
        max_inference_batch_size=128,
        max_new_tokens=4096,
    )


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_with_transformers, load_with_vllm])
def test_files_of_every_kind_with_settings_of_their_own_and_times(load: Any, folder: Path, address: str) -> None:
    model = load(folder)
    recording = "data:audio/wav;base64," + base64.b64encode((folder / "one.wav").read_bytes()).decode()
    results = model.transcribe(audio=f"{address}/one.wav", language=None, return_time_stamps=False)
    assert isinstance(results, list)
    assert [(one.language, one.text, one.time_stamps) for one in results] == [("English", TEXTS[0], None)]

    results = model.transcribe(
        audio=[f"{address}/two.wav", recording, (load_audio(folder / "two.wav"), 16_000)],
        context=["", "kitchen", ""],
        language=[None, "Chinese", "English"],
        return_time_stamps=False,
    )
    assert [one.language for one in results] == ["English", "Chinese", "English"]
    assert (results[0].text, results[2].text) == (TEXTS[1], TEXTS[1])

    results = model.transcribe(
        audio=[f"{address}/one.wav", recording, f"{address}/two.wav"],
        language=["English", "English", "English"],
        return_time_stamps=True,
    )
    assert len(results) == 3
    assert all(one.time_stamps is not None and len(one.time_stamps) > 0 for one in results)
    for one in results:
        first, last = one.time_stamps[0], one.time_stamps[-1]
        assert one.text.startswith(first.text)
        assert one.text.endswith(last.text + ".")
        assert 0 <= first.start_time <= first.end_time <= last.end_time < 4


@pytest.fixture(scope="module")
def streaming() -> Qwen3ASRModel:
    return Qwen3ASRModel.LLM(model="demo", gpu_memory_utilization=0.8, max_new_tokens=32)


@pytest.mark.slow
@pytest.mark.parametrize("step_ms", [500, 1000, 2000, 4000])
def test_a_recording_is_streamed_in_steps(streaming: Qwen3ASRModel, step_ms: int) -> None:
    model = streaming
    recording = np.concatenate([spoken(TEXTS[0]), np.zeros(8_000, np.float32), spoken(TEXTS[1])])
    state = model.init_streaming_state(unfixed_chunk_num=2, unfixed_token_num=5, chunk_size_sec=2.0)
    step = round(step_ms / 1000.0 * 16_000)
    seen = []
    position = 0
    while position < recording.shape[0]:
        segment = recording[position : position + step]
        position += segment.shape[0]
        model.streaming_transcribe(segment, state)
        seen.append((state.language, state.text))
    model.finish_streaming_transcribe(state)
    assert (state.language, state.text) == ("English", f"{TEXTS[0]} {TEXTS[1]}")
    assert seen[-1][1].startswith(TEXTS[0])
    assert len(seen) == -(-len(recording) // step)


def test_texts_are_aligned(folder: Path, address: str) -> None:
    aligner = Qwen3ForcedAligner.from_pretrained(str(folder / "aligner"), **ON_THE_CPU)
    results = aligner.align(
        audio=[f"{address}/one.wav", (load_audio(folder / "two.wav"), 16_000)],
        text=["甚至出现交易几乎停滞的情况。", TEXTS[1]],
        language=["Chinese", "English"],
    )
    assert [len(result) for result in results] == [13, 9]
    assert [results[0][0].text, results[1][-1].text] == ["甚", "May"]


def test_an_answer_of_a_server_is_parsed() -> None:
    language, text = parse_asr_output(f"language English<asr_text>{TEXTS[0]}")
    assert (language, text) == ("English", TEXTS[0])
