"""A server without a model and engines in other processes, which die, hang, drain and come back while people speak."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.checkpoints import spoken
from tests.support.engines import READY_SECONDS, Engine, Program, Speaker, Web, speak_together
from tests.support.network import free_ports
from tests.support.processes import until
from tests.support.sockets import client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MEMORY = 150e6
"""What a server without a model may take for itself, in bytes: without the code of libraries, which processes share."""
AT_EXIT = "import atexit, sys\natexit.register(lambda: print('MODULES', *sorted(sys.modules), flush=True))\n"
TEXTS = 16


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines, which do not outlive the test."""
    started: list[Engine] = []

    def engine(name: str, port: int, *options: str, **environ: str) -> Engine:
        started.append(Engine(tmp_path, name, port, *options, **environ))
        return started[-1]

    yield engine
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGCONT)
        one.kill()


@contextlib.contextmanager
def web(folder: Path, *options: str, **more: str) -> Iterator[Web]:
    """A server with these options, which writes no traceback."""
    server = Web(folder, *options, **more)
    try:
        yield server
        assert server.process.poll() is not None or server.end() == 0, server.text
        assert "Traceback" not in server.text, server.text
    finally:
        server.kill()


@pytest.fixture
def two(start: Callable[..., Engine], tmp_path: Path) -> Iterator[tuple[Engine, Engine, Web]]:
    """Two engines and a server that has joined both."""
    ports = free_ports(2)
    one, other = (start(name, port) for name, port in zip("ab", ports, strict=True))
    with web(tmp_path, "--engine", f"127.0.0.1:{ports[0]},ws://127.0.0.1:{ports[1]}") as server:
        for port in ports:
            server.wait_for(f"The engine at ws://127.0.0.1:{port} has joined")
        server.wait_until_ready()
        yield one, other, server


def check(speakers: list[Speaker], what: str) -> None:
    """All texts are right; tells how far they were behind, which no test can bound on a busy machine."""
    for speaker in speakers:
        speaker.check()
    assert len(speakers) == TEXTS
    waits = ", ".join(f"{speaker.waited:.1f}" for speaker in sorted(speakers, key=lambda speaker: speaker.waited))
    print(
        f"{what}: longest lag {max(lag for speaker in speakers for lag in speaker.lags):.2f} s; finals after {waits} s"
    )


def test_an_engine_is_killed_with_utterances_under_way(two: tuple[Engine, Engine, Web]) -> None:
    one, other, server = two

    def kill() -> None:
        assert one.steps() > 0, "both have some"
        assert other.steps() > 0
        one.end(signal.SIGKILL)

    check(asyncio.run(speak_together(server.websocket, TEXTS, kill)), "kill -9")
    assert f"The engine at {one.address} has left" in server.text
    assert "qwen_asr_engines 1.0" in httpx.get(f"{server.http}/metrics").text
    assert "qwen_asr_engines_lost_total 1.0" in httpx.get(f"{server.http}/metrics").text
    assert server.readiness()[0] == 200


def test_an_engine_hangs_with_utterances_under_way(two: tuple[Engine, Engine, Web]) -> None:
    one, _, server = two
    check(
        asyncio.run(speak_together(server.websocket, TEXTS, lambda: os.kill(one.process.pid, signal.SIGSTOP))), "hang"
    )
    server.wait_for(rf"The engine at {one.address} has left: it has not answered a ping")
    os.kill(one.process.pid, signal.SIGCONT)
    assert until(lambda: server.text.count(f"The engine at {one.address} has joined") == 2), "it is used again"


def test_an_engine_that_drains_loses_nothing(two: tuple[Engine, Engine, Web]) -> None:
    one, _, server = two
    check(
        asyncio.run(speak_together(server.websocket, TEXTS, lambda: one.process.send_signal(signal.SIGTERM))), "drain"
    )
    assert one.end(None) == 0
    assert "is about to stop; new calls go to others" in server.text
    assert "qwen_asr_engines_lost_total 0.0" in httpx.get(f"{server.http}/metrics").text, "no call failed"
    assert not re.search(r"not finished|calls under way: [1-9]", one.text)


def test_without_an_engine_the_server_waits_and_is_ready_soon_after_one_is(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    with web(tmp_path, "--engine", f"localhost:{port}") as server:
        assert until(lambda: "Waiting for an engine" in server.readiness()[2])
        assert server.readiness()[:2] == (503, "loading")
        one = start("a", port)
        one.wait_until_ready()
        began = time.monotonic()
        server.wait_until_ready()
        print(f"200 after {time.monotonic() - began:.1f} s")

        def all_gone_and_back() -> None:
            one.end(signal.SIGKILL)
            server.wait_until_ready(False)
            assert server.readiness()[1] == "unavailable"
            answer = httpx.post(f"{server.http}/v1/audio/transcriptions", files={"file": b"RIFF"}, timeout=60)
            assert (answer.status_code, "Waiting for an engine" in answer.text) == (503, True)
            assert httpx.get(f"{server.http}/healthz").status_code == 200, "a restart of the server would not help"
            again = start("b", port)
            again.wait_until_ready()
            began = time.monotonic()
            server.wait_until_ready()
            print(f"200 again after {time.monotonic() - began:.1f} s")

        [speaker] = asyncio.run(speak_together(server.websocket, 1, all_gone_and_back))
        speaker.check()
        assert speaker.told == ["Unavailable"]


def test_a_server_without_a_model_leaves_torch_out_and_stays_small(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    start("a", port).wait_until_ready()
    with web(tmp_path, "--engine", f"localhost:{port}", before=AT_EXIT) as server:
        server.wait_until_ready()
        for speaker in asyncio.run(speak_together(server.websocket, 4)):
            speaker.check()
        assert httpx.get(server.http).status_code == 200
        status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
        found = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(Rss\w+|VmRSS):\s+(\d+) kB", status)}
        print("memory:", {name: f"{size / 1e6:.0f} MB" for name, size in found.items()})
        assert found["RssAnon"] <= MEMORY
        assert server.end() == 0
        [listed] = [line for line in server.text.splitlines() if line.startswith("MODULES ")]
        modules = set(listed.split())
        assert {"gradio", "onnxruntime", "qwen_asr.fleet.scheduler"} <= modules, "the list is that of the server"
        assert modules & {"torch", "transformers", "safetensors", "pandas.core", "scipy"} == set()


def test_an_engine_imports_no_page(tmp_path: Path) -> None:
    code = f"{AT_EXIT}from qwen_asr.cli.main import run_subcommand\nsys.exit(run_subcommand(sys.argv[1:]))"
    options = ["engine", "--asr-model-path", "demo", "--device", "cpu", "--port", "0"]
    engine = Program(tmp_path, "engine", [sys.executable, "-c", code, *options])
    try:
        engine.wait_for("Ready. Model: demo")
        assert engine.end() == 0
        modules = set(engine.wait_for("MODULES .*").split())
        assert "torch" in modules
        assert modules & {"gradio", "fastapi", "pandas"} == set()
    finally:
        engine.kill()


def children(server: Web) -> list[psutil.Process]:
    """The engines that a server has started."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in found if "engine" in child.cmdline()]


def test_engines_of_its_own_are_started_again_and_end_with_the_server(tmp_path: Path) -> None:
    with web(tmp_path, "--gpus", "cpu,cpu", "--asr-model-path", "demo") as server:
        assert until(lambda: server.text.count("has joined") == 2, READY_SECONDS), server.text
        first = children(server)
        assert len(first) == 2

        check(asyncio.run(speak_together(server.websocket, TEXTS, first[0].kill)), "kill -9 of a child")
        assert "CPU engine" in server.wait_for(r".* the engine was killed by signal 9; another is started in 1 s")
        assert until(lambda: server.text.count("has joined") == 3, READY_SECONDS), server.text
        assert len(children(server)) == 2

        # One that hangs is noticed too.
        hung = children(server)[0]
        hung.suspend()
        server.wait_for("has not answered 3 probes and was killed")
        assert until(lambda: server.text.count("has joined") == 4, READY_SECONDS), server.text
        last = children(server)
        assert server.end() == 0
        assert psutil.wait_procs([*first, *last], 60)[1] == []
        [folder] = {Path(path).parent for path in re.findall(r"at unix:(\S+) has joined", server.text)}
        assert not folder.exists()


def test_engines_of_its_own_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with web(tmp_path, "--gpus", "cpu", "--asr-model-path", "demo") as server:
        server.wait_until_ready()
        mine = children(server)
        assert len(mine) == 1
        server.end(signal.SIGKILL)
        assert psutil.wait_procs(mine, 60)[1] == []


def test_a_server_whose_engines_cannot_start_says_why_and_ends(tmp_path: Path) -> None:
    with web(tmp_path, "--gpus", "cpu", "--asr-model-path", str(tmp_path / "nowhere")) as server:
        assert server.process.wait(READY_SECONDS) == 1
        last = server.text.strip().splitlines()[-1]
        assert re.search("error: No engine could start: .*nowhere", last), server.text


def test_words_come_from_the_engines_too(two: tuple[Engine, Engine, Web]) -> None:
    _, _, server = two

    async def speak() -> tuple[str, list[str]]:
        async with client(server.websocket) as speaker:
            await speaker.config(words=True)
            await speaker.audio(spoken("Turn on the kitchen light."))
            assert await speaker.finalize() == 1000
            [final] = speaker.of_type("final")
            return final["text"], [word["word"] for word in final["words"]]

    assert asyncio.run(speak()) == ("Turn on the kitchen light.", ["Turn", "on", "the", "kitchen", "light."])
