"""Engines on Ray Serve, for clusters: `serve run qwen_asr.fleet.ray_engine:app`. docs/deploy.md explains it.

Each replica has the model on a GPU of its own and answers the messages of schedulers. `ray_calls` is their other side.
Ray Serve starts, restarts, adds and stops replicas. This module imports Ray only when it is used.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qwen_asr.config.limits import FleetLimits
from qwen_asr.config.option_fields import from_options
from qwen_asr.config.ray_config import RayConfig
from qwen_asr.errors import BadConfig

if TYPE_CHECKING:
    from ray.serve import Application

log = logging.getLogger(__name__)

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Sends calls with the same `session_id` to the same replica. Ray's default router does nothing with it."""
HEALTH_CHECK_SECONDS = 2.0
"""How often Ray Serve asks a replica whether it is well; after three refusals it starts another one instead."""
_STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def app(args: Mapping[str, Any]) -> Application:
    """The application. `args` are the options of `RayConfig`; the environment has the others, such as `QWEN_ASR_DTYPE`.

    Raises `BadConfig` for an option that is not known, or with an invalid value.
    """
    from ray import serve

    names = [field.name for field in dataclasses.fields(RayConfig)]
    if unknown := sorted(set(args) - set(names)):
        raise BadConfig(f"{', '.join(unknown)} is not an option of the application, but expects {', '.join(names)}.")
    config = from_options(RayConfig, args, os.environ)
    limits = FleetLimits()
    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.max_replicas is not None:
        scale = {
            "autoscaling_config": {
                "min_replicas": config.replicas,
                "max_replicas": config.max_replicas,
                "target_ongoing_requests": config.target_steps,
            }
        }
    engines = serve.deployment(
        EngineReplica,
        name="engine",
        ray_actor_options={"num_gpus": config.gpus},
        max_ongoing_requests=limits.calls,
        graceful_shutdown_timeout_s=limits.drain_seconds,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        request_router_config={"request_router_class": ROUTER},
        **scale,
    )
    return engines.bind(config)


class EngineReplica:
    """An engine in a process of Ray's. Loads the model, which takes seconds to minutes."""

    def __init__(self, config: RayConfig) -> None:
        from qwen_asr import logs
        from qwen_asr.engine.aligner import load_with_aligner
        from qwen_asr.engine.device.inference_only import for_inference_only
        from qwen_asr.engine.device.memory import keep_what_is_loaded
        from qwen_asr.fleet.host import EngineHost
        from qwen_asr.fleet.watched_engine import WatchedEngine

        logs.configure(config.log_level, "text")
        recognizer = for_inference_only(
            lambda: load_with_aligner(
                config.asr_model_path,
                config.device,
                config.dtype,
                log.info,
                aligner_path=config.aligner_model_path,
                quantize=config.quantize,
            )
        )
        self._engine = WatchedEngine(recognizer, RayInstruments())
        self._host = EngineHost(self._engine)
        keep_what_is_loaded()

    async def call(self, data: bytes) -> bytes:
        """The answer to a request, both as `fleet.messages` encodes them. Cancelling it drops the utterance."""
        from qwen_asr.fleet.messages import encode
        from qwen_asr.fleet.server import answer

        return encode(await answer(self._host, data))

    def check_health(self) -> None:
        """Ray Serve calls it. Raises RuntimeError if only another process helps: the recognizer hangs, or has ended."""
        if reason := self._engine.unhealthy_reason() or self._engine.unavailable_reason():
            raise RuntimeError(reason)


class RayInstruments:
    """What the watchdog measures, as metrics that Ray exports for Prometheus beside its own."""

    def __init__(self) -> None:
        from ray.util.metrics import Histogram

        self.step = Histogram(
            "qwen_asr_step_seconds",
            "Time from submitting a recognition step to its result.",
            boundaries=list(_STEP_SECONDS),
        )
        self.rows = Histogram("qwen_asr_batch_rows", "Utterances in one pass over the model.", boundaries=list(_ROWS))
