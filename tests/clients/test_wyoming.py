"""wyoming-openai, the bridge from Home Assistant, between a client of the Wyoming protocol and our server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from tests.support.clients import ClientServer, Speech, words
from tests.support.network import free_ports
from tests.support.processes import until


@pytest.fixture
def bridge(server: ClientServer, tmp_path: Path) -> Iterator[int]:
    """The port of a bridge to the server."""
    [port] = free_ports(1)
    options = {
        "--uri": f"tcp://127.0.0.1:{port}",
        "--stt-openai-url": server.api,
        "--stt-openai-key": "any",
        "--stt-models": "whisper-1",
        "--languages": "en",
    }
    command = [sys.executable, "-m", "wyoming_openai", *(part for pair in options.items() for part in pair)]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)

    def listens() -> bool:
        assert process.poll() is None, output.read_text()
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert until(listens), output.read_text()
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_a_sentence(bridge: int, speech: Speech) -> None:
    async def run() -> str:
        async with AsyncTcpClient("127.0.0.1", bridge) as client:
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(16_000, 2, 1).event())
            for frame in speech.frames(16_000, 100):
                await client.write_event(AudioChunk(16_000, 2, 1, frame).event())
            await client.write_event(AudioStop().event())
            while (event := await client.read_event()) is not None:
                if Transcript.is_type(event.type):
                    return Transcript.from_event(event).text
        raise AssertionError("the bridge closed without a transcript")

    assert words(asyncio.run(run())) == speech.words
