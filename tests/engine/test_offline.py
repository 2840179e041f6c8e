"""Offline transcription in docs/engine.md: attention windows of 8 s, unlike Qwen's package (the whole clip)."""

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

from qwen_asr.engine.encoder import Window
from qwen_asr.engine.features import Frontend, LogMel
from tests.support.checkpoints import Samples, demo_recognizer, long_speech, reference_parts

PACKAGE = "qwen-asr==0.0.6"
WINDOW_FRAMES = 800  # 8 s
WINDOW_EMBEDDINGS = 104
ROUNDING = 1e-4
"""The tolerance for embeddings of up to about 10 after a few layers in float32."""


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[types.ModuleType]:
    """The modeling module of Qwen's package, from its wheel. If the download fails, tests skip; in CI they fail.

    The package pins transformers 4.57. Its encoder runs on transformers 5, except that `check_model_inputs`, a
    decorator of the text model, has another signature there. The mock replaces it with a no-op.
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
    package = types.ModuleType("original_qwen_asr")  # its real name is also ours, and its __init__ has more imports
    package.__path__ = [str(folder / "qwen_asr" / "core" / "transformers_backend")]
    unchanged = mock.Mock(side_effect=lambda forward: forward)
    decorator = mock.patch.object(transformers.utils.generic, "check_model_inputs", return_value=unchanged)
    with mock.patch.dict(sys.modules, {"original_qwen_asr": package}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with decorator:
            yield importlib.import_module("original_qwen_asr.modeling_qwen3_asr")


def qwen_encoder(qwen: types.ModuleType, attention: str) -> Callable[[Tensor], Tensor]:
    """The encoder of Qwen's package with the weights of the demo checkpoint: log-mel (bins, frames) → (n, width)."""
    model, _ = reference_parts("demo")
    shared = qwen.Qwen3ASRAudioEncoderConfig().to_dict().keys() & model.config.audio_config.to_dict().keys()
    fields = shared - {"model_type", "dtype", "architectures", "transformers_version"}
    config = qwen.Qwen3ASRAudioEncoderConfig(**{name: getattr(model.config.audio_config, name) for name in fields})
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
    """The encoder of transformers 5 with the demo checkpoint, as `generate` runs it."""
    model, _ = reference_parts("demo")
    padded = torch.nn.functional.pad(mel, (0, -mel.shape[1] % 100))
    mask = (torch.arange(padded.shape[1]) < mel.shape[1]).long()
    encoded: Any = model.model.audio_tower(padded[None], mask[None])
    embeddings: Tensor = model.model.multi_modal_projector(encoded.last_hidden_state)
    return embeddings


def engine_encoder(mel: Tensor) -> Tensor:
    """The encoder of the engine with the demo checkpoint."""
    windows = [Window(frames) for frames in mel.split(WINDOW_FRAMES, dim=1)]
    return torch.cat([encoded.embeddings for encoded in demo_recognizer().encoder.encode(windows)])


def whole_log_mel(samples: Samples) -> Tensor:
    frontend = Frontend(Qwen3ASRFeatureExtractor())
    log_mel = LogMel(frontend)
    spectrum = log_mel.spectrum(samples, frontend.compute([log_mel.missing(samples)])[0])
    return spectrum.window(0, len(spectrum.raw))


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    """Log-mel of two clips of 14 s that are equal for the first 8 s plus the 12.5 ms that the last frame extends."""
    speech = long_speech(np.random.default_rng(1), 14.0)
    other = speech.copy()
    same = WINDOW_FRAMES * 160 + 200
    other[same:] = long_speech(np.random.default_rng(2), 14.0)[: len(other) - same]
    # A tone at the start is the loudest sound of both clips, so that their log-mel has the same floor.
    speech[:1_600] = other[:1_600] = np.sin(2 * np.pi * 1_000 * np.arange(1_600) / 16_000)
    first, second = whole_log_mel(speech), whole_log_mel(other)
    assert torch.equal(first[:, :WINDOW_FRAMES], second[:, :WINDOW_FRAMES])
    assert not torch.equal(first, second)
    return first, second


def change(encode: Callable[[Tensor], Tensor], clips: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The maximum difference of the embeddings between the clips, in the first 8 s and in the rest."""
    with torch.inference_mode():
        differences = (encode(clips[0]) - encode(clips[1])).abs()
    return float(differences[:WINDOW_EMBEDDINGS].max()), float(differences[WINDOW_EMBEDDINGS:].max())


@pytest.mark.parametrize("encode", [transformers_encoder, engine_encoder])
def test_transformers_and_the_engine_attend_within_8_s(
    encode: Callable[[Tensor], Tensor], clips: tuple[Tensor, Tensor]
) -> None:
    before, after = change(encode, clips)
    assert before < ROUNDING
    assert after > 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_qwen_package_attends_over_the_whole_clip(
    qwen: types.ModuleType, attention: str, clips: tuple[Tensor, Tensor]
) -> None:
    before, after = change(qwen_encoder(qwen, attention), clips)
    assert before > 1000 * ROUNDING
    assert after > 1


def test_the_qwen_package_gives_the_same_up_to_8_s(qwen: types.ModuleType, clips: tuple[Tensor, Tensor]) -> None:
    window = clips[0][:, :WINDOW_FRAMES]
    with torch.inference_mode():
        expected = qwen_encoder(qwen, "sdpa")(window)
        assert (expected - transformers_encoder(window)).abs().max() < ROUNDING
        assert (expected - engine_encoder(window)).abs().max() < ROUNDING
