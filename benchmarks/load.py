"""Concurrent sessions on a server in a separate process: helpers shared by the service benchmarks."""

import asyncio
import bisect
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.speech import Samples
from qwen_asr import Qwen3ASRModel
from qwen_asr.audio import SAMPLE_RATE

ROOT = Path(__file__).parents[1]
FRAME = SAMPLE_RATE // 10
READY_SECONDS = 120
STAGGER_SECONDS = 1.0


@dataclass
class RunningServer:
    """A running server: its base URL, and its process for psutil."""

    base: str
    process: psutil.Process

    @property
    def url(self) -> str:
        """The URL of `/ws/asr`."""
        return self.base.replace("http", "ws") + "/ws/asr"

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of the process so far, on all cores."""
        return float(sum(self.process.cpu_times()[:2]))

    @property
    def megabytes(self) -> float:
        """The resident memory of the process, in MiB."""
        return float(self.process.memory_info().rss) / 2**20


@contextlib.contextmanager
def launched(*options: str, log: IO[str] | None = None) -> Iterator[RunningServer]:
    """Run `app.py` with the options on a free port until the block ends, which begins when the port is open.

    Its log goes to `log`.
    """
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0", "--log-level", "warning", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            output = process.stdout or ()
            found = next((match for line in output if (match := re.search(r"http://localhost:\d+", line))), None)
            if found is None:
                raise RuntimeError("The server exited before it was ready. See its output above.")
            yield RunningServer(found[0], psutil.Process(process.pid))
        finally:
            process.terminate()
            process.communicate()  # the server still writes that it is ready, and that it stopped


@contextlib.contextmanager
def server(*options: str, log: IO[str] | None = None) -> Iterator[RunningServer]:
    """As `launched`; the block begins when the server is ready for sessions."""
    with launched(*options, log=log) as running:
        wait_until_ready(running.base)
        yield running


def wait_until_ready(url: str) -> None:
    """Return when `/readyz` says so. Raises TimeoutError after `READY_SECONDS`."""
    for _ in range(READY_SECONDS * 20):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz"):  # noqa: S310 - a server on this machine
            return
        time.sleep(0.05)
    raise TimeoutError(f"The server was not ready after {READY_SECONDS} s.")


@dataclass
class SessionResult:
    """What one session received.

    `lags`: seconds from the last sample of a text to the arrival of the text. `texts`: all partials and finals, each
    with the seconds from the beginning of the audio to its arrival.
    """

    finals: list[dict[str, Any]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    texts: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def stream_clip(url: str, samples: Samples, *, realtime: bool, **settings: object) -> SessionResult:
    """Run one session from config to close, in frames of 100 ms, in real time or as fast as the server accepts them.

    settings: keys of the config.
    """
    result = SessionResult()
    # Pings would time out while the server is not reading: they are queued behind the audio.
    async with connect(url, ping_timeout=None, open_timeout=60, max_queue=None) as connection:
        await connection.send(json.dumps({"type": "config", **settings}))
        await connection.recv()  # the session is open, so opening it delays no text
        sent_at: list[float] = []
        begin = time.monotonic()
        reading = asyncio.create_task(_read(connection, result, begin, sent_at))
        for number, start in enumerate(range(0, len(samples), FRAME), 1):
            if realtime:
                await asyncio.sleep(max(0.0, begin + number * FRAME / SAMPLE_RATE - time.monotonic()))
            sent_at.append(begin + number * FRAME / SAMPLE_RATE if realtime else time.monotonic())
            await connection.send(samples[start : start + FRAME].astype("<f4").tobytes())
        await connection.send(json.dumps({"type": "finalize"}))
        await reading
    return result


async def run_sessions(url: str, clips: list[Samples], **settings: object) -> list[SessionResult]:
    """Stream all clips concurrently in real time, with their starts spread over a second."""

    async def start(number: int, samples: Samples) -> SessionResult:
        await asyncio.sleep(STAGGER_SECONDS * number / len(clips))
        return await stream_clip(url, samples, realtime=True, **settings)

    return list(await asyncio.gather(*(start(number, samples) for number, samples in enumerate(clips))))


async def _read(connection: ClientConnection, result: SessionResult, begin: float, sent_at: list[float]) -> None:
    ends = [(number + 1) * FRAME / SAMPLE_RATE for number in range(100_000)]
    async for text in connection:
        arrived = time.monotonic()
        message = json.loads(text)
        if message["type"] == "error":
            result.errors.append(message["message"])
        if message["type"] == "final":
            result.finals.append(message)
        if message["type"] in ("partial", "final") and message["text"]:
            last = min(bisect.bisect_left(ends, message["end"] - 1e-6), len(sent_at) - 1)
            result.lags.append(arrived - sent_at[last])
            result.texts.append((arrived - begin, message))


def count_mismatches(model: Qwen3ASRModel, samples: Samples, result: SessionResult) -> int:
    """Count the finals that differ from the offline transcription of the same samples."""
    mismatches = 0
    for final in result.finals:
        span = samples[round(final["start"] * SAMPLE_RATE) : round(final["end"] * SAMPLE_RATE)]
        offline = model.transcribe((span, SAMPLE_RATE))[0].text if len(span) else ""
        mismatches += final["text"] != offline
    return mismatches


def quantile(values: list[float], share: float) -> float:
    """The quantile of one or more values; `share` is from 0 to 1."""
    return float(np.quantile(values, share))
