"""The server in its own process, as users start it, and waiting for what happens in other threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MAIN = "import sys; from qwen_asr.cli.main import main; sys.exit(main(sys.argv[1:]))"


class ServerProcess:
    """The server in its own process and folder."""

    def __init__(self, folder: Path, repository: Path, *options: str, first: str = "", **environ: str) -> None:
        """`first` is Python code that the process runs first."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{first}\n{MAIN}", *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line_with(self, text: str) -> str:
        """Waits for the next line of its standard output that contains `text`, and returns it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line.strip()
        raise AssertionError(f"the process ended without printing {text!r}: {self.end()}")

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Sends the signal, if one is given, and waits. Returns the exit code and standard error."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors

    def kill(self) -> None:
        """See `kill`. For the end of a test, whether it passed or not."""
        kill(self.process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills the process if it still runs, and closes its pipes."""
    process.kill()
    process.wait(30)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Polls until `condition` holds. Returns whether it did. The default deadline is long: a busy machine is slow."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def reset_peak() -> int:
    """Makes this process's peak of resident memory what it has now, and returns that, in bytes. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes(process: int | str = "self") -> int:
    """The peak of a process's resident memory, in bytes. Linux only."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
