"""What the way to an engine in another process costs: steps per second with it, over those without.

`python -m benchmarks.fleet` runs sessions that never pause on a model whose passes sleep and compute nothing, so that
only the scheduler and the way to it are measured. Each session appends 0.2 s of audio, has a step run, and goes on
with its callback. First the engine is in this process, then in another one, behind a Unix socket.
"""

import argparse
import asyncio
import logging
import multiprocessing
import statistics
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import count, counts, positive
from benchmarks.sleeping import SleepingEngine
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.engine.device.memory import keep_what_is_loaded
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import LoadedModel
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.scheduler import RemoteScheduler
from qwen_asr.fleet.server import EngineServer
from qwen_asr.fleet.sockets import SocketCalls

BLOCK = np.zeros(SAMPLE_RATE // 5, np.float32)
LONGEST = 30 * SAMPLE_RATE
PASSES = 3
"""Passes of the model in a step."""
READY_SECONDS = 60


def measure(model: LoadedModel, sessions: int, seconds: float) -> tuple[float, float]:
    """Steps per second of so many sessions, and the median time of a step in milliseconds."""
    new_utterance = model.utterances(background=False, scored=False)
    times: list[float] = []
    ending = threading.Event()
    left = threading.Semaphore(0)

    def speak(utterance: Any) -> None:
        if ending.is_set():
            utterance.close()
            left.release()
            return
        if utterance.length + len(BLOCK) > LONGEST:
            utterance.close()
            utterance = new_utterance(context="", language=None, max_new_tokens=100)
        utterance.append(BLOCK)
        begin = time.perf_counter()

        def done(future: Future[Hypothesis]) -> None:
            if future.result().samples != utterance.length:
                raise RuntimeError("A step has covered something else than its utterance.")
            times.append(time.perf_counter() - begin)
            speak(utterance)

        model.submit(utterance).add_done_callback(done)

    for _ in range(sessions):
        speak(new_utterance(context="", language=None, max_new_tokens=100))
    time.sleep(seconds / 5)  # until all are under way
    times.clear()
    begin = time.perf_counter()
    time.sleep(seconds)
    steps, elapsed = len(times), time.perf_counter() - begin
    ending.set()
    for _ in range(sessions):
        left.acquire()
    return steps / elapsed, 1000 * statistics.median(times)


def serve(path: str, seconds: float) -> None:
    """An engine on a Unix socket, until the process is ended."""

    async def run() -> None:
        server = EngineServer()
        server.host = EngineHost(SleepingEngine(seconds, PASSES))
        keep_what_is_loaded()
        async with server.listening(path):
            await asyncio.Event().wait()

    asyncio.run(run())


def compare(sessions: int, pass_seconds: float, seconds: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """What `measure` gives for an engine in this process, and for one in another process."""
    local = SleepingEngine(pass_seconds, PASSES)
    keep_what_is_loaded()
    without = measure(local, sessions, seconds)
    local.close()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "engine")
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(path, pass_seconds), daemon=True)
        process.start()
        calls = SocketCalls([EngineAddress(socket=path)])
        try:
            if not calls.wait(READY_SECONDS):
                raise SystemExit(f"The engine did not start: {calls.unavailable_reason()}")
            remote = RemoteScheduler(calls)
            beyond = measure(remote, sessions, seconds)
            remote.close()
        finally:
            process.kill()
            process.join()
    return without, beyond


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=counts, default=[1, 16, 64], help="how many sessions at once")
    parser.add_argument("--pass-ms", type=positive, default=20.0, help="how long a pass of the model sleeps")
    parser.add_argument("--seconds", type=positive, default=10.0, help="how long each is measured")
    parser.add_argument("--repeats", type=count, default=3, help="runs of each; the one with the median ratio counts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the engine is not there at once
    print("| sessions | steps/s, same process | steps/s, another | ratio | step (ms), same | step (ms), another |")
    print("|---|---|---|---|---|---|")
    for sessions in arguments.sessions:
        runs = [compare(sessions, arguments.pass_ms / 1000, arguments.seconds) for _ in range(arguments.repeats)]
        runs.sort(key=lambda run: run[1][0] / run[0][0])
        (local, local_ms), (remote, remote_ms) = runs[len(runs) // 2]
        ratio = remote / local
        print(f"| {sessions} | {local:.0f} | {remote:.0f} | {ratio:.2f} | {local_ms:.1f} | {remote_ms:.1f} |")


if __name__ == "__main__":
    main()
