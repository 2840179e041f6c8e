"""Threads that run torch, and the end of a process while one of them is at work. Needs no torch."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


class TorchThread(threading.Thread):
    """A daemon thread that runs torch: the interpreter does not wait for it, and `end_process` knows of it."""

    def __init__(self, target: Callable[..., object], *args: Any, name: str) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)


def end_process(code: int) -> int:
    """Call it last in a process, with its exit code, which it returns. While a `TorchThread` is at work, it ends the
    process here.

    At its end the interpreter unwinds the stacks of daemon threads (Python up to 3.13). From inside torch's C++ that
    calls `std::terminate`, and the process aborts (SIGABRT) whatever its exit code was.
    """
    if any(isinstance(thread, TorchThread) for thread in threading.enumerate()):
        atexit._run_exitfuncs()  # temporary folders go, and the log is flushed
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
