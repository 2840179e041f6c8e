"""`RayConfig`: the options of engines on Ray Serve, as arguments of `serve run` or from the environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from qwen_asr.config.engine_config import ONE_MODEL, same
from qwen_asr.config.option_fields import check, option
from qwen_asr.errors import BadConfig


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """The options of the application. Raises `BadConfig` for an invalid value."""

    asr_model_path: str = option("auto", ONE_MODEL, "model", metavar="PATH", env="QWEN_ASR_MODEL_PATH")
    aligner_model_path: str | None = same("aligner_model_path")
    device: str = same("device")
    dtype: str = same("dtype")
    quantize: str = same("quantize")
    replicas: int = option(1, "engines; with `max_replicas` the fewest", "model", metavar="N", low=1, high=1000)
    max_replicas: int | None = option(
        None,
        "the most engines: under load Ray Serve starts more, and later stops them",
        "model",
        metavar="N",
        low=1,
        high=1000,
        shown="`replicas`",
    )
    target_steps: float = option(
        32.0,
        "steps under way for each engine, on average, that Ray Serve aims at with `max_replicas`",
        "model",
        metavar="N",
        low=0.1,
        high=1000,
    )
    log_level: str = same("log_level")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise BadConfig(
                f"max_replicas was given {self.max_replicas}, but expects at least replicas, which is {self.replicas}."
            )

    @property
    def gpus(self) -> int:
        """GPUs that each engine reserves: all of one, since two engines on a device halve its throughput."""
        return 0 if self.device == "cpu" else 1
