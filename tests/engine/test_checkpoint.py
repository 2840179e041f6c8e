"""Both checkpoint layouts load and give the same results; anything else raises a clear error."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_asr.engine.checkpoint import load_recognizer, pick_device
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import BadCheckpoint, BadConfig, CheckpointNotFound, WrongArchitecture
from tests.support.checkpoints import DEMO, demo_recognizer, save_aligner, spoken, to_original_layout
from tests.support.commands import run
from tests.support.spaces import require_spaces


def load(path: Path | str) -> Any:
    return load_recognizer(str(path), "cpu", "float32")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


@pytest.mark.slow
def test_the_original_layout_gives_the_same_results_as_the_hf_layout(copied: Path) -> None:
    to_original_layout(copied)
    samples = spoken("The green umbrella is in the hall.", 2)
    for language, context in ((None, ""), ("English", "umbrella")):
        answers = [
            Utterance(recognizer, language=language, context=context).feed(samples)
            for recognizer in (demo_recognizer(), load(copied))
        ]
        assert answers[0].tokens == answers[1].tokens
        assert answers[0].text == answers[1].text != ""


def test_the_demo_is_bundled_and_small() -> None:
    recognizer = load_recognizer("demo", "cpu")
    assert recognizer.is_demo
    assert recognizer.dtype == torch.float32
    assert sum(file.stat().st_size for file in DEMO.iterdir()) < 8_000_000


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_transcribe(dtype: str) -> None:
    utterance = Utterance(load_recognizer("demo", "cpu", dtype))
    exact = Utterance(demo_recognizer()).feed(spoken("Turn on the kitchen light."))
    assert utterance.feed(spoken("Turn on the kitchen light.")).text == exact.text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_transcribe_and_streaming_equals_offline(dtype: str) -> None:
    progress: list[str] = []
    recognizer = load_recognizer("demo", "cpu", dtype, progress.append, quantize="int8")
    assert any("int8" in line for line in progress)
    rng = np.random.default_rng(3)
    samples = spoken("Turn on the kitchen light.")
    offline = Utterance(recognizer).feed(samples)
    assert offline.text == Utterance(demo_recognizer()).feed(samples).text
    streamed = Utterance(recognizer)
    for part in np.split(samples, sorted(rng.integers(1, len(samples), 4))):
        hypothesis = streamed.feed(part)
    assert hypothesis.tokens == offline.tokens
    scored = Utterance(recognizer, scored=True).feed(samples)
    assert scored.tokens == offline.tokens
    assert all(-5 < value <= 0 for value in scored.log_probabilities)


@pytest.mark.slow
def test_automatic_quantization_loads_a_checkpoint_that_is_not_the_demo(copied: Path) -> None:
    # Which weights it gets is a question of speed: the test is that both are timed, and that either transcribes.
    recognizer = load_recognizer(str(copied), "cpu", "float32", quantize="auto")
    assert not recognizer.is_demo
    assert Utterance(recognizer).feed(spoken("Turn on the kitchen light.")).text == "Turn on the kitchen light."


@pytest.mark.slow
def test_the_demo_keeps_its_weights_with_automatic_quantization() -> None:
    assert not load_recognizer("demo", "cpu", quantize="auto").quantized


def test_auto_without_a_hub_loads_the_demo_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    progress: list[str] = []
    assert load_recognizer("auto", "cpu", progress=progress.append).is_demo
    assert any("demo checkpoint" in line for line in progress)


def test_an_explicit_checkpoint_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFound, match="is not in the cache, and HF_HUB_OFFLINE is set"):
        load("Qwen/Qwen3-ASR-0.6B")


def test_paths_that_are_not_checkpoints_raise(tmp_path: Path, copied: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    for path, message in (
        (tmp_path / "nowhere", "There is no folder"),
        (file, "is a file"),
        (tmp_path, "no config.json"),
        ("not/a/hub/id", "There is no folder"),
    ):
        with pytest.raises(CheckpointNotFound, match=message):
            load(path)


def test_another_architecture_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    with pytest.raises(WrongArchitecture, match="whisper, not qwen3_asr"):
        load(tmp_path)


@pytest.mark.parametrize("convert", [lambda folder: None, to_original_layout])
def test_a_forced_aligner_is_no_recognizer(tmp_path: Path, convert: Callable[[Path], None]) -> None:
    save_aligner(tmp_path)
    convert(tmp_path)
    with pytest.raises(WrongArchitecture, match="holds a forced aligner"):
        load(tmp_path)


def test_broken_checkpoints_raise(copied: Path) -> None:
    config = (copied / "config.json").read_text()
    (copied / "config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="not valid JSON"):
        load(copied)
    (copied / "config.json").write_text(config)
    weights = load_file(copied / "model.safetensors")
    del weights["model.audio_tower.conv2d1.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadCheckpoint, match="lacks 1 weights"):
        load(copied)
    (copied / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(BadCheckpoint, match="cannot be loaded"):
        load(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="cannot be loaded"):
        load(copied)


def test_unavailable_devices_and_dtypes_raise() -> None:
    with pytest.raises(BadConfig, match="Unknown device"):
        pick_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(BadConfig, match="no cuda"):
            pick_device("cuda:0")
    with pytest.raises(BadConfig, match="Unknown dtype"):
        load_recognizer("demo", "cpu", "int3")
    with pytest.raises(BadConfig, match="Unknown quantization 'int4'"):
        load_recognizer("demo", "cpu", quantize="int4")


@pytest.mark.slow
def test_the_cuda_that_zero_gpu_emulates_is_no_device_of_its_own() -> None:
    """With the real package, in a process of its own: it replaces functions of torch."""
    require_spaces()
    code = """
from tests.support.cpu_as_gpu import install; install()
import spaces, torch
from qwen_asr.engine.checkpoint import _fits_large, pick_device
print(torch.cuda.is_available(), pick_device("auto"), pick_device("cuda"), _fits_large(pick_device("cuda")))
"""
    found = run(sys.executable, "-c", code, SPACES_ZERO_GPU="true", SPACES_ZERO_DEVICE_API_URL="http://127.0.0.1:9")
    assert found.stdout == "True cpu cuda True\n", found.stderr


def test_a_device_with_cuda_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
