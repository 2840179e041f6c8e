"""What `qwen-asr stream` does: a source to a server, its texts to the screen, until the source or the user ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.cli.sources import Blocks, at_real_time, file_blocks, microphone_blocks, raw_blocks, read
from qwen_asr.cli.terminal import Screen
from qwen_asr.client.speech_client import SpeechClient, trusted
from qwen_asr.errors import AudioError, BadConfig

INTERRUPTED = 130
"""The exit code of a program that was ended by two SIGINTs, as shells have it."""
MICROPHONE = "mic"


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """What was typed. `rate` (Hz) makes standard input raw samples; `api_key` is not shown."""

    source: str
    url: str
    cafile: str | None = None
    api_key: str | None = field(default=None, repr=False)
    language: str | None = None
    context: str = ""
    prompt: str = ""
    rate: int | None = None
    realtime: bool = False


def stream(wanted: Streaming) -> int:
    """Until everything was heard; returns the exit code. Raises QwenASRError.

    The first SIGINT ends the recording, and the last words are still waited for; the second ends it at once.
    """
    if wanted.rate is not None and wanted.source != "-":
        raise BadConfig(f"--rate was given with {wanted.source!r}; it is for raw samples on standard input, -.")
    return asyncio.run(_stream(wanted, _source(wanted)))


async def _stream(wanted: Streaming, blocks: Blocks) -> int:
    stop = asyncio.Event()
    here = asyncio.current_task()
    assert here is not None  # noqa: S101 - a coroutine runs in a task

    def interrupted() -> None:
        if stop.is_set():
            here.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted)
    screen = Screen()
    raw = wanted.rate is not None or wanted.source == MICROPHONE
    client = SpeechClient(
        wanted.url,
        language=wanted.language,
        context=wanted.context,
        prompt=wanted.prompt,
        rate=wanted.rate or SAMPLE_RATE,
        encoding="s16le" if raw else "f32le",
        api_key=wanted.api_key,
        trust=trusted(wanted.cafile) if wanted.cafile else None,
    )
    try:
        async with client:
            speaking = asyncio.create_task(_speak(client, blocks, stop, wanted.source == MICROPHONE))
            try:
                async for event in client:
                    screen.show(event)
            finally:
                speaking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await speaking
    except asyncio.CancelledError:
        return INTERRUPTED
    finally:
        screen.close()
        loop.remove_signal_handler(signal.SIGINT)
    screen.end()
    return 0


def _source(wanted: Streaming) -> Blocks:
    """The audio, of which the first block is here: what cannot be read is told before anything is connected."""
    if wanted.source == MICROPHONE:
        blocks = microphone_blocks()
    elif wanted.rate is not None:
        blocks = raw_blocks(wanted.rate)
    else:
        blocks = file_blocks(wanted.source)
    first = next(blocks, None)
    if first is None:
        raise AudioError(f"{wanted.source!r} holds no sound at all; expected an audio or video file.")
    blocks = _behind(first, blocks)
    return at_real_time(blocks, wanted.rate or SAMPLE_RATE) if wanted.realtime else blocks


def _behind(first: NDArray[Any], blocks: Blocks) -> Blocks:
    with contextlib.closing(blocks):
        yield first
        yield from blocks


async def _speak(client: SpeechClient, blocks: Blocks, stop: asyncio.Event, live: bool) -> None:
    """Sends the source to its end. Whatever ends it, what was sent gets its text."""
    try:
        async with contextlib.aclosing(read(blocks, stop, live=live)) as pieces:
            async for piece in pieces:
                await client.send(piece)
    finally:
        await client.finalize()
