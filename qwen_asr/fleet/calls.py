"""`Calls`: a way to reach engines. `sockets` is our own, `ray_calls` goes through Ray Serve."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from qwen_asr.errors import QwenASRError

if TYPE_CHECKING:
    from qwen_asr.fleet.messages import Hello, Reply, Request


class EngineLost(QwenASRError):
    """The engine has died, drains, or cannot be reached. The same call may succeed with another one."""


class NoEngine(QwenASRError):
    """No engine can be reached now."""


class Calls(Protocol):
    """Any thread may call it."""

    @property
    def hello(self) -> Hello:
        """Of the engines that are reached; they all have the same checkpoint."""

    def call(self, request: Request, key: str, /) -> Future[Reply]:
        """Ask the engine that `key` belongs to. Calls with the same key go to the same engine as long as it is there.

        The future fails with `EngineLost` if the answer will never come, and with `NoEngine` if there is none to ask.
        It has no time-out of its own while the engine shows signs of life: a slow engine must not get double load.
        Cancelling it drops the answer.
        """

    def unavailable_reason(self) -> str | None:
        """Why no engine can be reached now, as a sentence; None if one can."""

    def close(self) -> None:
        """Stop. Calls under way fail with `EngineLost`."""
