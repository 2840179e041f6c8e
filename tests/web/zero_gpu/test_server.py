"""The Space's program: what it refuses, and that it serves a page without a model too. The rest is in end_to_end."""

from __future__ import annotations

import importlib.util

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, StartupError
from qwen_asr.web.zero_gpu.server import serve
from tests.support.commands import SERVER, error_of, run


def test_the_package_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match="the package spaces, which a Space with ZeroGPU has, is missing"):
        serve(Config())


@pytest.mark.slow
def test_only_the_lent_device_is_offered() -> None:
    with pytest.raises(BadConfig, match="--device is cpu, but ZeroGPU lends a CUDA device"):
        serve(Config(device="cpu"))
    assert "ZeroGPU lends a CUDA device" in error_of(run(*SERVER, "--device", "cpu", SPACES_ZERO_GPU="true"))
