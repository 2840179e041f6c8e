"""Engines and servers as processes, which a test kills, freezes and starts again, and speakers that talk meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.config.limits import FleetLimits
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.server import EngineServer
from qwen_asr.inference.qwen3_asr import Qwen3ASRModel
from qwen_asr.web.transport.uvicorn_server import bind
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.commands import OFFLINE, QWEN_ASR, SERVER
from tests.support.processes import until
from tests.support.sockets import Client, client, silence
from training.voices import HELD_OUT

READY_SECONDS = 240  # for a process that loads torch on a busy machine
SENTENCES = (
    "The meeting is on Monday the tenth of May.",
    "Turn on the kitchen light.",
    "Wake me up at half past six.",
    "The green umbrella is in the hall.",
)


class Program:
    """A process whose output goes to a file, so that it never waits for a reader."""

    def __init__(self, folder: Path, name: str, command: list[str], **environ: str) -> None:
        self.output = folder / f"{name}.txt"
        with self.output.open("a") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **OFFLINE, **environ}, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        """All that it has printed."""
        return self.output.read_text(encoding="utf-8")

    def wait_for(self, pattern: str) -> str:
        """Waits until it has printed that, and returns the first group."""

        def is_there() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.text), self.text
            return re.search(pattern, self.text) is not None

        assert until(is_there, READY_SECONDS), self.text
        found = re.search(pattern, self.text)
        assert found is not None
        return found[1] if found.groups() else found[0]

    def end(self, number: int | None = signal.SIGTERM) -> int:
        """Sends it a signal, if one is given, and returns its exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(120)

    def kill(self) -> None:
        """For the end of a test, whether it passed or not."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


class Engine(Program):
    """`qwen-asr engine` with the demo checkpoint, on a port of its own."""

    def __init__(self, folder: Path, name: str, port: int, *options: str, **environ: str) -> None:
        fixed = ["engine", "--asr-model-path", "demo", "--device", "cpu", "--port", str(port)]
        super().__init__(folder, name, [*QWEN_ASR, *fixed, *options], **environ)
        self.address = EngineAddress("127.0.0.1", port)
        self.http = f"http://127.0.0.1:{port}"

    def wait_until_ready(self) -> None:
        """Until it has loaded the checkpoint."""
        self.wait_for("Ready. Model")

    def steps(self) -> int:
        """How many steps it has run."""
        found = re.search(r"^qwen_asr_step_seconds_count (\S+)", httpx.get(f"{self.http}/metrics").text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))


class Web(Program):
    """`app.py` on a free port."""

    def __init__(self, folder: Path, *options: str, name: str = "web", before: str = "", **environ: str) -> None:
        """`before` is Python code that the process runs first."""
        command = SERVER
        if before:
            command = [
                sys.executable,
                "-c",
                f"{before}\nimport runpy\nrunpy.run_path({SERVER[1]!r}, run_name='__main__')",
            ]
        super().__init__(folder, name, [*command, "--port", "0", *options], **environ)
        self.http = self.wait_for(r"http://localhost:\d+")
        self.websocket = self.http.replace("http", "ws") + "/ws/asr"

    def readiness(self) -> tuple[int, str, str]:
        """The status of /readyz, and what it says."""
        answer = httpx.get(f"{self.http}/readyz", timeout=60)
        return answer.status_code, answer.json()["status"], answer.json()["text"]

    def wait_until_ready(self, is_ready: bool = True) -> None:
        """Until /readyz answers 200, or 503."""
        wanted = 200 if is_ready else 503
        assert until(lambda: self.readiness()[0] == wanted, READY_SECONDS), self.text


@dataclass
class Speaker:
    """Says one sentence through `/ws/asr`, in frames of 100 ms.

    `text` is the final, `lags` those of all texts, and `waited` the seconds from the last sample to the final.
    """

    number: int
    text: str = ""
    start: float = 0.0
    end: float = 0.0
    waited: float = 0.0
    lags: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    is_half_way: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def samples(self) -> Samples:
        """What it says: half a second of silence, the sentence, and a second of silence."""
        sentence = SENTENCES[self.number % len(SENTENCES)]
        return np.concatenate([silence(0.5), spoken(sentence, self.number % len(HELD_OUT)), silence(1.0)])

    async def speak(self, url: str, go_on: asyncio.Event) -> None:
        """Stops half way, in the middle of the sentence, until `go_on`."""
        samples = self.samples
        half = len(samples) // 2
        async with client(url) as speaker:
            await speaker.config()
            await speaker.audio(samples[:half], pause=0.1)
            await speaker.wait_for("partial")
            self.is_half_way.set()
            await go_on.wait()
            await speaker.audio(samples[half:], pause=0.1)
            began = time.monotonic()
            assert await speaker.finalize() == 1000, speaker.messages
            self.waited = time.monotonic() - began
            self._keep(speaker)

    def _keep(self, speaker: Client) -> None:
        finals = speaker.of_type("final")
        assert len(finals) == 1, speaker.messages
        self.text, self.start, self.end = finals[0]["text"], finals[0]["start"], finals[0]["end"]
        self.lags = [message["lag"] for message in speaker.messages if "lag" in message]
        self.warnings = [str(message) for message in speaker.messages if message["type"] == "error"]
        self.told = [message["code"] for message in speaker.of_type("warning")]

    def check(self) -> None:
        """Its final is what the model gives offline for the same samples, and no error came."""
        heard = self.samples[round(self.start * 16_000) : round(self.end * 16_000)]
        [expected] = Qwen3ASRModel(demo_recognizer()).transcribe((heard, 16_000))
        assert self.text == expected.text
        assert self.text, "what nobody hears proves nothing"
        assert self.warnings == []


async def speak_together(url: str, count: int, half_way: Callable[[], object] | None = None) -> list[Speaker]:
    """So many speakers at once; `half_way` is called, in a thread, when all are in the middle of their sentences."""
    speakers = [Speaker(number) for number in range(count)]
    go_on = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for speaker in speakers:
            group.create_task(speaker.speak(url, go_on))
        for speaker in speakers:
            await speaker.is_half_way.wait()
        if half_way is not None:
            await asyncio.to_thread(half_way)
        go_on.set()
    return speakers


class Listening:
    """An `EngineServer` in a thread of this process. `host` is None while its engine loads."""

    def __init__(
        self,
        host: EngineHost | None,
        port: int = 0,
        interface: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
        limits: FleetLimits | None = None,
        **options: Any,
    ) -> None:
        self._listening = bind(interface, port)
        self.port = self._listening.getsockname()[1]
        self.address = EngineAddress(interface, self.port, tls=context is not None)
        self.http = f"http://{interface}:{self.port}"
        self.server = EngineServer(limits=limits, **options)
        self.server.host = host
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    async def _serve(self) -> None:
        async with self.server.listening(self._listening, self._context):
            await self._stopped.wait()

    def drain(self, seconds: float = 60) -> bool:
        """See `EngineServer.drain`."""
        return asyncio.run_coroutine_threadsafe(self.server.drain(seconds), self._loop).result(2 * seconds)

    def stop(self) -> None:
        """Closes all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(60)
            self._loop.close()
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
