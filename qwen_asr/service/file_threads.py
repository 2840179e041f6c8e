"""`FileThreads`: the threads that decode files and detect voice in them. They yield to live speech."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from anyio import to_thread

from qwen_asr.errors import StepFailed

T = TypeVar("T")
NICENESS = 10
"""The priority of the threads of files. Linux gives them a tenth of a core while others want all of it. Below this, a
thread that holds Python's lock could wait for a core for long, and all others for the lock."""


class FileThreads:
    """Threads for the work on files, for all files together.

    They are few, and the operating system gives them less time than the threads of live sessions. More threads would
    not be faster where live speech needs the cores, and all files advance in turn, some seconds of audio each time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "qwen-asr-files", initializer=_lower_priority)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in one of the threads and returns its result. Raises StepFailed after `close`.

        If cancelled meanwhile, it drops work that has not begun, and waits for the rest (`until_done`).
        """
        try:
            job = self._pool.submit(contextvars.copy_context().run, work)
        except RuntimeError:  # the threads have been ended
            raise StepFailed("The recognizer was stopped.") from None
        return await until_done(asyncio.wrap_future(job), job.cancel)

    def close(self) -> None:
        """Ends the threads once they have nothing to do."""
        self._pool.shutdown(wait=False)


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in an ordinary thread and returns its result. If cancelled meanwhile, it waits (`until_done`)."""
    return await until_done(asyncio.ensure_future(to_thread.run_sync(work)))


async def until_done(working: asyncio.Future[T], drop: Callable[[], bool] = lambda: False) -> T:
    """The result of a thread's work.

    If cancelled meanwhile, this still waits for the work to end, which takes milliseconds, unless `drop` says that it
    will not begin any more. What the thread uses can then be closed right away.
    """
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done() and not drop():
            await asyncio.wait([working])
        if working.done() and not working.cancelled():
            working.exception()  # marks it as retrieved, so that asyncio does not log it


def _lower_priority() -> None:
    # Only on Linux has each thread its own priority.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
