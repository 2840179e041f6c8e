"""`FileThreads`: the threads that decode files and detect voice in them. They yield to live speech."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from anyio import to_thread

from qwen_asr.errors import StepFailed

T = TypeVar("T")


class FileThreads:
    """Threads for the work on files, for all files together.

    They are so few that live sessions have the other cores, and all files advance in turn, some seconds of audio each
    time. Their priority is that of other threads: with a lower one, a thread that holds Python's lock would sometimes
    wait for a core, and everybody for it.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "qwen-asr-files")

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
