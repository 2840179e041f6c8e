"""The device benchmark: its models have Qwen's sizes, its script gives the passes that it promises, and it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ASRForConditionalGeneration

from benchmarks.device_compare import Generate
from benchmarks.device_sessions import count_operators, live_sessions, one_session
from benchmarks.device_tables import least_seconds
from benchmarks.scripted import Script, ScriptedEngine, noise
from benchmarks.strategies import official
from benchmarks.true_size import SHAPES, Rates, build_model, build_recognizer, configure, load_processor, thin
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.scheduler import Scheduler

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@cache
def tiny() -> ScriptedEngine:
    return ScriptedEngine(build_recognizer("tiny", CPU, torch.float32))


@cache
def script() -> Script:
    processor = load_processor()
    return Script(processor.tokenizer, processor.tokenizer.convert_tokens_to_ids("<|im_end|>"))


# --- the models


@pytest.mark.parametrize(
    ("name", "text", "audio"),
    # Millions of weights. Both checkpoints tie the head to the embeddings, which are stored twice in Qwen's files.
    [("0.6b", 596, 186), ("1.7b", 1721, 317), ("tiny", 0, 0)],
)
def test_a_model_has_the_weights_that_the_floors_count(name: str, text: int, audio: int) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        model = Qwen3ASRForConditionalGeneration._from_config(configure(shape, load_processor()))
    encoder = [*model.model.audio_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    decoder = list(model.model.language_model.parameters())
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert sum(weight.numel() for weight in decoder) == shape.layer_weights + shape.head_weights
    assert sum(weight.numel() for weight in encoder) == shape.encoder_weights
    assert round((shape.layer_weights + shape.head_weights) / 1e6) == text
    assert round(shape.encoder_weights / 1e6) == audio


def test_the_true_sizes_are_those_of_the_checkpoints() -> None:
    small, large = SHAPES["0.6b"], SHAPES["1.7b"]
    assert 2 * small.kv_values == 114_688  # bytes of a position in 16 bits
    for shape in (small, large):
        assert (shape.text_layers, shape.heads, shape.kv_heads, shape.head_width) == (28, 16, 8, 128)
        assert shape.vocabulary == 151_936
    assert (small.audio_layers, small.audio_heads, large.audio_layers, large.audio_heads) == (18, 14, 24, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_built_whole(dtype: torch.dtype) -> None:
    model = build_model(SHAPES["tiny"], load_processor(), CPU, dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    loaded = Qwen3ASRForConditionalGeneration._from_config(
        model.config, dtype=dtype
    )  # transformers' own initialization
    for (name, ours), (_, theirs) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for name, weight in model.named_parameters():
        assert weight.isfinite().all(), name
        assert weight.abs().max() <= 1, name
        assert weight.dim() == 1 or weight.std() > 0.01, name


def test_a_thin_model_has_the_same_layers() -> None:
    shape = thin(SHAPES["1.7b"])
    assert (shape.text_layers, shape.audio_layers) == (28, 24)
    assert shape.layer_weights + shape.encoder_weights < 5e6


# --- the script


def test_an_answer_depends_on_the_length_of_the_audio_alone() -> None:
    engine = tiny()
    samples = noise(5.0)
    streamed, whole = engine.utterance(), engine.utterance()
    for start in range(0, len(samples), 12_345):
        hypothesis = streamed.feed(samples[start : start + 12_345])
        assert list(hypothesis.tokens) == engine.script.answer(streamed.length)
    assert whole.feed(samples).tokens == hypothesis.tokens
    assert hypothesis.language == "English"
    assert len(hypothesis.text.split()) > 10
    assert not hypothesis.truncated


def test_an_answer_grows_by_three_and_a_half_tokens_a_second_and_changes_its_last_two() -> None:
    for second in range(1, 30):
        before, after = (script().answer(moment * SAMPLE_RATE) for moment in (second, second + 1))
        assert len(after) - len(before) in (3, 4)
        assert after[: len(before) - 2] == before[:-2]
        assert after[len(before) - 2] != before[-2]
        assert len(set(before[-20:])) == len(before[-20:])  # nothing that a draft could take up again


def test_a_step_is_one_verify_pass_and_five_or_six_single_token_passes() -> None:
    steps = one_session(tiny(), 10, 1.0, metered=True)
    assert len(steps) == 10
    for number, step in enumerate(steps):
        kinds = [one.kind for one in step.passes]
        singles = 5 if number % 2 else 6
        if number:  # the first step has no draft
            assert [kind for kind in kinds if kind != "log-mel"] == ["encoder", "verify", *["single"] * (11 - singles)]
    verified = [one for step in steps[1:] for one in step.passes if one.kind == "verify"]
    drafts = [len(script().answer(second * SAMPLE_RATE)) for second in range(1, 10)]
    assert [one.rows[0][2] for one in verified] == [length + 1 for length in drafts]


def test_utterances_together_get_their_own_answers() -> None:
    engine = tiny()
    speaking = [engine.utterance() for _ in range(6)]
    samples = noise(6.0)
    with Scheduler(engine.recognizer) as scheduler:
        for _ in range(2):
            for number, utterance in enumerate(speaking):
                utterance.append(samples[: 4000 * (number + 1)])
            for future in [scheduler.submit(utterance) for utterance in speaking]:
                future.result()
    answers = [engine.script.answer(utterance.length) for utterance in speaking]
    assert [list(utterance.hypothesis.tokens) for utterance in speaking] == answers


# --- the measurements


@pytest.mark.slow
def test_live_sessions_all_get_their_texts() -> None:
    # A chunk ends every 0.5 or 0.2 s of the 1.7 s, a third of a chunk later in each session than in the one before.
    for chunk, texts in ((0.5, 3 + 3 + 2), (None, 8 + 8 + 7)):
        level = live_sessions(tiny(), 3, 1.7, chunk)
        assert len(level.lags) == texts
        assert all(lag > 0 for lag in level.lags)


@pytest.mark.slow
def test_operators_are_counted() -> None:
    layers = thin(SHAPES["0.6b"])
    engine = ScriptedEngine(Recognizer(build_model(layers, load_processor(), CPU, torch.float32), load_processor(), ""))
    small, large = (count_operators(one, 1) for one in (tiny(), engine))
    assert set(small) == set(large) == {"encoder", "verify", "single"}
    for kind, counted in small.items():
        assert counted.operators > 0
        assert large[kind].operators > 5 * counted.operators  # 28 and 18 layers to 2
        assert counted.launches == 0  # no GPU


def test_the_floor_of_a_pass_is_its_weights_read_once_or_its_arithmetic() -> None:
    shape, rates = SHAPES["0.6b"], Rates(bandwidth=20e9, operations=1e12)
    steps = one_session(tiny(), 2, 1.0, metered=True)
    single = next(one for one in steps[1].passes if one.kind == "single")
    memory, arithmetic = least_seconds(single, 1.0, shape, 2, rates)
    assert memory == pytest.approx(0.060, rel=0.02)  # 1,192 MB at 20 GB/s
    assert arithmetic == pytest.approx(0.0012, rel=0.02)  # twice 596 million
    verify = next(one for one in steps[1].passes if one.kind == "verify")
    assert least_seconds(verify, 1.0, shape, 2, rates)[1] > 20 * arithmetic
    encoder = next(one for one in steps[0].passes if one.kind == "encoder")
    # 100 frames: 13 embeddings through 18 layers of 9.6 million weights, and convolutions that multiply 17 GFLOP.
    with torch.device("meta"):
        convolutions = [torch.nn.Conv2d(size, 480, 3, 2, padding=1) for size in (1, 480, 480)]
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        values = torch.empty(1, 1, 128, 100)
        for convolution in convolutions:
            values = convolution(values)
    rest = 2 * 13 * (shape.encoder_weights - sum(weight.numel() for one in convolutions for weight in one.parameters()))
    assert shape.encoder_operations(100) == pytest.approx(counter.get_total_flops() + rest, rel=0.01)
    assert least_seconds(encoder, 1.0, shape, 2, rates)[1] == shape.encoder_operations(100) / rates.operations


@pytest.mark.slow
def test_a_baseline_generates_the_scripted_tokens() -> None:
    transcribe = Generate(SHAPES["tiny"], CPU, torch.float32)
    samples = noise(3.0)
    prefixes: list[int] = []

    def recorded(heard: object, prefix: list[int]) -> list[int]:
        prefixes.append(len(prefix))
        return transcribe(samples[: SAMPLE_RATE * len(prefixes)], prefix)

    for _ in official(recorded, samples):
        pass
    assert prefixes == [0, 0, len(script().answer(2 * SAMPLE_RATE)) - 5]


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.device", "--model", "tiny", "--device", "cpu", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_measures_everything(tmp_path: Path) -> None:
    output, picture = tmp_path / "tables.md", tmp_path / "lag.png"
    files = ("--output", str(output), "--plot", str(picture))
    printed = run("--levels", "1,2", "--seconds", "2", "--audio-seconds", "3", *files)
    for heading in (
        "live sessions",
        "verify passes",
        "from a chunk to its text",
        "64 utterances",
        "a step, 64 sessions",
    ):
        assert heading in printed
    for strategy in ("engine", "all audio again", "Qwen's prefix"):
        assert re.search(rf"^\| {strategy} \| [\d.]+ \| [\d.]+ \|", printed, re.MULTILINE)
    assert output.read_text(encoding="utf-8").strip() == printed.strip()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_compares_the_engines_of_two_checkouts() -> None:
    printed = run("--audio-seconds", "2", "--against", str(ROOT), "--chunk", "auto")
    assert len(re.findall(r"^\| .+ \| [\d.]+ \| [\d.]+ \| [\d.]* \|$", printed, re.MULTILINE)) == 8
