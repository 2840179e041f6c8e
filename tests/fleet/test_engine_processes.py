"""Which GPUs `--gpus` stands for. tests/end_to_end/test_engines.py has the processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_asr.errors import StartupError
from qwen_asr.fleet.engine_processes import _gpu_count, choose_gpus

LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5e0b6c2a)
  MIG 1g.10gb     Device  0: (UUID: MIG-7f1a)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-b1c7)
"""


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    _gpu_count.cache_clear()
    yield
    _gpu_count.cache_clear()


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of `nvidia-smi`, which prints what is in this file."""
    program, said = tmp_path / "nvidia-smi", tmp_path / "said"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said.write_text(LISTED)
    return said


def test_all_gpus_are_those_that_are_there_and_allowed(smi: Path) -> None:
    assert choose_gpus("all", {}) == ("0", "1")
    assert choose_gpus("all", {"CUDA_VISIBLE_DEVICES": "1"}) == ("1",)
    assert choose_gpus("all", {"CUDA_VISIBLE_DEVICES": "GPU-5e0b6c2a,GPU-b1c7"}) == ("GPU-5e0b6c2a", "GPU-b1c7")
    assert choose_gpus("1", {}) == ("1",)
    assert choose_gpus("1,0", {}) == ("1", "0")


def test_a_gpu_that_is_not_there_is_named(smi: Path) -> None:
    with pytest.raises(StartupError, match=r"has 2 GPUs, with the numbers 0 to 1: leave out 2, 7\."):
        choose_gpus("0,2,7", {})


def test_a_driver_that_answers_nothing_is_quoted(smi: Path) -> None:
    smi.write_text("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    with pytest.raises(StartupError, match=r"lists no GPU \(it says: NVIDIA-SMI has failed .*\): leave out --gpus"):
        choose_gpus("all", {})


def test_without_a_driver_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartupError, match="nvidia-smi, which lists the GPUs, is not installed"):
        choose_gpus("all", {})
    assert choose_gpus("cpu,cpu", {}) == ("cpu", "cpu")
