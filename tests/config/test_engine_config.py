"""The options of an engine are those of the server, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.engine_config import EngineConfig
from qwen_asr.config.option_fields import from_options
from qwen_asr.errors import BadConfig


def test_the_options_that_the_server_has_too_mean_the_same() -> None:
    given = EngineConfig(asr_model_path=("demo",), device="cpu", api_key=("secret",), log_level="debug")
    config = given.config
    assert (config.asr_model_path, config.device, config.host, config.port) == (("demo",), "cpu", "127.0.0.1", 9000)
    assert config.secrets == ("secret",)
    assert "secret" not in repr(given)
    names = {field.name for field in dataclasses.fields(EngineConfig)} - {
        field.name for field in dataclasses.fields(Config)
    }
    assert names == {"uds", "end_with_stdin"}


def test_the_environment_counts() -> None:
    environ = {"QWEN_ASR_MODEL_PATH": "demo", "QWEN_ASR_API_KEY": "one two", "QWEN_ASR_PORT": "9001"}
    config = from_options(EngineConfig, {"port": "9002"}, environ)
    assert (config.asr_model_path, config.api_key, config.port) == (("demo",), ("one", "two"), 9002)


@pytest.mark.parametrize("options", [{"port": 70_000}, {"device": "tpu"}, {"api_key": ("with blank",)}])
def test_values_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        _ = EngineConfig(**options).config  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("options", "environ"),
    [({"asr_model_path": ["demo", "other"]}, {}), ({}, {"QWEN_ASR_MODEL_PATH": "demo,other"})],
    ids=["options", "environment"],
)
def test_several_models_are_refused(options: dict[str, list[str]], environ: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match="was given demo and other: give one"):
        from_options(EngineConfig, options, environ)


def test_a_unix_socket_has_no_certificate() -> None:
    with pytest.raises(BadConfig, match="--uds"):
        EngineConfig(uds="/run/engine.sock", generate_self_signed_cert=True)
