"""The public API: compatible with Qwen's package, and streaming ends with the offline text."""

import base64
import logging
import threading
import wave
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qwen_asr
from qwen_asr import Aligned, Final, Partial, Qwen3ASRModel, run_session
from qwen_asr.errors import AudioError, BadInput, UnknownLanguage
from qwen_asr.inference.qwen3_asr import ASRTranscription
from tests.support.checkpoints import DEMO, Samples, check_generated, demo_recognizer, long_speech, save_aligner, spoken

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
        ((samples * 32767).astype(np.int64), 16_000.0),
        (16_000, np.stack([samples, samples])),
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


def test_the_loaders_take_the_arguments_of_the_original(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        llm = Qwen3ASRModel.LLM("demo", None, {}, 3, 32, gpu_memory_utilization=0.8, tensor_parallel_size=2)
    assert "LLM: gpu_memory_utilization, tensor_parallel_size: accepted for compatibility; ignored." in caplog.text
    plain = Qwen3ASRModel.from_pretrained("demo", None, None, 4, 256, torch_dtype="fp32", device_map={"": "cpu"})
    assert (llm.backend, llm.max_inference_batch_size, llm.max_new_tokens) == ("vllm", 3, 32)
    assert (plain.backend, plain.max_inference_batch_size, plain.max_new_tokens) == ("transformers", 4, 256)
    assert (plain.dtype, plain.device) == (torch.float32, torch.device("cpu"))
    assert plain.model.config.model_type == "qwen3_asr"
    assert plain.processor.tokenizer is not None
    assert plain.forced_aligner is None
    clip = (spoken(TEXT), 16_000)
    assert llm.transcribe(clip)[0].text == plain.transcribe(clip)[0].text == TEXT
    assert Qwen3ASRModel.LLM(model="demo", max_new_tokens=None).max_new_tokens == 512
    with pytest.raises(BadInput, match="from_pretrained does not know the argument max_new_token: did you mean"):
        Qwen3ASRModel.from_pretrained("demo", max_new_token=5)


def test_a_stream_is_not_cut_at_a_small_max_new_tokens() -> None:
    """In Qwen's example of streaming it is 32, and bounds what one step adds."""
    model = Qwen3ASRModel.LLM(model="demo", max_new_tokens=4)
    state = model.streaming_transcribe(spoken(TEXT), model.init_streaming_state())
    assert model.finish_streaming_transcribe(state).text == TEXT
    assert model.transcribe((spoken(TEXT), 16_000))[0].text != TEXT


def test_time_stamps_without_an_aligner_are_none_and_it_is_said(
    model: Qwen3ASRModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model.recognizer, "aligner", None)
    clips = [(spoken(TEXT), 16_000)] * 2
    assert [one.time_stamps for one in model.transcribe(clips)] == [None, None]
    assert isinstance(model.transcribe(clips)[0], ASRTranscription)
    assert caplog.text == ""
    answers = model.transcribe(clips, return_time_stamps=True)
    assert [(one.text, one.time_stamps) for one in answers] == [(TEXT, None)] * 2
    assert caplog.text.count("need a forced aligner") == 1


def test_the_demo_has_time_stamps_of_its_own_and_sessions_have_words() -> None:
    demo = Qwen3ASRModel.from_pretrained("demo", device_map="cpu", max_utterance_seconds=6)
    speech = np.concatenate([spoken(TEXT), np.zeros(32_000, np.float32)] * 2)
    [found] = demo.transcribe((speech, 16_000), return_time_stamps=True)
    assert demo.forced_aligner is None
    assert found.time_stamps is not None
    assert [word.text for word in found.time_stamps] == ["Turn", "on", "the", "kitchen", "light"] * 2
    times = [time for word in found.time_stamps for time in (word.start_time, word.end_time)]
    assert times == sorted(times)
    assert len(set(times)) > 10
    assert len(spoken(TEXT)) / 16_000 < times[10] < times[-1] < len(speech) / 16_000 - 1.5
    finals = [event for event in run_session(demo.session(words=True), [speech]) if isinstance(event, Final)]
    words = [word for final in finals for word in final.words]
    assert " ".join(word.text for word in words) == f"{TEXT} {TEXT}"
    for word, item in zip(words, found.time_stamps, strict=True):
        assert abs(word.start / 16_000 - item.start_time) < 0.1
    assert not any(event.words for event in run_session(demo.session(), [speech]) if isinstance(event, Final))


def test_a_session_has_words_of_the_forced_aligner(tmp_path: Path) -> None:
    save_aligner(tmp_path)
    kwargs = {"dtype": torch.float32, "device_map": "cpu"}
    model = Qwen3ASRModel.from_pretrained("demo", str(tmp_path), kwargs, device_map="cpu")
    session = model.session(words=True)
    events = list(run_session(session, [np.pad(spoken(TEXT), 16_000)]))
    [aligned] = [event for event in events if isinstance(event, Aligned)]
    [final] = session.transcript.finals
    assert final.words == aligned.words
    assert " ".join(word.text for word in final.words) == final.text == TEXT


def test_time_stamps_of_an_aligner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_aligner(tmp_path)
    kwargs = {"dtype": torch.float32, "device_map": "cpu"}
    model = Qwen3ASRModel.from_pretrained("demo", str(tmp_path), kwargs, device_map="cpu", max_utterance_seconds=6)
    assert model.forced_aligner is not None
    speech = np.concatenate([spoken(TEXT), np.zeros(32_000, np.float32)] * 4)
    short, long, silence = model.transcribe(
        [(spoken(TEXT), 16_000), (speech, 16_000), (np.zeros(16_000), 16_000)],
        language=["English", "English", None],
        return_time_stamps=True,
    )
    [alone] = model.forced_aligner.align((spoken(TEXT), 16_000), TEXT, "English")
    assert short.time_stamps == alone
    assert short.time_stamps is not None
    assert long.time_stamps is not None
    assert [word.text for word in short.time_stamps] == ["Turn", "on", "the", "kitchen", "light"]
    assert long.text == " ".join([TEXT] * 4)
    assert len(long.time_stamps) == 20
    # The pieces are at most 6 s long: a time beyond is one that was moved to where its piece begins.
    assert long.time_stamps[-1].start_time > 6
    assert long.time_stamps[-1].end_time <= len(speech) / 16_000
    assert (silence.text, silence.time_stamps) == ("", None)
    assert caplog.text == ""

    dutch = model.transcribe((spoken(TEXT), 16_000), language="Dutch", return_time_stamps=True)[0]
    assert dutch.time_stamps is None
    assert "Some words have no times. The forced aligner does not know Dutch" in caplog.text


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.transcribe(None),
        lambda model: model.transcribe(5),
        lambda model: model.transcribe("missing.wav"),
        lambda model: model.transcribe((b"ab", b"cd")),
        lambda model: model.transcribe((np.zeros(9), 16_000), language="Klingon"),
        lambda model: model.transcribe((np.zeros(9), 16_000), language=5),
        lambda model: model.transcribe((np.zeros(9), 16_000), context=[7]),
        lambda model: model.init_streaming_state(chunk_size_sec=None),
        lambda model: model.init_streaming_state(language="Klingon"),
        lambda model: model.streaming_transcribe(np.zeros(9), None),
        lambda model: model.streaming_transcribe(None, model.init_streaming_state()),
        lambda model: model.finish_streaming_transcribe(None),
        lambda model: model.init_streaming_state(language=5),
        lambda model: model.init_streaming_state(context=5),
        lambda model: model.init_streaming_state(unfixed_chunk_num=None),
        lambda model: model.session(language=5),
        lambda model: model.session(context=[1]),
        lambda model: model.from_pretrained("demo", None, None, "8"),
        lambda model: model.from_pretrained("demo", max_new_tokens=0),
        lambda model: model.from_pretrained("demo", 5),
        lambda model: model.LLM("demo", device_map={"a": 0, "b": 1}),
    ],
)
def test_wrong_input_is_a_value_error(model: Qwen3ASRModel, call: Callable[[Any], object]) -> None:
    """That is what Qwen's package raises, and what programs catch."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(model)
    assert isinstance(caught.value, BadInput)


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
