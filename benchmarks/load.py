"""Many speakers at once on a server of its own process: what the benchmarks of the service share."""

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


@dataclass
class Running:
    """A server that takes sessions: its address, and its process for psutil."""

    base: str
    process: psutil.Process

    @property
    def url(self) -> str:
        """Of `/ws/asr`."""
        return self.base.replace("http", "ws") + "/ws/asr"

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(self.process.memory_info().rss) / 2**20


@contextlib.contextmanager
def server(*options: str, log: IO[str] | None = None) -> Iterator[Running]:
    """`app.py` with the options, on a free port of this machine, until the block ends; what it logs goes to `log`."""
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0", "--log-level", "warning", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            said = process.stdout or ()
            found = next((match for line in said if (match := re.search(r"http://localhost:\d+", line))), None)
            if found is None:
                raise RuntimeError("The server ended before it served; what it said stands above.")
            _wait_until_ready(found[0])
            yield Running(found[0], psutil.Process(process.pid))
        finally:
            process.terminate()


def _wait_until_ready(url: str) -> None:
    for _ in range(READY_SECONDS * 10):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz"):  # noqa: S310 - this machine's own
            return
        time.sleep(0.1)
    raise TimeoutError(f"The server was not ready after {READY_SECONDS} s.")


@dataclass
class Heard:
    """What one session was told. `lags`: seconds from the moment a text's last sample was spoken to its arrival."""

    finals: list[dict[str, Any]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def speak(url: str, samples: Samples, *, realtime: bool) -> Heard:
    """One session from config to close: in frames of 100 ms at their time, or as fast as the server takes them."""
    heard = Heard()
    # A client's pings would wait behind audio that the server does not read yet.
    async with connect(url, ping_timeout=None, open_timeout=60, max_queue=None) as connection:
        await connection.send(json.dumps({"type": "config"}))
        spoken_at: list[float] = []
        reading = asyncio.create_task(_read(connection, heard, spoken_at))
        begin = time.monotonic()
        for number, start in enumerate(range(0, len(samples), FRAME), 1):
            if realtime:
                await asyncio.sleep(max(0.0, begin + number * FRAME / SAMPLE_RATE - time.monotonic()))
            spoken_at.append(begin + number * FRAME / SAMPLE_RATE if realtime else time.monotonic())
            await connection.send(samples[start : start + FRAME].astype("<f4").tobytes())
        await connection.send(json.dumps({"type": "finalize"}))
        await reading
    return heard


async def _read(connection: ClientConnection, heard: Heard, spoken_at: list[float]) -> None:
    ends = [(number + 1) * FRAME / SAMPLE_RATE for number in range(100_000)]
    async for text in connection:
        message = json.loads(text)
        if message["type"] == "error":
            heard.errors.append(message["message"])
        if message["type"] == "final":
            heard.finals.append(message)
        if message["type"] in ("partial", "final") and message["text"]:
            frame = min(bisect.bisect_left(ends, message["end"] - 1e-6), len(spoken_at) - 1)
            heard.lags.append(time.monotonic() - spoken_at[frame])


def differing(model: Qwen3ASRModel, samples: Samples, heard: Heard) -> int:
    """How many finals are not what offline transcription gives for the same samples."""
    wrong = 0
    for final in heard.finals:
        span = samples[round(final["start"] * SAMPLE_RATE) : round(final["end"] * SAMPLE_RATE)]
        offline = model.transcribe((span, SAMPLE_RATE))[0].text if len(span) else ""
        wrong += final["text"] != offline
    return wrong


def quantile(values: list[float], share: float) -> float:
    """Of at least one value."""
    return float(np.quantile(values, share))
