"""`qwen-asr stream`: sends a file or the microphone to a server and prints the text while it is spoken."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.cli.common import add_sound_options, sound_choice
from qwen_asr.errors import AudioError, BadConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qwen_asr.audio.tracks import SoundChoice
    from qwen_asr.cli.sources import Blocks
    from qwen_asr.client.speech_client import SpeechClient

DEFAULT_URL = "wss://localhost:8000/ws/asr"
KEY_VARIABLE = "QWEN_ASR_API_KEY"
MICROPHONE = "mic"
INTERRUPTED = 130
"""The exit code of a program that SIGINT (2) ended, as shells report it."""

HELP = "send a file or the microphone to a server"
EXAMPLES = """examples:
  %(prog)s --cafile certs/qwen_asr_cert.pem interview.m4a
      a file, as fast as the server accepts it; with --realtime at the speed of speech
  %(prog)s --url ws://localhost:8000 --language German --context "Grünau, Frau Özdemir" mic
      the microphone, until Ctrl-C; the text of the last words is still printed
  arecord -t raw -f S16_LE -r 16000 | %(prog)s --url wss://asr.example.com - --rate 16000
      raw samples from any program; without --rate, - is a complete file

On a terminal the text grows while it is spoken; otherwise each line is the final text of an utterance. A lost
connection is resumed without losing audio. Pass an API key in the environment, as QWEN_ASR_API_KEY: other users of this
machine can read the command line.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source and the options of the connection."""
    what = "audio or video file, or its http(s) URL; - is standard input, mic the microphone"
    parser.add_argument("source", metavar="FILE|-|mic", help=what)
    where = f"the server; wss://USER:PASSWORD@HOST if it requires a login (default: {DEFAULT_URL})"
    parser.add_argument("--url", default=DEFAULT_URL, help=where)
    parser.add_argument("--cafile", metavar="PEM", help="certificate to trust: a CA's, or the server's own")
    parser.add_argument("--api-key", metavar="KEY", help=f"if the server requires one (default: ${KEY_VARIABLE})")
    parser.add_argument("--language", metavar="LANGUAGE", help="language that is spoken (default: the server's)")
    parser.add_argument("--context", default="", metavar="TEXT", help="names and terms that occur in the audio")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="instruction placed before the context")
    parser.add_argument("--model", default="", metavar="NAME", help="one of the server's models (default: its first)")
    what = "also print when each word is said: a line with start, end (seconds) and word, tabs between them"
    parser.add_argument("--words", action="store_true", help=what)
    add_sound_options(parser)
    parser.add_argument("--rate", metavar="HZ", help="standard input is raw samples at this rate: s16le, mono")
    parser.add_argument("--realtime", action="store_true", help="send no faster than the audio was spoken")


def run(options: dict[str, Any]) -> int:
    """Streams until all text was received; returns the exit code. Raises QwenASRError.

    The first SIGINT ends the recording, and the text of the last words is still received; the second ends at once.
    """
    names = ("source", "url", "cafile", "language", "context", "prompt", "model", "words", "realtime")
    settings = StreamSettings(
        **{name: options[name] for name in names},
        rate=_parse_rate(options["rate"]),
        api_key=options["api_key"] or os.environ.get(KEY_VARIABLE),
    )
    raw = settings.rate is not None or settings.source == MICROPHONE
    if raw and (options["track"] or options["channel"]):
        raise BadConfig("--track and --channel are for files: leave them out for a microphone and raw samples.")
    if settings.rate is not None and settings.source != "-":
        raise BadConfig(f"--rate was given with {settings.source!r}; it is for raw samples on standard input, -.")
    return asyncio.run(_stream(settings, _open_source(settings, None if raw else sound_choice(options))))


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """The options of the command. With `rate` (Hz), standard input is raw samples."""

    source: str
    url: str
    cafile: str | None = None
    api_key: str | None = field(default=None, repr=False)
    language: str | None = None
    context: str = ""
    prompt: str = ""
    model: str = ""
    words: bool = False
    rate: int | None = None
    realtime: bool = False


def _parse_rate(text: str | None) -> int | None:
    if text is None:
        return None
    from qwen_asr.audio.validation import HIGHEST_RATE, LOWEST_RATE  # imports numpy

    if not text.isascii() or not text.isdigit() or not LOWEST_RATE <= int(text) <= HIGHEST_RATE:
        raise BadConfig(f"--rate was given {text!r}, but expects a whole number from {LOWEST_RATE} to {HIGHEST_RATE}.")
    return int(text)


async def _stream(settings: StreamSettings, blocks: Blocks) -> int:
    from qwen_asr.cli.terminal import Screen
    from qwen_asr.client.speech_client import SpeechClient, trusted  # imports numpy and websockets

    stop = asyncio.Event()
    this_task = asyncio.current_task()
    assert this_task is not None  # noqa: S101 - a coroutine runs in a task

    def on_interrupt() -> None:
        if stop.is_set():
            this_task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    screen = Screen()
    raw = settings.rate is not None or settings.source == MICROPHONE
    client = SpeechClient(
        settings.url,
        language=settings.language,
        context=settings.context,
        prompt=settings.prompt,
        rate=settings.rate or SAMPLE_RATE,
        encoding="s16le" if raw else "f32le",
        words=settings.words,
        model=settings.model,
        api_key=settings.api_key,
        trust=trusted(settings.cafile) if settings.cafile else None,
    )
    try:
        async with client:
            sending = asyncio.create_task(_send(client, blocks, stop, settings.source == MICROPHONE))
            try:
                async for event in client:
                    screen.show(event)
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
    except asyncio.CancelledError:
        return INTERRUPTED
    finally:
        screen.close()
        loop.remove_signal_handler(signal.SIGINT)
    screen.report_missing_speech()
    return 0


def _open_source(settings: StreamSettings, choice: SoundChoice | None) -> Blocks:
    """The audio; of a file, the track and channel of `choice`.

    Its first block is read here, so that a source that cannot be read is reported before connecting.
    """
    from qwen_asr.cli.sources import at_real_time, file_blocks, microphone_blocks, raw_blocks  # imports numpy

    if settings.source == MICROPHONE:
        blocks = microphone_blocks()
    elif settings.rate is not None:
        blocks = raw_blocks(settings.rate)
    else:
        blocks = file_blocks(settings.source, choice)
    first = next(blocks, None)
    if first is None:
        raise AudioError(f"{settings.source!r} contains no audio; expected an audio or video file.")
    blocks = _prepend(first, blocks)
    return at_real_time(blocks, settings.rate or SAMPLE_RATE) if settings.realtime else blocks


def _prepend(first: NDArray[Any], blocks: Blocks) -> Blocks:
    with contextlib.closing(blocks):
        yield first
        yield from blocks


async def _send(client: SpeechClient, blocks: Blocks, stop: asyncio.Event, live: bool) -> None:
    """Sends the source until it ends or `stop` is set, then finalizes, so that everything sent gets its text."""
    from qwen_asr.cli.sources import read

    try:
        async with contextlib.aclosing(read(blocks, stop, live=live)) as pieces:
            async for piece in pieces:
                await client.send(piece)
    finally:
        await client.finalize()
