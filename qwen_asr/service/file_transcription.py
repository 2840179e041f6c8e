"""One audio file through one session, without a thread of its own and without blocking the event loop.

A file is decoded a few seconds at a time, and only as far ahead as the recognizer follows, so its length costs no
memory. It takes its turns on the same scheduler as every live speaker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import decode_blocks
from qwen_asr.config.limits import MAX_AHEAD_SECONDS
from qwen_asr.errors import AudioError, LimitExceeded, StepFailed
from qwen_asr.live.events import Event, Failed, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from qwen_asr.live.runner import Runner
    from qwen_asr.live.session_options import SessionOptions
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service

T = TypeVar("T")
HOP_SECONDS = 4.0
"""How much is decoded and listened to at once: some 20 ms of work, which a live speaker does not notice."""


class FileTranscription:
    """`begin`, then iterate over `finals`, then `close`, whatever happened between. Belongs to one event loop."""

    def __init__(
        self,
        service: Service,
        file: BinaryIO,
        options: SessionOptions,
        *,
        slot: QueueTicket | None = None,
    ) -> None:
        """`file` must stay open until `close` and be seekable. `slot` is returned at `close` at the latest."""
        self._service = service
        self._slot = slot
        # Nobody watches this text grow: each utterance is decoded once, at its end.
        self._options = replace(options, chunk_seconds=service.config.max_utterance_seconds + 1)
        # It is a generator, though not typed as one; its `close` lets go of the file.
        self._blocks = cast("Generator[NDArray[np.float32]]", decode_blocks(file))
        self._decoded = np.zeros(0, np.float32)
        self._loop = asyncio.get_running_loop()
        self._over_at = self._loop.time() + service.config.max_session_seconds
        self._runner: Runner | None = None
        self._heard: list[Event] = []
        self._moved = asyncio.Event()
        # With less than an utterance's length not yet recognized it may be that no step is due: then nothing would
        # ever come to wait for.
        self._ahead = service.config.max_utterance_seconds + MAX_AHEAD_SECONDS

    @property
    def seconds(self) -> float:
        """The length of the audio so far; of all of it once `finals` is exhausted."""
        return self._runner.received / SAMPLE_RATE if self._runner else 0.0

    async def begin(self) -> None:
        """Everything that can fail at once: whether it is audio, and whether a session can be opened for it.

        Raises AudioError for what is no audio, and as `Service.open_session` does.
        """
        self._decoded = await in_thread(self._decode)
        if not len(self._decoded):
            raise AudioError("The audio holds no sound at all; expected an audio or video file.")
        open_session = partial(self._service.open_session, self._options, self._tell, kind="rest", slot=self._slot)
        self._runner = await in_thread(open_session)

    async def finals(self) -> AsyncIterator[Final]:
        """The utterances in order, each as soon as it is known, once `begin` has returned.

        Raises StepFailed, AudioError for a file that turns out to be damaged, and LimitExceeded where it takes longer
        than a session may last.
        """
        runner = self._runner
        if runner is None:
            raise RuntimeError("finals() before begin().")
        while len(self._decoded):
            await in_thread(partial(runner.feed, self._decoded))
            async for final in self._until(lambda: runner.lag <= self._ahead):
                yield final
            self._decoded = await in_thread(self._decode)
        finished = runner.finish()
        finished.add_done_callback(lambda _: self._tell([]))
        async for final in self._until(finished.done):
            yield final

    def close(self) -> None:
        """Takes its work from the recognizer and lets go of the file. Nothing in a thread uses either any more."""
        if self._runner is not None:
            self._runner.close()
        if self._slot is not None:
            self._slot.leave()
        self._blocks.close()

    async def _until(self, condition: Callable[[], bool]) -> AsyncIterator[Final]:
        while True:
            # In this order: what comes from here on sets it again, so nothing is slept through.
            self._moved.clear()
            done = condition()
            while self._heard:
                event = self._heard.pop(0)
                if isinstance(event, Failed):
                    raise StepFailed(event.message)
                if isinstance(event, Final):
                    yield event
            if done:
                return
            try:
                async with asyncio.timeout_at(self._over_at):
                    await self._moved.wait()
            except TimeoutError:
                most = self._service.config.max_session_seconds
                raise LimitExceeded(
                    f"The work has taken {most:g} seconds, the most that this server allows: send the rest of the file "
                    "as a file of its own."
                ) from None

    def _tell(self, events: list[Event]) -> None:
        """Called on the scheduler's thread, which serves every speaker: hands on, and returns."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever wanted to know
            self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: list[Event]) -> None:
        self._heard += events
        self._moved.set()

    def _decode(self) -> NDArray[np.float32]:
        """The next `HOP_SECONDS`, somewhat more or less; empty at the end."""
        parts: list[NDArray[np.float32]] = []
        while sum(map(len, parts)) < HOP_SECONDS * SAMPLE_RATE:
            if (block := next(self._blocks, None)) is None:
                break
            parts.append(block)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, done in a thread. Who is cancelled meanwhile still waits for its end, which is near.

    So what the thread uses can be closed right behind the cancellation.
    """
    working = asyncio.ensure_future(to_thread.run_sync(work))
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done():
            await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # it was looked at: asyncio complains of failures that nobody reads
