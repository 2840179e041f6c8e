"""The Space's program: what it refuses, and that it serves a page without a model too. The rest is in end_to_end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import httpx
import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, StartupError
from qwen_asr.web.zero_gpu.server import serve
from tests.support.commands import SERVER, error_of, run
from tests.support.spaces import zero_gpu_space
from tests.support.zero_gpu_scheduler import zero_gpu_scheduler


def test_the_package_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match="the package spaces, which a Space with ZeroGPU has, is missing"):
        serve(Config())


@pytest.mark.slow
def test_only_the_lent_device_is_offered() -> None:
    with pytest.raises(BadConfig, match="--device is cpu, but ZeroGPU lends a CUDA device"):
        serve(Config(device="cpu"))
    assert "ZeroGPU lends a CUDA device" in error_of(run(*SERVER, "--device", "cpu", SPACES_ZERO_GPU="true"))


@pytest.mark.slow
def test_the_page_says_why_there_is_no_model_after_a_login(tmp_path: Path) -> None:
    password = {"username": "anna", "password": "a-long-secret"}
    options = {"QWEN_ASR_MODEL_PATH": str(tmp_path / "nowhere"), "QWEN_ASR_AUTH": ":".join(password.values())}
    with zero_gpu_scheduler() as scheduler, zero_gpu_space(tmp_path, scheduler, **options) as started:
        assert scheduler.paths() == ["/startup-report"]  # a Space that does not report a task is stopped
        with httpx.Client(base_url=started.url) as visitor:
            assert "There is no folder" not in visitor.get("/").text
            assert visitor.get("/config").status_code == 401
            assert visitor.post("/login", data=password).status_code == 200
            assert "There is no folder" in visitor.get("/").text
