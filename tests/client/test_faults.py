"""The client over a network that fails and against a server that dies: nothing is lost, nothing comes twice."""

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

from qwen_asr.client import Connected, Event, Final, Gap, Lost, Partial, SpeechClient
from qwen_asr.client.limits import ClientLimits
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import QwenASRError
from qwen_asr.service.service import Service
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.network import Proxy, free_ports, proxy
from tests.support.processes import Started, kill
from tests.support.sockets import Listening, listening, silence, until

ROOT = Path(__file__).parents[2]
SENTENCES = (
    "Turn on the kitchen light.", "The meeting is on Monday the tenth of May.", "Wake me up at half past six.",
    "The green umbrella is in the hall.", "My number is four seven one.",
)  # fmt: skip
SAID: Samples = np.concatenate(
    [part for sentence in SENTENCES for part in (silence(0.3), spoken(sentence), silence(1.0))]
)
LIMITS = ClientLimits(first_delay_seconds=0.02, longest_delay_seconds=0.5)
PATIENCE = 120.0


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
class Heard:
    """What a client was told, and what it may be asked while it goes on."""

    client: SpeechClient
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def speak(url: str, samples: Samples = SAID, *, pause: float = 0.0, waiting: Any = None, **options: Any) -> Heard:
    """Sends samples and hears to the end. `waiting(heard)` is awaited half way."""
    async with asyncio.timeout(PATIENCE), SpeechClient(url, **{"limits": LIMITS, **options}) as speaker:
        heard = Heard(speaker)

        async def send() -> None:
            for begin in range(0, len(samples), 1_600):
                await speaker.send(samples[begin : begin + 1_600])
                await asyncio.sleep(pause)
                if waiting is not None and begin <= len(samples) // 2 < begin + 1_600:
                    await waiting(heard)
            await speaker.finalize()

        async def hear() -> None:
            async for event in speaker:
                heard.events.append(event)

        async with asyncio.TaskGroup() as tasks:  # a failure of either ends both
            tasks.create_task(send())
            tasks.create_task(hear())
    return heard


@pytest.fixture(scope="module")
def uncut(served: Listening) -> list[Final]:
    """What is heard of SAID over one connection."""
    finals = asyncio.run(speak(served.url)).of(Final)
    assert [final.text for final in finals] == list(SENTENCES)
    return finals


def check_stream(heard: Heard) -> None:
    """Utterances are numbered through, in order, and their ranges follow each other without an overlap."""
    finals = heard.of(Final)
    assert [final.utterance for final in finals] == list(range(len(finals)))
    assert all(one.end <= other.start for one, other in pairwise(finals))
    assert heard.of(Gap) == []


@pytest.mark.parametrize("encoding", ["f32le", "s16le"])
def test_fifty_cuts_at_any_byte(served: Listening, uncut: list[Final], encoding: str) -> None:
    rng = np.random.default_rng(1)
    width = 4 if encoding == "f32le" else 2
    most = 2 * len(SAID) * width // 70

    def budget() -> int | None:
        return int(rng.integers(1, most)) if between.cuts < 50 else None

    async def run() -> Heard:
        nonlocal between
        async with proxy(served.url, budget) as between:
            return await speak(between.url, encoding=encoding)

    between: Proxy = Proxy(0, budget)
    before = len(served.socket.sessions)
    heard = asyncio.run(run())
    assert between.cuts == 50
    assert len(heard.of(Lost)) == 50
    assert [one.resumed for one in heard.of(Connected)].count(False) <= 2  # the first answer may have been cut
    if encoding == "f32le":
        assert heard.of(Final) == uncut
    else:
        assert [final.text for final in heard.of(Final)] == list(SENTENCES)
    check_stream(heard)
    assert len(served.socket.sessions) <= before + 1  # of a session whose first answer was cut


def start_server(port: int) -> subprocess.Popen[str]:
    """A server that has loaded and listens once it is told to."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.asr_server", str(port)], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def let_listen(process: subprocess.Popen[str]) -> None:
    """Waits until it does."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("listen\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"


def test_a_server_that_is_killed_and_started_again(uncut: list[Final]) -> None:
    [port] = free_ports(1)
    processes = [start_server(port), start_server(port)]  # the second is loaded by the time that it is needed

    async def killed(heard: Heard) -> None:
        # In the middle of an utterance, behind at least one final.
        assert await until(lambda: bool(heard.of(Final)) and isinstance(heard.events[-1], Partial))
        processes[0].send_signal(signal.SIGKILL)
        assert await until(lambda: bool(heard.of(Lost)))
        await asyncio.to_thread(let_listen, processes[1])

    try:
        let_listen(processes[0])
        heard = asyncio.run(speak(f"ws://localhost:{port}", pause=0.01, waiting=killed, limits=ClientLimits()))
    finally:
        for process in processes:
            kill(process)
    assert [final.text for final in heard.of(Final)] == list(SENTENCES)
    check_stream(heard)
    for final, other in zip(heard.of(Final), uncut, strict=True):  # its times go on
        assert abs(final.start - other.start) < 0.1
        assert abs(final.end - other.end) < 0.1
    first, *_, last = heard.of(Connected)
    assert (first.resumed, last.resumed) == (False, False)
    assert last.start in [final.end for final in heard.of(Final)]  # nothing was sent that was final


def test_a_server_that_is_stopped_and_started_again(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """SIGTERM in the middle of a sentence: its final ends there, and the next server goes on behind it."""
    [port] = free_ports(1)

    def start() -> Started:
        server = Started(
            tmp_path, ROOT, "--asr-model-path", "demo", "--chunk-size-sec", "0.5", "--port", str(port),
            OMP_NUM_THREADS="1",
        )  # fmt: skip
        request.addfinalizer(server.kill)
        server.line_with("Ready.")
        return server

    first = start()
    servers = [first]

    async def restarted(heard: Heard) -> None:
        assert await until(lambda: bool(heard.of(Final)) and isinstance(heard.events[-1], Partial))
        code, said = await asyncio.to_thread(first.end, signal.SIGTERM)
        assert code == 0, said
        servers.append(await asyncio.to_thread(start))

    heard = asyncio.run(speak(f"ws://localhost:{port}", pause=0.01, waiting=restarted, limits=ClientLimits()))
    check_stream(heard)
    assert "restarting" in heard.of(Lost)[0].reason
    before, *_, after = heard.of(Connected)
    assert (before.resumed, after.resumed) == (False, False)
    finals = heard.of(Final)
    assert after.start in [final.end for final in finals]  # what was final is not sent again, what was not is
    position = 0.0
    for sentence in SENTENCES:  # every sentence lies within finals, but for the breath around it
        begin, end = position + 0.3, position + 0.3 + len(spoken(sentence)) / 16_000
        covered = sum(max(0.0, min(end, one.end) - max(begin, one.start)) for one in finals)
        assert covered > end - begin - 0.4, (sentence, finals)
        position = end + 1.0
    whole = [final.text for final in finals if final.text in SENTENCES]
    assert len(set(whole)) == len(whole) >= len(SENTENCES) - 1  # only one was cut by the end of the server
    assert servers[1].end(signal.SIGTERM)[0] == 0


def test_a_connection_that_is_dead_without_a_word(service: Service, uncut: list[Final]) -> None:
    async def run(server: Listening) -> tuple[Heard, int]:
        async with proxy(server.url) as between:

            async def freeze(heard: Heard) -> None:
                assert await until(lambda: bool(heard.of(Final)))
                between.freeze()

            limits = replace(LIMITS, silent_seconds=2.0)
            heard = await speak(between.url, pause=0.01, waiting=freeze, limits=limits)
            return heard, between.connections

    # For the server the old connection is alive until the new one takes over.
    with listening(service, SocketLimits(ping_seconds=0.5)) as server:
        heard, connections = asyncio.run(run(server))
        assert len(server.socket.sessions) == 0
    assert connections == 2
    assert heard.of(Final) == uncut
    assert [one.resumed for one in heard.of(Connected)] == [False, True]
    [lost] = heard.of(Lost)
    assert "Nothing came" in lost.reason
    check_stream(heard)


def test_a_client_that_reads_slowly_gets_every_final(served: Listening, uncut: list[Final]) -> None:
    async def run() -> list[Event]:
        async with asyncio.timeout(PATIENCE), SpeechClient(served.url, limits=LIMITS) as speaker:
            for begin in range(0, len(SAID), 1_600):
                await speaker.send(SAID[begin : begin + 1_600])
            await speaker.finalize()
            await until(lambda: speaker._task.done())  # not a word was read until all is over
            return [event async for event in speaker]

    events = asyncio.run(run())
    assert [event for event in events if isinstance(event, Final)] == uncut
    assert len([event for event in events if isinstance(event, Partial)]) <= len(uncut)


def test_a_client_that_is_killed_disturbs_nobody(service: Service, uncut: list[Final], tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((SAID * 32_767).astype("<i2").tobytes())

    async def run(server: Listening) -> Heard:
        words = [
            sys.executable,
            "-m",
            "qwen_asr",
            "stream",
            "--realtime",
            "--url",
            server.url,
            str(tmp_path / "said.wav"),
        ]
        process = await asyncio.create_subprocess_exec(*words, env={**os.environ, "PYTHONPATH": str(ROOT)})

        async def kill(_: Heard) -> None:
            assert await until(lambda: sum(one.received > 16_000 for one in server.socket.sessions._placed) == 2)
            process.kill()
            await process.wait()
            assert await until(lambda: server.socket.sessions.waiting == 1)

        heard = await speak(server.url, waiting=kill)
        assert await until(lambda: len(server.socket.sessions) == 0)
        assert not server.socket.conversations
        return heard

    with listening(service, SocketLimits(resume_seconds=2.0)) as server:
        heard = asyncio.run(run(server))
    assert heard.of(Final) == uncut
    assert heard.of(Lost) == []


def test_what_is_not_kept_any_more_is_told(service: Service) -> None:
    """A server that knows nothing, behind silence that is longer than what is kept."""
    limits = replace(LIMITS, kept_seconds=4.0, silent_seconds=2.0)
    samples = np.concatenate([silence(9.0), spoken(SENTENCES[0])])

    async def run(server: Listening) -> Heard:
        async with proxy(server.url) as between:

            async def forget(heard: Heard) -> None:
                assert await until(lambda: heard.client.sent_seconds > 4.5)
                between.freeze()
                [session] = server.socket.sessions._placed
                session.problem = QwenASRError("as if it had never been")

            return await speak(between.url, samples, waiting=forget, limits=limits)

    with listening(service, SocketLimits(ping_seconds=0.3)) as server:
        heard = asyncio.run(run(server))
    [gap] = heard.of(Gap)
    assert gap.start == 0.0
    assert 0.4 < gap.end <= 8.0
    [final] = heard.of(Final)
    assert final.text == SENTENCES[0]
    assert final.end > 9.0
