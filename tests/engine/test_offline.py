"""What docs/engine.md calls offline: attention windows of 8 s, where Qwen's own package attends over the whole clip."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers.utils.generic
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor

from qwen_asr.engine.features import LogMel
from tests.support.checkpoints import Samples, demo_recognizer, long_speech, reference_parts

PACKAGE = "qwen-asr==0.0.6"
WINDOW_FRAMES = 800  # 8 s
WINDOW_EMBEDDINGS = 104
ROUNDING = 1e-4
"""Embeddings of up to about 10 through a few layers in float32: what differs by less is the same."""


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[types.ModuleType]:
    """The modeling module of Qwen's package, from its wheel. Without a package index the test skips; under CI it fails.

    The package pins transformers 4.57, but its encoder runs on transformers 5: only `check_model_inputs`, a decorator
    of the text model, is called in another way there. It does nothing here.
    """
    folder = tmp_path_factory.mktemp("qwen")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(download, capture_output=True, text=True)
    if done.returncode:
        message = f"{PACKAGE} cannot be downloaded: {done.stderr.strip()[-300:]}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    package = types.ModuleType("qwens_own")  # its own name is that of ours, and its __init__ imports more than is here
    package.__path__ = [str(folder / "qwen_asr" / "core" / "transformers_backend")]
    unchanged = mock.Mock(side_effect=lambda forward: forward)
    decorator = mock.patch.object(transformers.utils.generic, "check_model_inputs", return_value=unchanged)
    with mock.patch.dict(sys.modules, {"qwens_own": package}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with decorator:
            yield importlib.import_module("qwens_own.modeling_qwen3_asr")


def qwens_encoder(qwen: types.ModuleType, attention: str) -> Callable[[Tensor], Tensor]:
    """The encoder of Qwen's package with the weights of the demo checkpoint: log-mel (bins, frames) → (n, width)."""
    model, _ = reference_parts("demo")
    names = qwen.Qwen3ASRAudioEncoderConfig().to_dict().keys() & model.config.audio_config.to_dict().keys()
    own = names - {"model_type", "dtype", "architectures", "transformers_version"}
    config = qwen.Qwen3ASRAudioEncoderConfig(**{name: getattr(model.config.audio_config, name) for name in own})
    config._attn_implementation = attention
    encoder = qwen.Qwen3ASRAudioEncoder(config).eval()
    weights = dict(model.model.audio_tower.state_dict())
    for name, weight in model.model.multi_modal_projector.state_dict().items():
        weights[name.replace("linear_", "proj")] = weight
    encoder.load_state_dict(weights)
    assert encoder.config._attn_implementation == attention

    def encode(mel: Tensor) -> Tensor:
        embeddings: Tensor = encoder(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
        return embeddings

    return encode


def transformers_encoder(mel: Tensor) -> Tensor:
    """The encoder of transformers 5 on the demo checkpoint, as `generate` runs it."""
    model, _ = reference_parts("demo")
    padded = torch.nn.functional.pad(mel, (0, -mel.shape[1] % 100))
    mask = (torch.arange(padded.shape[1]) < mel.shape[1]).long()
    encoded: Any = model.model.audio_tower(padded[None], mask[None])
    embeddings: Tensor = model.model.multi_modal_projector(encoded.last_hidden_state)
    return embeddings


def our_encoder(mel: Tensor) -> Tensor:
    """The encoder of the engine."""
    return torch.cat(demo_recognizer().encoder.encode(list(mel.split(WINDOW_FRAMES, dim=1))))


def log_mel(samples: Samples) -> Tensor:
    spectrum = LogMel(Qwen3ASRFeatureExtractor()).spectrum(samples)
    return spectrum.window(0, spectrum.raw.shape[1])


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    """Log-mel of two clips of 14 s that are the same for 8 s and the reach of the last frame in it, 12.5 ms."""
    speech = long_speech(np.random.default_rng(1), 14.0)
    other = speech.copy()
    same = WINDOW_FRAMES * 160 + 200
    other[same:] = long_speech(np.random.default_rng(2), 14.0)[: len(other) - same]
    # A tone at the start is the loudest sound of both clips, so that their log-mel has the same floor.
    speech[:1_600] = other[:1_600] = np.sin(2 * np.pi * 1_000 * np.arange(1_600) / 16_000)
    first, second = log_mel(speech), log_mel(other)
    assert torch.equal(first[:, :WINDOW_FRAMES], second[:, :WINDOW_FRAMES])
    assert not torch.equal(first, second)
    return first, second


def change(encode: Callable[[Tensor], Tensor], clips: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """How much the embeddings of the first 8 s, and those of the rest, differ between the clips."""
    with torch.inference_mode():
        differences = (encode(clips[0]) - encode(clips[1])).abs()
    return float(differences[:WINDOW_EMBEDDINGS].max()), float(differences[WINDOW_EMBEDDINGS:].max())


@pytest.mark.parametrize("encode", [transformers_encoder, our_encoder])
def test_transformers_and_the_engine_attend_within_8_s(
    encode: Callable[[Tensor], Tensor], clips: tuple[Tensor, Tensor]
) -> None:
    before, behind = change(encode, clips)
    assert before < ROUNDING
    assert behind > 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_qwens_package_attends_over_the_whole_clip(
    qwen: types.ModuleType, attention: str, clips: tuple[Tensor, Tensor]
) -> None:
    before, behind = change(qwens_encoder(qwen, attention), clips)
    assert before > 1000 * ROUNDING
    assert behind > 1


def test_qwens_package_gives_the_same_up_to_8_s(qwen: types.ModuleType, clips: tuple[Tensor, Tensor]) -> None:
    window = clips[0][:, :WINDOW_FRAMES]
    with torch.inference_mode():
        theirs = qwens_encoder(qwen, "sdpa")(window)
        assert (theirs - transformers_encoder(window)).abs().max() < ROUNDING
        assert (theirs - our_encoder(window)).abs().max() < ROUNDING
