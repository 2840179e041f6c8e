"""`EngineProcess`: an engine as a process of its own, from its start to the end of its last step."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.config.limits import Limits
from qwen_asr.engine.device.memory import keep_what_is_loaded
from qwen_asr.engine.device.torch_thread import TorchThread
from qwen_asr.errors import QwenASRError
from qwen_asr.fleet.server import EngineServer
from qwen_asr.service.engine_process.metrics import engine_exposition
from qwen_asr.service.instruments import Instruments
from qwen_asr.service.load_engine import load_engine

if TYPE_CHECKING:
    from qwen_asr.config.config import Config
    from qwen_asr.engine.interface import Engine

log = logging.getLogger(__name__)


class EngineProcess:
    """Serves at once, loads the model meanwhile, and runs until a signal.

    `allows` tells whether a key may use it; None without keys. `say` prints a line for people.
    """

    def __init__(
        self,
        config: Config,
        *,
        allows: Callable[[str], bool] | None = None,
        limits: Limits | None = None,
        say: Callable[[str], None] = log.info,
    ) -> None:
        self._config, self._say = config, say
        self._limits = limits or Limits()
        self._instruments = Instruments()
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._ended = asyncio.Event()
        self._server = EngineServer(
            allows=allows,
            metrics=engine_exposition(self._instruments, lambda: self._engine),
            unhealthy_reason=lambda: self._engine.unhealthy_reason() if self._engine is not None else None,
            limits=self._limits.fleet,
        )

    def run(self, listener: socket.socket | str, context: ssl.SSLContext | None = None) -> None:
        """Returns after SIGTERM or SIGINT, when the steps under way are done. Raises what loading the model raises.

        If the recognizer hangs, the process ends with exit code 1, so that whatever supervises it starts another.
        """
        asyncio.run(self._run(listener, context))
        if self._error is not None:
            raise self._error

    async def _run(self, listener: socket.socket | str, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        async with self._server.listening(listener, context):
            # Not one of asyncio's threads, for which the interpreter would wait at its end.
            TorchThread(self._load, loop, name="qwen-asr-loading").start()
            watching = asyncio.create_task(self._watch())
            await self._ended.wait()
            watching.cancel()
            if self._error is None:
                await self._drain(self._limits.fleet.drain_seconds)
        if self._server.host is not None:
            self._server.host.close()

    async def _drain(self, seconds: float) -> None:
        self._say("Stopping: steps under way are finished. A second signal stops the engine at once.")
        if not await self._server.drain(seconds):
            log.warning("Some steps were not finished within %.0f s.", seconds)

    def _on_signal(self) -> None:
        if self._ended.is_set():
            os._exit(1)  # the second one: nobody waits for threads
        self._ended.set()

    async def _watch(self) -> None:
        """Ends the process if its recognizer hangs. Nothing can end such a thread, not even a normal exit."""
        while True:
            await asyncio.sleep(self._limits.watchdog.poll_seconds)
            if self._engine is not None and (reason := self._engine.unhealthy_reason()):
                log.critical("%s The process ends with an error, so that its supervisor starts it again.", reason)
                await self._server.drain(self._limits.fleet.unhealthy_seconds)
                logging.shutdown()
                os._exit(1)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        from qwen_asr.fleet.host import EngineHost

        try:
            path = self._config.models[0].path
            engine = load_engine(path, self._config, self._instruments, self._limits, self._progress)
            host = EngineHost(engine)
        except BaseException as error:
            if not isinstance(error, QwenASRError):
                log.exception("the checkpoint could not be loaded")
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                error = QwenASRError(f"The checkpoint could not be loaded ({reason}). The log above says more.")
            self._error = error
            loop.call_soon_threadsafe(self._ended.set)
            return
        keep_what_is_loaded()
        self._engine, self._server.host = engine, host
        self._say(f"Ready. Model: {engine.info.name}")

    def _progress(self, text: str) -> None:
        log.info("%s", text)
        self._server.loading = text.rstrip(" .…") + " …"
