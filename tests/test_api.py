"""The public API: compatible with Qwen's package, and streaming ends with the offline text."""

import base64
import threading
import wave
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qwen_asr
from qwen_asr import Final, Partial, Qwen3ASRModel, run_session
from qwen_asr.errors import AudioError, BadInput, UnknownLanguage
from tests.support.checkpoints import DEMO, Samples, check_generated, demo_recognizer, long_speech, spoken

torch.set_num_threads(1)
TEXT = "Turn on the kitchen light."


@pytest.fixture(scope="module")
def model() -> Qwen3ASRModel:
    return Qwen3ASRModel.from_pretrained(str(DEMO), dtype=torch.float32, device_map="cpu", max_new_tokens=256)


def write_wave(path: Path, samples: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.mark.slow
def test_every_type_of_audio_source(model: Qwen3ASRModel, tmp_path: Path) -> None:
    samples = spoken(TEXT)
    path = write_wave(tmp_path / "one.wav", samples)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = path.read_bytes()
    encoded = base64.b64encode(data).decode()
    sources: list[Any] = [
        str(path),
        path,
        data,
        encoded,
        f"data:audio/wav;base64,{encoded}",
        (samples, 16_000),
        ((samples * 32767).astype(np.int16), 16_000),
        f"http://127.0.0.1:{server.server_port}/one.wav",
    ]
    try:
        answers = [model.transcribe(source)[0] for source in sources]
    finally:
        server.shutdown()
        server.server_close()
    assert answers[0].text == TEXT
    assert answers[0].language == "English"
    assert {answer.text for answer in answers} == {TEXT}


def test_a_list_is_transcribed_in_order_with_separate_settings(model: Qwen3ASRModel) -> None:
    clips = [(spoken(text, voice), 16_000) for voice, text in enumerate((TEXT, "Open the window.", TEXT))]
    answers = model.transcribe(clips, context=["", "window", ""], language=["English", None, "de"])
    assert answers[0].text == TEXT
    assert "window" in answers[1].text
    assert answers[2].language == "German"
    assert [model.transcribe(clip)[0].text for clip in clips[:2]] == [answer.text for answer in answers[:2]]


@pytest.mark.slow
def test_offline_equals_generate(model: Qwen3ASRModel) -> None:
    samples = long_speech(np.random.default_rng(1), 20.0)
    utterance = model.init_streaming_state(chunk_size_sec=100)
    model.streaming_transcribe(samples, utterance)
    model.finish_streaming_transcribe(utterance)
    check_generated("demo", samples, utterance.utterance.hypothesis.tokens, max_new_tokens=256)
    assert model.transcribe((samples, 16_000))[0].text == utterance.text


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.01, 3.0, 29.9, 75.0])
def test_streaming_ends_with_the_offline_text(model: Qwen3ASRModel, seconds: float) -> None:
    rng = np.random.default_rng(int(seconds))
    samples = long_speech(rng, seconds)
    state = model.init_streaming_state(unfixed_chunk_num=2, unfixed_token_num=5, chunk_size_sec=1.0)
    position = 0
    while position < len(samples):
        size = int(rng.integers(0, 40_000))
        assert model.streaming_transcribe(samples[position : position + size], state) is state
        position += size
    model.finish_streaming_transcribe(state)
    offline = model.transcribe((samples, 16_000))[0]
    assert state.text == offline.text
    assert state.language == offline.language


def test_a_step_runs_at_each_full_chunk(model: Qwen3ASRModel) -> None:
    samples = spoken("The meeting is on Monday the tenth of May.")
    state = model.init_streaming_state(chunk_size_sec=1.0)
    model.streaming_transcribe(samples[:15_999], state)
    assert state.utterance.work.steps == 0
    model.streaming_transcribe((samples[15_999:33_000] * 32767).astype(np.int16), state)
    assert state.utterance.work.steps == 2
    model.finish_streaming_transcribe(state)
    assert state.text.startswith("The meeting")


@pytest.mark.slow
def test_a_session_reports_utterances_while_they_are_spoken(model: Qwen3ASRModel) -> None:
    pause = np.zeros(24_000, dtype=np.float32)
    samples = np.concatenate([pause, spoken(TEXT), pause, spoken("Open the window.", 1), pause])
    blocks = [samples[start : start + 1_600] for start in range(0, len(samples), 1_600)]
    events = list(run_session(model.session(chunk_size_sec=0.5), blocks))
    finals = [event for event in events if isinstance(event, Final)]
    assert [final.utterance for final in finals] == [0, 1]
    assert isinstance(events[0], Partial)
    for final in finals:
        assert final.text == model.transcribe((samples[final.start : final.end], 16_000))[0].text
    assert finals[0].text == TEXT


def test_invalid_input_raises(model: Qwen3ASRModel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound here")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name in ("notes.txt", "empty.wav", "missing.wav"):
        with pytest.raises(AudioError, match=name):
            model.transcribe(str(tmp_path / name))
    clip = (spoken(TEXT), 16_000)
    with pytest.raises(UnknownLanguage, match="Klingon"):
        model.transcribe(clip, language="Klingon")
    with pytest.raises(BadInput, match="2 audios but 3 values of context"):
        model.transcribe([clip, clip], context=["a", "b", "c"])
    with pytest.raises(BadInput, match="chunk_size_sec"):
        model.init_streaming_state(chunk_size_sec=0)
    automatic: Any = "auto"  # the server's default, but not of Qwen's package
    for start in (model.init_streaming_state, model.session):
        with pytest.raises(BadInput, match="chunk_size_sec must be a number of seconds above 0, got 'auto'"):
            start(chunk_size_sec=automatic)
    model.init_streaming_state(chunk_size_sec=np.float32(1.0))  # type: ignore[arg-type]  # NumPy's numbers are numbers


def test_unsupported_arguments_of_the_original_raise(model: Qwen3ASRModel) -> None:
    clip = (spoken(TEXT), 16_000)
    assert model.transcribe(clip, return_time_stamps=False)[0].text == TEXT
    with pytest.raises(BadInput, match="Word times are not available yet"):
        model.transcribe(clip, return_time_stamps=True)
    aligners: list[dict[str, Any]] = [
        {"forced_aligner": "Qwen/Qwen3-ForcedAligner-0.6B"},
        {"forced_aligner_kwargs": {}},
    ]
    for argument in aligners:
        with pytest.raises(BadInput, match="Word times are not available yet"):
            Qwen3ASRModel.from_pretrained("demo", **argument)
    with pytest.raises(BadInput, match="does not know tensor_parallel_size: it takes dtype"):
        Qwen3ASRModel.from_pretrained("demo", tensor_parallel_size=2)
    with pytest.raises(BadInput, match=r"Qwen3ASRModel\.from_pretrained"):
        Qwen3ASRModel.LLM(model="Qwen/Qwen3-ASR-0.6B", gpu_memory_utilization=0.8)
    accepted: dict[str, Any] = {
        "forced_aligner": None,
        "forced_aligner_kwargs": None,
        "attn_implementation": "flash_attention_2",
    }
    assert Qwen3ASRModel.from_pretrained("demo", **accepted).transcribe(clip)[0].text == TEXT


def test_a_finished_stream_rejects_audio(model: Qwen3ASRModel) -> None:
    samples = spoken(TEXT)
    state = model.init_streaming_state()
    model.streaming_transcribe(samples, state)
    text = model.finish_streaming_transcribe(state).text
    with pytest.raises(BadInput, match="stream is finished"):
        model.streaming_transcribe(samples, state)
    assert model.finish_streaming_transcribe(state).text == text == TEXT


def test_all_public_names_are_exported() -> None:
    for name in qwen_asr.__all__:
        assert getattr(qwen_asr, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = qwen_asr.nothing


def test_thirty_languages(model: Qwen3ASRModel) -> None:
    assert len(model.get_supported_languages()) == 30
    assert model.recognizer.languages == demo_recognizer().languages
