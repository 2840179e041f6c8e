"""`load_engine`: the engine that a server's options ask for."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.config.engine_addresses import parse_engines, ray_application
from qwen_asr.engine.device.inference_only import for_inference_only
from qwen_asr.errors import StartupError

if TYPE_CHECKING:
    from qwen_asr.config.config import Config
    from qwen_asr.config.limits import Limits
    from qwen_asr.engine.interface import Engine
    from qwen_asr.engine.recognizer import Recognizer
    from qwen_asr.fleet.engine_processes import EngineProcesses
    from qwen_asr.fleet.sockets import SocketCalls
    from qwen_asr.service.instruments import Instruments

_POLL_SECONDS = 0.2


def check_engines(config: Config) -> None:
    """Checks what `load_engine` needs for engines in other processes and can be known before one is asked.

    Raises StartupError for a GPU that is not there, a file of `--engine-ca-certs` that holds no certificate, and
    without the package that `--engine ray` needs.
    """
    if config.gpus is not None:
        from qwen_asr.fleet.engine_processes import choose_gpus

        choose_gpus(config.gpus, os.environ)
    elif ray_application(config.engine) is not None:
        from qwen_asr.fleet.ray_calls import check_installed

        check_installed()
    elif config.engine:
        _trust(config.engine_ca_certs)


def load_engine(
    path: str,
    config: Config,
    instruments: Instruments,
    limits: Limits,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Engine:
    """Loads the checkpoint `path`, which takes seconds to minutes; `progress` gets a line for people at each stage.

    With `--engine` or `--gpus` other processes load it, and this waits for the first of them. Raises what
    `engine.checkpoint.load_recognizer` and `engine.aligner.load_with_aligner` raise, what `check_engines` raises, and
    StartupError if no process that `--gpus` starts can load it, or this machine is not part of Ray's cluster.
    """
    if config.engine or config.gpus:
        return _join_engines(path, config, instruments, limits, progress)
    recognizer = for_inference_only(lambda: _load_recognizer(path, config, progress))
    from qwen_asr.fleet.watched_engine import WatchedEngine  # heavy: torch

    return WatchedEngine(recognizer, instruments, limits.watchdog, clock, alone=len(config.models) == 1)


def _load_recognizer(path: str, config: Config, progress: Callable[[str], None]) -> Recognizer:
    from qwen_asr.engine.aligner import load_with_aligner  # heavy: takes seconds, and the page is up meanwhile

    return load_with_aligner(
        path,
        config.device,
        config.dtype,
        progress,
        aligner_path=config.aligner_model_path,
        quantize=config.quantize,
        memory_share=1 / len(config.models),
    )


def _join_engines(
    path: str, config: Config, instruments: Instruments, limits: Limits, progress: Callable[[str], None]
) -> Engine:
    """The engines in other processes as one. Returns once the first has joined."""
    from qwen_asr.fleet.scheduler import NONE_THERE, RemoteScheduler
    from qwen_asr.fleet.sockets import SocketCalls

    if (application := ray_application(config.engine)) is not None:
        return _join_cluster(application, instruments, limits, progress)
    processes = _start_processes(path, config, limits)
    addresses = processes.addresses if processes else parse_engines(config.engine)
    calls: SocketCalls | None = None
    try:
        calls = SocketCalls(
            addresses,
            api_key=config.engine_api_key,
            context=_trust(config.engine_ca_certs),
            limits=limits.fleet,
            on_close=processes.close if processes else lambda: None,
        )
        said = ""
        while not calls.wait(_POLL_SECONDS):
            if processes and (error := processes.start_error()):
                raise StartupError(f"No engine could start: {error}")
            # Everybody sees this. Addresses, and why they cannot be reached, are in the log only.
            text = f"Starting the engines: {'; '.join(calls.reasons)}" if processes else NONE_THERE
            if text != said:
                progress(said := text)
    except BaseException:
        if calls is not None:
            calls.close()
        elif processes is not None:
            processes.close()
        raise
    instruments.watch_engines(lambda: len(calls.joined), lambda: calls.lost)
    return RemoteScheduler(calls)


def _join_cluster(
    application: str, instruments: Instruments, limits: Limits, progress: Callable[[str], None]
) -> Engine:
    """The engines on Ray Serve as one. Returns once one of them runs."""
    from qwen_asr.fleet.ray_calls import RayCalls
    from qwen_asr.fleet.scheduler import RemoteScheduler

    progress("Joining the Ray cluster …")  # Ray tries for minutes where it does not answer
    calls = RayCalls(application, limits.fleet)
    said = ""
    while not calls.wait(_POLL_SECONDS):
        if (text := calls.unavailable_reason() or "") != said:
            progress(said := text)
    instruments.watch_engines(lambda: calls.running, lambda: calls.lost)
    return RemoteScheduler(calls)


def _start_processes(path: str, config: Config, limits: Limits) -> EngineProcesses | None:
    if config.gpus is None:
        return None
    from qwen_asr.fleet.engine_processes import EngineProcesses, choose_gpus

    # What is faster is measured at each start, and all engines need the same.
    quantize = "none" if config.quantize == "auto" else config.quantize
    options = ["--asr-model-path", path, "--dtype", config.dtype, "--quantize", quantize]
    options += ["--aligner-model-path", config.aligner_model_path] if config.aligner_model_path else []
    return EngineProcesses(
        choose_gpus(config.gpus, os.environ), [*options, "--log-level", config.log_level], limits.fleet
    )


def _trust(file: str | None) -> ssl.SSLContext:
    """What checks the certificates of engines. Raises StartupError for a file that holds no certificate."""
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificate"
        raise StartupError(f"--engine-ca-certs was given {file}, which cannot be used ({reason}): give PEM.") from None
