"""The audio sources of `qwen-asr stream`: a file, standard input, or a microphone.

Reading blocks, so it runs on its own thread. Audio that was read waits in a queue: a few blocks of a file, or as much
audio of a microphone as the client keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.client.limits import ClientLimits
from qwen_asr.errors import AudioError

if TYPE_CHECKING:
    from qwen_asr.audio.tracks import SoundChoice

Blocks = Generator[NDArray[Any], None, None]
BLOCK_SECONDS = 0.1
_MAX_WAITING_BLOCKS = 8


def file_blocks(name: str, choice: SoundChoice | None = None) -> Blocks:
    """A path, an http(s) URL, or `-` for a whole file on standard input: float32 at 16 kHz. Raises AudioError.

    `choice` is the track and the channel.
    """
    from qwen_asr.audio.decode import decode_blocks, fetch, is_address  # imports av, which other sources do not need

    if name == "-":
        yield from decode_blocks(sys.stdin.buffer, "Standard input", choice=choice)
        return
    source = io.BytesIO(fetch(name)) if is_address(name) else Path(name)
    yield from decode_blocks(source, repr(name), choice=choice)


def raw_blocks(rate: int) -> Blocks:
    """Raw signed 16-bit little-endian mono samples on standard input, as from `arecord` and `ffmpeg -f s16le`.

    A block contains what has arrived, so live audio is not delayed. Raises AudioError if there are no samples.
    """
    rest, empty = b"", True
    # Reads from the descriptor, because Python's buffer would wait until it is full.
    while data := os.read(sys.stdin.fileno(), max(2, 2 * round(rate * BLOCK_SECONDS))):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        empty = empty and not whole
        yield np.frombuffer(data[:whole], "<i2")
    if empty:
        raise AudioError("Standard input is empty; expected raw samples (s16le, mono) for --rate.")


def microphone_blocks() -> Blocks:
    """The default microphone: int16 at 16 kHz, until the generator is closed.

    Raises AudioError if the `sounddevice` package (the extra `mic`) or a microphone is missing.
    """
    try:
        sounddevice: Any = importlib.import_module("sounddevice")  # optional, and without type hints
    except ImportError:
        raise AudioError(
            "The microphone needs the sounddevice package: pip install sounddevice, or pipe samples in, as in "
            "arecord -t raw -f S16_LE -r 16000 | qwen-asr stream - --rate 16000."
        ) from None
    except OSError as error:  # the package is installed, but the library that it loads is not
        raise AudioError(f"The microphone needs PortAudio ({error}): install it, on Debian libportaudio2.") from None
    size = round(SAMPLE_RATE * BLOCK_SECONDS)
    try:
        with sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE, blocksize=size, channels=1, dtype="int16", latency="high"
        ) as stream:
            while True:
                data, _ = stream.read(size)
                yield np.frombuffer(bytes(data), np.int16)
    except sounddevice.PortAudioError as error:
        raise AudioError(f"No microphone can be opened ({error}): check that one is connected.") from None


def at_real_time(blocks: Blocks, rate: int = SAMPLE_RATE) -> Blocks:
    """The same samples, no faster than they were spoken."""
    with contextlib.closing(blocks):
        yield from _paced(blocks, rate)


def _paced(blocks: Blocks, rate: int) -> Blocks:
    started, samples = time.monotonic(), 0
    size = max(1, round(rate * BLOCK_SECONDS))
    for block in blocks:
        for start in range(0, len(block), size):
            piece = block[start : start + size]
            samples += len(piece)
            time.sleep(max(0.0, started + samples / rate - time.monotonic()))
            yield piece


async def read(blocks: Blocks, stop: asyncio.Event, *, live: bool = False) -> AsyncGenerator[NDArray[Any], None]:
    """The blocks, read on a thread, until they end or `stop` is set. `live` blocks arrive even if nobody reads them.

    Raises the errors of reading, and AudioError if more live audio waits than the client keeps.
    """
    loop = asyncio.get_running_loop()
    max_live_seconds = ClientLimits().buffer_seconds
    max_waiting = round(max_live_seconds / BLOCK_SECONDS) if live else _MAX_WAITING_BLOCKS
    waiting: asyncio.Queue[NDArray[Any] | BaseException | None] = asyncio.Queue()
    free = threading.Semaphore(max_waiting)
    ended = threading.Event()

    def read_all() -> None:
        end: BaseException | None = None
        try:
            for block in blocks:
                if live and not free.acquire(blocking=False):
                    raise AudioError(f"For {max_live_seconds:g} s nothing could be sent; recording stopped.")
                while not live and not free.acquire(timeout=BLOCK_SECONDS):
                    if ended.is_set():
                        return
                if ended.is_set():
                    return
                _put_from_thread(loop, waiting, block)
        except BaseException as error:
            end = error
        finally:
            blocks.close()  # closes the file or the microphone now, not at garbage collection
        _put_from_thread(loop, waiting, end)

    threading.Thread(target=read_all, name="qwen-asr-reading", daemon=True).start()
    stopping = asyncio.create_task(_put_none_when(stop, waiting))
    try:
        while not stop.is_set() and (item := await waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            free.release()
            yield item
    finally:
        ended.set()
        stopping.cancel()


async def _put_none_when(stop: asyncio.Event, waiting: asyncio.Queue[Any]) -> None:
    await stop.wait()
    waiting.put_nowait(None)  # wakes the reader of the queue


def _put_from_thread(loop: asyncio.AbstractEventLoop, waiting: asyncio.Queue[Any], item: Any) -> None:
    put: Callable[[Any], None] = waiting.put_nowait
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(put, item)
