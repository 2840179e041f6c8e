"""The attributes of a stream are those of Qwen's package, and follow the audio as they do there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qwen_asr.errors import AudioError, StepFailed
from qwen_asr.inference.qwen3_asr import ASRStreamingState, Qwen3ASRModel
from tests.support.checkpoints import demo_recognizer, long_speech, spoken

TEXT = "The meeting is on Monday the tenth of May."


@pytest.fixture(scope="module")
def model() -> Qwen3ASRModel:
    return Qwen3ASRModel(demo_recognizer())


def test_the_attributes_of_a_new_stream(model: Qwen3ASRModel) -> None:
    state = model.init_streaming_state("tea", "english", 3, 6, 0.5)
    assert isinstance(state, ASRStreamingState)
    assert (state.context, state.force_language) == ("tea", "English")
    assert (state.unfixed_chunk_num, state.unfixed_token_num) == (3, 6)
    assert (state.chunk_size_sec, state.chunk_size_samples) == (0.5, 8_000)
    assert (state.chunk_id, state.language, state.text) == (0, "", "")
    assert state.buffer.shape == state.audio_accum.shape == (0,)
    assert state.buffer.dtype == state.audio_accum.dtype == np.float32
    assert state.prompt_raw == (
        "<|im_start|>system\ntea<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
        "<|im_start|>assistant\nlanguage English<asr_text>"
    )
    assert model.init_streaming_state(None).context == ""  # type: ignore[arg-type]  # Qwen's package takes None
    assert model.init_streaming_state().prompt_raw.endswith("<|im_start|>assistant\n")
    defaults = model.init_streaming_state()
    assert (defaults.unfixed_chunk_num, defaults.unfixed_token_num, defaults.chunk_size_sec) == (2, 5, 2.0)


@pytest.mark.parametrize("step", [999, 16_000, 40_000])
def test_chunks_move_from_the_buffer_into_the_accumulated_audio(model: Qwen3ASRModel, step: int) -> None:
    samples = spoken(TEXT)
    state = model.init_streaming_state(chunk_size_sec=1.0)
    for start in range(0, len(samples), step):
        model.streaming_transcribe(samples[start : start + step], state)
        fed = min(start + step, len(samples))
        assert state.chunk_id == fed // 16_000
        assert np.array_equal(state.audio_accum, samples[: fed // 16_000 * 16_000])
        assert np.array_equal(state.buffer, samples[fed // 16_000 * 16_000 : fed])
        assert (state.text == "") == (state.language == "") == (state.chunk_id == 0)
    model.finish_streaming_transcribe(state)
    assert state.chunk_id == -(-len(samples) // 16_000)
    assert np.array_equal(state.audio_accum, samples)
    assert state.buffer.shape == (0,)
    assert (state.text, state.language) == (TEXT, "English")


def test_all_audio_of_several_utterances_is_accumulated() -> None:
    model = Qwen3ASRModel(demo_recognizer(), max_utterance_seconds=6)
    samples = long_speech(np.random.default_rng(5), 15.0)
    state = model.init_streaming_state(chunk_size_sec=4.0)
    model.finish_streaming_transcribe(model.streaming_transcribe(samples, state))
    assert state.utterance.length < 6 * 16_000
    assert np.array_equal(state.audio_accum, samples)


@pytest.mark.parametrize(
    "convert",
    [
        lambda block: np.stack([block, block], axis=1),
        lambda block: np.stack([block, block]),
        lambda block: (block * 32_767).astype(np.int16),
        lambda block: (block * 32_767).astype(np.int32),
        lambda block: block.astype(np.float64)[None],
        lambda block: block.tolist(),
    ],
)
def test_blocks_in_any_form_give_the_same_stream(model: Qwen3ASRModel, convert: Callable[[Any], Any]) -> None:
    samples = spoken(TEXT)
    state = model.init_streaming_state(chunk_size_sec=9.0)
    for start in range(0, len(samples), 6_000):
        model.streaming_transcribe(convert(samples[start : start + 6_000]), state)
    assert state.buffer.shape == samples.shape
    assert np.allclose(state.buffer, samples, atol=1e-4)
    assert model.finish_streaming_transcribe(state).text == TEXT


def test_a_bad_block_loses_nothing(model: Qwen3ASRModel) -> None:
    samples = spoken(TEXT)
    state = model.init_streaming_state()
    model.streaming_transcribe(samples[:20_000], state)
    with pytest.raises(AudioError, match="NaN"):
        model.streaming_transcribe(np.full(9, np.nan), state)
    model.streaming_transcribe(samples[20_000:], state)
    assert model.finish_streaming_transcribe(state).text == TEXT


def test_a_failed_step_loses_nothing(model: Qwen3ASRModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(passes: object) -> None:
        raise StepFailed("The device is gone.")

    samples = spoken(TEXT)
    state = model.init_streaming_state(chunk_size_sec=2.0)
    for part, call in ((samples, state.feed), (None, lambda _: state.finish())):
        with monkeypatch.context() as patch:
            patch.setattr(model.recognizer, "run", fail)
            with pytest.raises(StepFailed):
                call(part)
    assert state.text == ""
    state.finish()
    assert state.text == TEXT
    assert np.array_equal(state.audio_accum, samples)
