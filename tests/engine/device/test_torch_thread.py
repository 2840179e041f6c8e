"""The end of a process while a thread of its runs torch."""

import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.engines import Program

AT_WORK = """
import sys, time
import torch

def work(*_):
    print("At work", flush=True)
    while True:  # Python calls C++ again and again, as in loading a checkpoint
        torch.randn(64, 64) @ torch.randn(64, 64)
"""


def python(*parts: str) -> list[str]:
    """The command that runs them one after the other."""
    return [sys.executable, "-c", "".join(map(textwrap.dedent, parts))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3])
def test_the_exit_code_stays_while_a_thread_runs_torch(number: int) -> None:
    script = f"""
    import atexit
    from qwen_asr.engine.device.torch_thread import TorchThread, end_process

    atexit.register(lambda: print("Cleaned up"))
    TorchThread(work, name="busy").start()
    time.sleep(0.2)
    sys.exit(end_process({number}))
    """
    done = run(*python(AT_WORK, script))
    assert (done.returncode, done.stdout, done.stderr) == (number, "At work\nCleaned up\n", "")


def test_a_process_whose_threads_have_ended_goes_on() -> None:
    script = """
    from qwen_asr.engine.device.torch_thread import TorchThread, end_process

    thread = TorchThread(print, "Done", name="done")
    thread.start()
    thread.join()
    print(end_process(3))
    """
    done = run(*python(script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Done\n3\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("module", "program"),
    [("service", "main(["), ("engine_process.process", "run_subcommand(['engine', ")],
    ids=["server", "engine"],
)
def test_a_process_that_is_stopped_while_it_loads_ends_in_order(
    tmp_path: Path, module: str, program: str, number: signal.Signals
) -> None:
    script = f"""
    import qwen_asr.service.{module} as service
    from qwen_asr.cli import main

    service.load_engine = work
    sys.exit(main.{program}"--asr-model-path", "demo", "--device", "cpu", "--port", "0"]))
    """
    process = Program(tmp_path, "process", python(AT_WORK, script))
    try:
        process.wait_for("At work")
        assert process.end(number) == 0, process.text
        assert process.text.rstrip().endswith("Stopped."), process.text
    finally:
        process.kill()
