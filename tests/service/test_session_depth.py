"""How deep the calls are that open a session: from each edge to the engine's utterance at most `MAX_FRAMES` of ours.

A profile function follows every thread. It knows which coroutine handed a function to a worker thread, and which one
started a task, so a chain that crosses either is counted in one piece. docs/architecture.md shows the chains.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anyio.to_thread
import httpx
import pytest
import torch

import qwen_asr
from qwen_asr.audio.validation import to_mono
from qwen_asr.config.config import Config
from qwen_asr.engine.streaming import Utterance
from qwen_asr.service.service import Service
from qwen_asr.web.app import create_app
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.rest_client import wav
from tests.support.sockets import client, listening

pytestmark = pytest.mark.slow

MAX_FRAMES = 8
PACKAGE = str(Path(qwen_asr.__file__).parent)
SENTENCE = "Turn on the kitchen light."


class Tracer:
    """Collects, for each engine utterance that is made, the names of our frames that led to it, outermost first."""

    def __init__(self) -> None:
        self.chains: list[list[str]] = []
        self._handed: dict[int, list[str]] = {}  # by the id of a function that a worker thread is to call
        self._tasks: dict[FrameType, list[str]] = {}  # by the frame of a task's coroutine

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code is anyio.to_thread.run_sync.__code__:
            self._handed[id(frame.f_locals["func"])] = self._chain(frame)
        elif code is asyncio.BaseEventLoop.create_task.__code__:
            self._tasks[frame.f_locals["coro"].cr_frame] = self._chain(frame)
        elif code is _code_of(Utterance.__init__):
            self.chains.append(self._chain(frame))

    def _chain(self, frame: FrameType | None) -> list[str]:
        names: list[str] = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                names.append(frame.f_code.co_qualname)
            if frame in self._tasks:
                return [*self._tasks[frame], *reversed(names)]
            if frame.f_code.co_qualname == "WorkerThread.run":
                return [*self._handed[id(frame.f_locals["func"])], *reversed(names)]
            frame = frame.f_back
        return names[::-1]


def _code_of(function: Callable[..., Any]) -> CodeType:
    code: CodeType = function.__code__
    return code


@contextlib.contextmanager
def traced() -> Iterator[Tracer]:
    tracer = Tracer()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(), demo_recognizer())) as loaded:
        yield loaded


def open_on_the_page(service: Service) -> None:
    recordings = create_app(service.config, service).state.recordings
    recordings.open("tab", "recording", 48_000, service.session_options())
    recordings.close()


def open_on_asr(service: Service) -> None:
    async def speak(url: str) -> None:
        async with client(url) as speaker:
            await speaker.config()

    with listening(service) as server:
        asyncio.run(speak(server.url))


def open_on_realtime(service: Service) -> None:
    async def speak(url: str) -> None:
        async with client(f"{url}?intent=transcription") as speaker:
            audio = base64.b64encode(bytes(4_800)).decode()
            await speaker.connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await speaker.connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
            await speaker.wait_for("input_audio_buffer.cleared")

    with listening(service, route=RealtimeRoute) as server:
        asyncio.run(speak(server.url))


def open_on_rest(service: Service) -> None:
    with listening(service) as server:
        sent: dict[str, Any] = {"files": {"file": wav(spoken(SENTENCE))}, "data": {"model": "any"}}
        httpx.post(f"{server.http}/v1/audio/transcriptions", timeout=120, **sent).raise_for_status()


EDGES = {
    "page": (open_on_the_page, "RecordingRegistry.open"),
    "/ws/asr": (open_on_asr, "AsrConnection._open"),
    "/v1/realtime": (open_on_realtime, "Connection._feed_audio"),
    "/v1/audio/transcriptions": (open_on_rest, "Transcriptions._transcribe"),
}
"""For each edge how to open a session there, and the function at which the chain begins."""


@pytest.mark.parametrize("edge", EDGES)
def test_a_session_is_opened_in_few_calls_and_the_docs_show_them(edge: str, service: Service, repository: Path) -> None:
    open_session, begin = EDGES[edge]
    with traced() as tracer:
        open_session(service)
    whole = tracer.chains[0]
    chain = whole[whole.index(begin) :]
    assert chain[-1] == "Utterance.__init__"
    assert len(chain) <= MAX_FRAMES, chain
    document = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| `{edge}` \|.*$|^\| {edge} \|.*$", document, re.MULTILINE)
    assert re.findall(r"`([\w.<>]+)`", row.partition("|")[2].partition("|")[2]) == chain


def test_a_microphone_block_is_validated_once(service: Service) -> None:
    validated = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is _code_of(to_mono):
            validated.append(frame)

    recordings = create_app(service.config, service).state.recordings
    recording = recordings.open("tab", "recording", 48_000, service.session_options())
    sys.setprofile(count)
    try:
        recording.receive(0, bytes(9_600))
    finally:
        sys.setprofile(None)
    recordings.close()
    assert len(validated) == 1
