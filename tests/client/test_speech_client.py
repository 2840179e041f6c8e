"""The client with lost connections and restarted servers: no audio is lost, no text comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen_asr.client import Aligned, Connected, Event, Final, Gap, Lost, Partial, SpeechClient, Warned
from qwen_asr.client.limits import ClientLimits
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import QwenASRError
from qwen_asr.service.service import Service
from tests.support.aligners import aligned_by, even_words
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.network import Proxy, free_ports, proxy
from tests.support.processes import ServerProcess, kill
from tests.support.sockets import Listening, listening, silence, until

ROOT = Path(__file__).parents[2]
SENTENCES = (
    "Turn on the kitchen light.", "The meeting is on Monday the tenth of May.", "Wake me up at half past six.",
    "The green umbrella is in the hall.", "My number is four seven one.",
)  # fmt: skip
AUDIO: Samples = np.concatenate(
    [part for sentence in SENTENCES for part in (silence(0.3), spoken(sentence), silence(1.0))]
)
LIMITS = ClientLimits(first_delay_seconds=0.02, max_delay_seconds=0.5)
TIMEOUT_SECONDS = 120.0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Listening]:
    with listening(service) as server:
        yield server


@dataclass
class Received:
    """A client and the events it received so far."""

    client: SpeechClient
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def stream(
    url: str, samples: Samples = AUDIO, *, pause: float = 0.0, halfway: Any = None, **options: Any
) -> Received:
    """Streams samples and receives all events. `halfway(received)` is awaited in the middle."""
    async with asyncio.timeout(TIMEOUT_SECONDS), SpeechClient(url, **{"limits": LIMITS, **options}) as client:
        received = Received(client)

        async def send() -> None:
            for begin in range(0, len(samples), 1_600):
                await client.send(samples[begin : begin + 1_600])
                await asyncio.sleep(pause)
                if halfway is not None and begin <= len(samples) // 2 < begin + 1_600:
                    await halfway(received)
            await client.finalize()

        async def receive() -> None:
            async for event in client:
                received.events.append(event)

        async with asyncio.TaskGroup() as tasks:  # an error in one cancels the other
            tasks.create_task(send())
            tasks.create_task(receive())
    return received


@pytest.fixture(scope="module")
def expected(served: Listening) -> list[Final]:
    """The finals of AUDIO over one connection."""
    finals = asyncio.run(stream(served.url)).of(Final)
    assert [final.text for final in finals] == list(SENTENCES)
    return finals


def check_stream(received: Received) -> None:
    """Checks that utterances are numbered in order and their ranges do not overlap."""
    finals = received.of(Final)
    assert [final.utterance for final in finals] == list(range(len(finals)))
    assert all(one.end <= other.start for one, other in pairwise(finals))
    assert received.of(Gap) == []


@pytest.mark.slow
def test_words_are_in_the_finals_or_come_after_them(served: Listening) -> None:
    samples = AUDIO[:80_000]
    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=True)):
        at_once = asyncio.run(stream(served.url, samples, words=True)).of(Final)
    assert at_once[0].text == SENTENCES[0]
    for final in at_once:
        words = even_words(final.text, final.start, final.end)
        assert [(word.text, word.start, word.end) for word in final.words] == [tuple(word.values()) for word in words]
    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=False)):
        received = asyncio.run(stream(served.url, samples, words=True))
    assert received.of(Final) == [replace(final, words=()) for final in at_once]
    assert {event.utterance: event.words for event in received.of(Aligned)} == {
        final.utterance: final.words for final in at_once
    }
    with aligned_by(demo_recognizer(), None):
        [warned] = asyncio.run(stream(served.url, samples, words=True)).of(Warned)
    assert "--aligner-model-path" in warned.message


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["f32le", "s16le"])
def test_fifty_lost_connections_at_random_bytes(served: Listening, expected: list[Final], encoding: str) -> None:
    rng = np.random.default_rng(1)
    width = 4 if encoding == "f32le" else 2
    max_bytes = 2 * len(AUDIO) * width // 70
    between: Proxy

    def budget() -> int | None:
        return int(rng.integers(1, max_bytes)) if between.cuts < 50 else None

    async def run() -> Received:
        nonlocal between
        async with proxy(served.url, budget) as between:
            return await stream(between.url, encoding=encoding)

    between = Proxy(0, budget)
    before = len(served.route.sessions.active)
    received = asyncio.run(run())
    assert between.cuts == 50
    assert len(received.of(Lost)) == 50
    assert [one.resumed for one in received.of(Connected)].count(
        False
    ) <= 2  # the answer with the session's id may have been lost
    if encoding == "f32le":
        assert received.of(Final) == expected
    else:
        assert [final.text for final in received.of(Final)] == list(SENTENCES)
    check_stream(received)
    assert len(served.route.sessions.active) <= before + 1  # a session whose id was lost


def start_server(port: int) -> subprocess.Popen[str]:
    """A server process that loads now and listens after `let_listen`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.client.asr_server", str(port)], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def let_listen(process: subprocess.Popen[str]) -> None:
    """Makes the server listen, and waits until it does."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("listen\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"


@pytest.mark.slow
def test_a_killed_and_restarted_server(expected: list[Final]) -> None:
    [port] = free_ports(1)
    processes = [start_server(port), start_server(port)]  # the second one loads in the meantime

    async def killed(received: Received) -> None:
        # In the middle of an utterance, after at least one final.
        assert await until(lambda: bool(received.of(Final)) and isinstance(received.events[-1], Partial))
        processes[0].send_signal(signal.SIGKILL)
        assert await until(lambda: bool(received.of(Lost)))
        await asyncio.to_thread(let_listen, processes[1])

    try:
        let_listen(processes[0])
        received = asyncio.run(stream(f"ws://localhost:{port}", pause=0.01, halfway=killed, limits=ClientLimits()))
    finally:
        for process in processes:
            kill(process)
    assert [final.text for final in received.of(Final)] == list(SENTENCES)
    check_stream(received)
    for final, other in zip(received.of(Final), expected, strict=True):  # times continue across servers
        assert abs(final.start - other.start) < 0.1
        assert abs(final.end - other.end) < 0.1
    first, *_, last = received.of(Connected)
    assert (first.resumed, last.resumed) == (False, False)
    assert last.start in [final.end for final in received.of(Final)]  # audio with a final text is not sent again


@pytest.mark.slow
def test_a_stopped_and_restarted_server(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """SIGTERM in the middle of a sentence: its final text ends there, and the next server continues after it."""
    [port] = free_ports(1)

    def start() -> ServerProcess:
        server = ServerProcess(
            tmp_path, ROOT, "--asr-model-path", "demo", "--chunk-size-sec", "0.5", "--port", str(port),
            OMP_NUM_THREADS="1",
        )  # fmt: skip
        request.addfinalizer(server.kill)
        server.line_with("Ready.")
        return server

    first = start()
    servers = [first]

    async def restarted(received: Received) -> None:
        assert await until(lambda: bool(received.of(Final)) and isinstance(received.events[-1], Partial))
        code, stderr = await asyncio.to_thread(first.end, signal.SIGTERM)
        assert code == 0, stderr
        servers.append(await asyncio.to_thread(start))

    received = asyncio.run(stream(f"ws://localhost:{port}", pause=0.01, halfway=restarted, limits=ClientLimits()))
    check_stream(received)
    assert "restarting" in received.of(Lost)[0].reason
    before, *_, after = received.of(Connected)
    assert (before.resumed, after.resumed) == (False, False)
    finals = received.of(Final)
    assert after.start in [final.end for final in finals]  # only audio without a final text is sent again
    position = 0.0
    for sentence in SENTENCES:  # finals cover every sentence, except for silence at its ends
        begin, end = position + 0.3, position + 0.3 + len(spoken(sentence)) / 16_000
        covered = sum(max(0.0, min(end, one.end) - max(begin, one.start)) for one in finals)
        assert covered > end - begin - 0.4, (sentence, finals)
        position = end + 1.0
    whole = [final.text for final in finals if final.text in SENTENCES]
    assert len(set(whole)) == len(whole) >= len(SENTENCES) - 1  # at most one was cut when the server stopped
    assert servers[1].end(signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_a_half_open_connection(service: Service, expected: list[Final]) -> None:
    async def run(server: Listening) -> tuple[Received, int]:
        async with proxy(server.url) as between:

            async def freeze(received: Received) -> None:
                assert await until(lambda: bool(received.of(Final)))
                between.freeze()

            limits = replace(LIMITS, receive_timeout_seconds=2.0)
            received = await stream(between.url, pause=0.01, halfway=freeze, limits=limits)
            return received, between.connections

    # For the server, the old connection is alive until the new one resumes the session.
    with listening(service, SocketLimits(ping_seconds=0.5)) as server:
        received, connections = asyncio.run(run(server))
        assert len(server.route.sessions.active) == 0
    assert connections == 2
    assert received.of(Final) == expected
    assert [one.resumed for one in received.of(Connected)] == [False, True]
    [lost] = received.of(Lost)
    assert "Nothing came" in lost.reason
    check_stream(received)


@pytest.mark.slow
def test_a_slow_reader_gets_every_final(served: Listening, expected: list[Final]) -> None:
    async def run() -> list[Event]:
        async with asyncio.timeout(TIMEOUT_SECONDS), SpeechClient(served.url, limits=LIMITS) as client:
            for begin in range(0, len(AUDIO), 1_600):
                await client.send(AUDIO[begin : begin + 1_600])
            await client.finalize()
            await until(lambda: client._task.done())  # nothing is read until the stream has ended
            return [event async for event in client]

    events = asyncio.run(run())
    assert [event for event in events if isinstance(event, Final)] == expected
    assert len([event for event in events if isinstance(event, Partial)]) <= len(expected)


@pytest.mark.slow
def test_a_killed_client_does_not_disturb_others(service: Service, expected: list[Final], tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((AUDIO * 32_767).astype("<i2").tobytes())

    async def run(server: Listening) -> Received:
        command = [
            sys.executable,
            "-m",
            "qwen_asr",
            "stream",
            "--realtime",
            "--url",
            server.url,
            str(tmp_path / "speech.wav"),
        ]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(ROOT)})

        async def kill(_: Received) -> None:
            assert await until(lambda: sum(session.received > 16_000 for session in server.route.sessions.active) == 2)
            process.kill()
            await process.wait()
            assert await until(lambda: server.route.sessions.waiting == 1)

        received = await stream(server.url, halfway=kill)
        assert await until(lambda: len(server.route.sessions.active) == 0)
        assert not server.route.connections
        return received

    with listening(service, SocketLimits(resume_seconds=2.0)) as server:
        received = asyncio.run(run(server))
    assert received.of(Final) == expected
    assert received.of(Lost) == []


@pytest.mark.slow
def test_audio_that_is_no_longer_in_the_buffer_is_reported(service: Service) -> None:
    """A server without the session, after silence that is longer than the buffer."""
    limits = replace(LIMITS, buffer_seconds=4.0, receive_timeout_seconds=2.0)
    samples = np.concatenate([silence(9.0), spoken(SENTENCES[0])])

    async def run(server: Listening) -> Received:
        async with proxy(server.url) as between:

            async def forget(received: Received) -> None:
                assert await until(lambda: received.client.sent_seconds > 4.5)
                between.freeze()
                [session] = server.route.sessions.active
                session.error = QwenASRError("the session is lost")

            return await stream(between.url, samples, halfway=forget, limits=limits)

    with listening(service, SocketLimits(ping_seconds=0.3)) as server:
        received = asyncio.run(run(server))
    [gap] = received.of(Gap)
    assert gap.start == 0.0
    assert 0.4 < gap.end <= 8.0
    [final] = received.of(Final)
    assert final.text == SENTENCES[0]
    assert final.end > 9.0


@pytest.mark.parametrize("encoding", ["f32le", "s16le"])
def test_samples_in_any_layout_and_scale_are_sent_as_mono(encoding: str) -> None:
    plain = (AUDIO[:4_000] * 32_768).astype(np.int16)
    expected = SpeechClient("ws://127.0.0.1:1", encoding=encoding)._encode(plain)
    stereo = np.stack([plain, plain])
    for samples in (stereo, stereo.T, plain.astype(np.int64), plain.astype(np.float64), plain / 32_768):
        assert SpeechClient("ws://127.0.0.1:1", encoding=encoding)._encode(samples) == expected
