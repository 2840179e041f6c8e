"""Transcribes one audio file in a session of its own, without blocking the event loop.

A file is decoded a few seconds at a time, and only so far ahead of the recognizer, so its length costs no memory. Its
steps run on the same scheduler as those of live sessions, and give way to these, as do the threads that decode it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import decode_blocks
from qwen_asr.errors import AudioError, LimitExceeded, StepFailed, TooLarge
from qwen_asr.live.events import Event, Failed, Final
from qwen_asr.service.file_threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Generator

    from qwen_asr.audio.tracks import SoundChoice
    from qwen_asr.live.runner import Runner
    from qwen_asr.live.session_options import SessionOptions
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service

HOP_SECONDS = 4.0
"""How much audio is decoded and fed at once. It takes about 20 ms, which does not delay live sessions."""


class FileTranscription:
    """Call `begin`, then iterate over `finals`, and always call `close`. For use in one event loop."""

    def __init__(
        self,
        service: Service,
        file: BinaryIO,
        options: SessionOptions,
        *,
        choice: SoundChoice | None = None,
        slot: QueueTicket | None = None,
        take: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`file` must stay open until `close` and be seekable. `choice` is its track and channel. `slot` is returned at
        `close` at the latest.

        `take` is called with the number of samples whenever some were decoded, and may raise, which ends the work.
        """
        self._service = service
        self._slot = slot
        # No client sees partial text, so each utterance is decoded once, at its end.
        self._options = replace(options, chunk_seconds=service.config.max_utterance_seconds + 1, background=True)
        # `decode_blocks` is a generator, though not typed as one. Its `close` releases the file.
        self._blocks = cast("Generator[NDArray[np.float32]]", decode_blocks(file, choice=choice))
        self._decoded = np.zeros(0, np.float32)
        self._take = take
        self._samples = 0
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + service.config.max_session_seconds
        self._runner: Runner | None = None
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        # At least one utterance: with less audio than that waiting, no step may be due, and no event would ever arrive.
        self._max_lag = service.config.max_utterance_seconds + service.limits.upload.ahead_seconds

    @property
    def seconds(self) -> float:
        """Seconds of audio decoded so far; the length of the file once `finals` is exhausted."""
        return self._runner.received / SAMPLE_RATE if self._runner else 0.0

    async def begin(self) -> None:
        """Decodes the first seconds and opens the session, so that most errors are raised here.

        Raises AudioError if the file holds no audio, TooLarge if it is longer than `--max-file-seconds`, what `take`
        raises, and the errors of `Service.open_session`.
        """
        self._decoded = await self._service.file_threads.run(self._decode)
        if not len(self._decoded):
            raise AudioError("The file holds no audio samples; expected an audio or video file.")
        open_session = partial(self._service.open_session, self._options, self._on_events, kind="rest", slot=self._slot)
        self._runner = await in_thread(open_session)  # it takes locks that live sessions take, too

    async def finals(self) -> AsyncIterator[Final]:
        """Yields the utterances in order, each as soon as it is final, with its words if the options ask for them.

        Call it after `begin`.

        Raises StepFailed, AudioError if the file is damaged further on, TooLarge if it is longer than
        `--max-file-seconds`, what `take` raises, and LimitExceeded if the work takes longer than
        `--max-session-seconds`.
        """
        runner = self._runner
        if runner is None:
            raise RuntimeError("Call begin() before finals().")
        while len(self._decoded):
            await self._service.file_threads.run(partial(runner.feed, self._decoded))
            async for final in self._until(lambda: runner.lag <= self._max_lag):
                yield final
            self._decoded = await self._service.file_threads.run(self._decode)
        finished = runner.finish()
        finished.add_done_callback(lambda _: self._on_events([]))
        async for final in self._until(finished.done):
            yield final

    def close(self) -> None:
        """Ends the session and releases the file. No thread uses either afterwards."""
        if self._runner is not None:
            self._runner.close()
        if self._slot is not None:
            self._slot.leave()
        self._blocks.close()

    async def _until(self, condition: Callable[[], bool]) -> AsyncIterator[Final]:
        while True:
            # Cleared before the checks, so that an event that arrives during them is not missed.
            self._changed.clear()
            done = condition()
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, Failed):
                    raise StepFailed(event.message)
                if isinstance(event, Final):
                    yield event
            if done:
                return
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._changed.wait()
            except TimeoutError:
                seconds = self._service.config.max_session_seconds
                raise LimitExceeded(
                    f"The transcription took longer than {seconds:g} seconds, the most that this server allows: split "
                    "the file and send its parts."
                ) from None

    def _on_events(self, events: list[Event]) -> None:
        """Runs on the scheduler's thread for results, so it only passes the events on."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no request waits any more
            self._loop.call_soon_threadsafe(self._add, events)

    def _add(self, events: list[Event]) -> None:
        self._events += events
        self._changed.set()

    def _decode(self) -> NDArray[np.float32]:
        """About `HOP_SECONDS` of audio, float32 mono at 16 kHz; empty at the end of the file."""
        parts: list[NDArray[np.float32]] = []
        while sum(map(len, parts)) < HOP_SECONDS * SAMPLE_RATE:
            if (block := next(self._blocks, None)) is None:
                break
            parts.append(block)
            self._take(len(block))
            self._samples += len(block)
            if self._samples > (seconds := self._service.config.max_file_seconds) * SAMPLE_RATE:
                raise TooLarge(
                    f"The file is longer than {seconds:g} seconds, the most that this server takes: split it."
                )
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
