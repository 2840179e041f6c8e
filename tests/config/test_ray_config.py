"""The options of engines on Ray Serve."""

from __future__ import annotations

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import from_options
from qwen_asr.config.ray_config import RayConfig
from qwen_asr.errors import BadConfig


def test_arguments_go_before_the_environment() -> None:
    environ = {"QWEN_ASR_MODEL_PATH": "demo", "QWEN_ASR_REPLICAS": "2", "QWEN_ASR_MAX_REPLICAS": "4"}
    config = from_options(RayConfig, {"replicas": 3}, environ)
    assert (config.asr_model_path, config.replicas, config.max_replicas) == ("demo", 3, 4)


def test_an_engine_reserves_a_gpu_unless_it_runs_on_the_cpu() -> None:
    assert (RayConfig().gpus, RayConfig(device="cuda").gpus, RayConfig(device="cpu").gpus) == (1, 1, 0)


def test_mistakes() -> None:
    with pytest.raises(BadConfig, match="max_replicas was given 1, but expects at least replicas, which is 2"):
        RayConfig(replicas=2, max_replicas=1)
    with pytest.raises(BadConfig, match="QWEN_ASR_REPLICAS was given 'many', but expects a whole number"):
        from_options(RayConfig, {}, {"QWEN_ASR_REPLICAS": "many"})


def test_a_server_with_engines_on_ray_has_no_model_and_no_key_for_them() -> None:
    assert Config(engine=("ray",)).engine == ("ray",)
    with pytest.raises(BadConfig, match="--device cannot be given with --engine"):
        Config(engine=("ray",), device="cpu")
    with pytest.raises(BadConfig, match="--engine-api-key was given with --engine ray"):
        Config(engine=("ray",), engine_api_key="key")
