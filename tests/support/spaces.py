"""`app.py` on Hugging Face Spaces, which are imitated by their environment."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.commands import OFFLINE, ROOT
from tests.support.network import free_ports
from tests.support.processes import until
from tests.support.zero_gpu_scheduler import Scheduler

IN_PLACE_OF_CUDA = "from tests.support.cpu_as_gpu import install; install()"
RUN = f"import runpy; runpy.run_path({str(ROOT / 'app.py')!r}, run_name='__main__')"


@dataclass
class Space:
    """A running Space."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def said(self) -> str:
        """Its log."""
        return self.output.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def space(folder: Path, first: str = "", **environ: str) -> Iterator[Space]:
    """Runs `app.py` as a Space does: without arguments, and with SPACE_ID. `first` is code that is run before it."""
    [port] = free_ports(1)
    output = folder / "output.txt"
    environment = {
        **os.environ,
        **OFFLINE,
        "HOME": str(folder),
        "SPACE_ID": "somebody/something",
        "QWEN_ASR_MODEL_PATH": "demo",
        "QWEN_ASR_PORT": str(port),
        **environ,
    }
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{first}\n{RUN}"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    started = Space(f"http://localhost:{port}", process, output)
    try:
        assert until(lambda: answers(started), 240), started.said()
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def answers(started: Space) -> bool:
    """Whether the page is there. Fails if the process has ended."""
    assert started.process.poll() is None, started.said()
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(started.url, timeout=30).status_code == 200
    return False


def zero_gpu_space(folder: Path, scheduler: Scheduler, **environ: str) -> AbstractContextManager[Space]:
    """A Space with ZeroGPU: the real package, its real processes, and a GPU that is the CPU.

    Skips the test without the package; where CI is set, fails it.
    """
    require_spaces()
    (folder / "cgroup").write_text("0::/space\n")
    zero_gpu = {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": scheduler.url,
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(folder / "cgroup"),
    }
    return space(folder, IN_PLACE_OF_CUDA, **zero_gpu, **environ)


def require_spaces() -> None:
    """Skips the test without the package `spaces`; where CI is set, fails it."""
    if importlib.util.find_spec("spaces") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the package spaces is not installed")
