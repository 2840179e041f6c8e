"""`qwen_asr.client` works without the libraries of the model and the server."""

from __future__ import annotations

import sys

import pytest

from tests.support.commands import run, run_with_input

BLOCK = """
import sys
SLOW = ("torch", "transformers", "gradio", "fastapi", "onnxruntime", "av", "cryptography", "uvicorn")

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SLOW:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["qwen_asr.client", "qwen_asr.cli.main", "qwen_asr.cli.terminal"])
def test_import_without_the_libraries_of_the_server(module: str) -> None:
    done = run(*_python(f"import {module}"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_streaming_raw_samples_without_the_libraries_of_the_server() -> None:
    arguments = ["stream", "--url", "ws://127.0.0.1:1", "-", "--rate", "16000"]
    script = f"from qwen_asr.cli.main import run_subcommand; sys.exit(run_subcommand({arguments}))"
    done = run_with_input(bytes(3_200), *_python(script))
    assert done.returncode == 1
    assert "ws://127.0.0.1:1/ws/asr cannot be reached" in done.stderr.decode()


def _python(script: str) -> list[str]:
    return [sys.executable, "-c", BLOCK + script]
