"""The models that a server is given, and the names by which requests choose one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.model_paths import ModelPath, model_named, model_paths
from qwen_asr.config.option_fields import from_options
from qwen_asr.errors import BadConfig

SEVERAL = model_paths(["Qwen/Qwen3-ASR-1.7B", "small=Qwen/Qwen3-ASR-0.6B", "demo", "other/Qwen3-ASR-1.7B"])


def test_a_model_has_the_name_of_its_checkpoint_or_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["Qwen/Qwen3-ASR-1.7B", "demo", str(folder), f"fast={folder}", "./a=b", "auto", "any=auto"]
    assert [(model.name, model.path) for model in map(ModelPath.of, given)] == [
        ("Qwen/Qwen3-ASR-1.7B", "Qwen/Qwen3-ASR-1.7B"),
        ("demo", "demo"),
        ("my-model", str(folder)),
        ("fast", str(folder)),
        ("a=b", "./a=b"),
        ("auto", "auto"),
        ("any", "auto"),
    ]
    assert ModelPath.of("link").name == "my-model"
    assert [ModelPath.of(one).has_known_name for one in ("auto", "any=auto", "demo")] == [False, True, True]


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("Qwen/Qwen3-ASR-1.7B", "Qwen/Qwen3-ASR-1.7B"),
        (" qwen/qwen3-asr-1.7b ", "Qwen/Qwen3-ASR-1.7B"),
        ("Qwen3-ASR-1.7B", "Qwen/Qwen3-ASR-1.7B"),
        ("other/Qwen3-ASR-1.7B", "other/Qwen3-ASR-1.7B"),
        ("Small", "Qwen/Qwen3-ASR-0.6B"),
        ("openai/small", "Qwen/Qwen3-ASR-0.6B"),
        ("qwen3-asr-0.6b", "Qwen/Qwen3-ASR-0.6B"),
        ("demo", "demo"),
        ("whisper-1", None),
        ("Qwen/", None),
        ("", None),
        (None, None),
    ],
)
def test_requests_may_leave_out_the_organization_and_write_in_any_case(wanted: str | None, path: str | None) -> None:
    found = model_named(SEVERAL, wanted)
    assert (found.path if found else None) == path


def test_the_option_is_repeatable_and_the_variable_is_a_list() -> None:
    assert [model.path for model in Config().models] == ["auto"]
    assert Config(asr_model_path=("demo", "x/y")).models == (ModelPath("demo", "demo"), ModelPath("x/y", "x/y"))
    environment = {"QWEN_ASR_MODEL_PATH": "my models/first, small=x/y,"}
    assert from_options(Config, {}, environment).asr_model_path == ("my models/first", "small=x/y")
    assert from_options(Config, {"asr_model_path": ["demo"]}, environment).asr_model_path == ("demo",)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((), "was given no model"),
        (("",), "an empty text"),
        (("auto", "demo"), "name each of them"),
        (("demo", "a=auto"), "name each of them"),
        (("x/y", "a=x/y", "A=demo"), "Two models have the name A, by which requests choose"),
        (("x/y", "X/y"), "Two models have the name X/y"),
    ],
)
def test_models_that_a_server_cannot_have(given: tuple[str, ...], problem: str) -> None:
    with pytest.raises(BadConfig, match=problem):
        Config(asr_model_path=given)
