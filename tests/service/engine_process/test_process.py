"""An engine's process ends with an error when its recognizer hangs or its model cannot be loaded."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.fleet.calls import EngineLost
from qwen_asr.fleet.messages import Refused, Settings, StepRequest
from qwen_asr.fleet.sockets import SocketCalls
from tests.support.checkpoints import spoken
from tests.support.commands import QWEN_ASR
from tests.support.engines import Program
from tests.support.faults import poisoned
from tests.support.network import free_ports

pytestmark = pytest.mark.slow

HANGING = """
import contextlib, sys, time
from qwen_asr.cli import main
from qwen_asr.config import limits
from qwen_asr.service.engine_process import process
from tests.support.faults import whenever_poisoned

hangs = contextlib.ExitStack()
load = process.load_engine

def load_one_that_hangs(*arguments):
    engine = load(*arguments)
    hangs.enter_context(whenever_poisoned(engine.recognizer, lambda: time.sleep(3600)))
    return engine

process.load_engine = load_one_that_hangs
watchdog = limits.WatchdogLimits(base_seconds=1, seconds_per_frame=0, seconds_per_position=0, hanging_threads=1)
process.Limits = lambda: limits.Limits(watchdog=watchdog)
sys.exit(main.run_subcommand(sys.argv[1:]))
"""


COUNTING = """
import atexit, gc, sys
from qwen_asr.cli import main

atexit.register(lambda: print(f"Frozen objects: {gc.get_freeze_count()}.", flush=True))
sys.exit(main.run_subcommand(sys.argv[1:]))
"""

LINGERING = """
import sys, threading, time
from qwen_asr.cli import main

run = threading.Thread.run

def run_and_linger(thread):
    run(thread)
    time.sleep(5)

threading.Thread.run = run_and_linger
sys.exit(main.run_subcommand(sys.argv[1:]))
"""


def test_the_garbage_collector_leaves_alone_what_was_loaded(tmp_path: Path) -> None:
    """Otherwise all steps wait for half a second each time that it looks at all of it."""
    [port] = free_ports(1)
    options = ["engine", "--asr-model-path", "demo", "--device", "cpu", "--port", str(port)]
    engine = Program(tmp_path, "engine", [sys.executable, "-c", COUNTING, *options])
    try:
        engine.wait_for("Ready. Model")
        assert engine.end() == 0
        assert int(engine.wait_for(r"Frozen objects: (\d+)\.")) > 100_000
    finally:
        engine.kill()


def test_a_recognizer_that_hangs_ends_the_process_with_an_error(tmp_path: Path) -> None:
    [port] = free_ports(1)
    options = ["engine", "--asr-model-path", "demo", "--device", "cpu", "--port", str(port)]
    engine = Program(tmp_path, "engine", [sys.executable, "-c", HANGING, *options])
    calls = SocketCalls([EngineAddress("127.0.0.1", port)])
    try:
        engine.wait_for("Ready. Model")
        assert calls.wait(60)
        samples = poisoned(spoken("Turn on the kitchen light."))
        settings = Settings("", None, scored=False, background=False)
        future = calls.call(StepRequest("u", 1, "", 0, samples, 64, True, settings), "u")
        with contextlib.suppress(EngineLost):  # it may end before its answer has come
            assert isinstance(future.result(60), Refused)
        assert engine.end(None) == 1
        assert "threads hang" in engine.text
        assert "The process ends with an error, so that its supervisor starts it again." in engine.text
    finally:
        calls.close()
        engine.kill()


@pytest.mark.parametrize("before", [QWEN_ASR, [sys.executable, "-c", LINGERING]], ids=["as it is", "a slow thread"])
def test_a_model_that_cannot_be_loaded_ends_the_process_with_its_reason(tmp_path: Path, before: list[str]) -> None:
    options = ["engine", "--asr-model-path", str(tmp_path / "nowhere"), "--device", "cpu", "--port", "0"]
    engine = Program(tmp_path, "engine", [*before, *options])
    try:
        assert engine.end(None) == 1
        assert "qwen-asr: error: There is no folder" in engine.text
        assert "Traceback" not in engine.text
    finally:
        engine.kill()
