"""What a `config.json` describes, in both layouts, and what `auto` tries."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.engine.hub.checkpoints import LARGE, SMALL, Kind, automatic_names, kind_of, read_config
from tests.support.checkpoints import DEMO, save_aligner, to_original_layout


def copy_demo(folder: Path) -> None:
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)


@pytest.mark.parametrize("convert", [lambda folder: None, to_original_layout], ids=["transformers", "qwen"])
@pytest.mark.parametrize(("make", "kind"), [(copy_demo, "recognizer"), (save_aligner, "aligner")])
def test_kinds(make: Callable[[Path], None], kind: Kind, convert: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    convert(tmp_path)
    assert kind_of(read_config(tmp_path)) == kind


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
        {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": {}}},
        {"thinker_config": None, "architectures": None},
    ],
    ids=json.dumps,
)
def test_other_models(config: dict[str, Any]) -> None:
    assert kind_of(config) is None


def test_what_auto_tries() -> None:
    assert automatic_names(fits_large=True) == (LARGE, SMALL)
    assert automatic_names(fits_large=False) == (SMALL,)
