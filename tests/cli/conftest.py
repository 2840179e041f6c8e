"""Fixtures for the tests of the commands."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwen_asr.cli import main as cli


@pytest.fixture
def qwen_asr(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`qwen_asr(arguments…)` runs `qwen-asr` in this process, so that torch is imported only once."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        code = cli.run_subcommand([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    level = logging.getLogger("qwen_asr").level
    yield call
    logging.getLogger("qwen_asr").setLevel(level)


@pytest.fixture
def sentence(tmp_path: Path, program: Callable[[str], str]) -> Path:
    """A WAV file with a sentence of the demo's grammar, spoken by a synthetic voice: "Turn on the kitchen light."."""
    path = tmp_path / "speech.wav"
    subprocess.run([program("espeak-ng"), "-w", path, "Turn on the kitchen light."], check=True)
    return path
