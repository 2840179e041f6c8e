"""What is said where Ray is missing. `test_ray_engine.py` has the rest, which needs a cluster."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qwen_asr.errors import StartupError
from qwen_asr.fleet.ray_calls import RayCalls


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StartupError, match=r"not installed \(ray\): run pip install -r requirements-ray\.txt"):
        RayCalls()


def test_the_modules_import_neither_ray_nor_torch() -> None:
    code = "import sys, qwen_asr.fleet.ray_calls, qwen_asr.fleet.ray_engine; print({'ray', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
