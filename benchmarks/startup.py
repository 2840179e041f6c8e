"""Start-up: the time from the start of the process to the page, and until the server is ready for sessions.

`python -m benchmarks.startup` starts `app.py` with the demo checkpoint several times and gives medians. "Page" is the
first answer of `GET /`, "ready" the first 200 of `/readyz`. CPU time is that of the server's process, on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load import READY_SECONDS, ROOT, environment

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Start:
    """One start of the server. Times in seconds; the memory is what is resident when it is ready, in MiB."""

    page: float
    page_cpu: float
    ready: float
    ready_cpu: float
    megabytes: float


def measure(root: Path = ROOT) -> Start:
    """Start the server of the checkout in `root`, and stop it when it is ready."""
    begin = time.monotonic()
    command = [sys.executable, str(root / "app.py"), "--port", "0", "--asr-model-path", "demo", "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--log-level", "warning"], env=environment(root), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            output = process.stdout or ()
            url = next((match[0] for line in output if (match := re.search(r"http://localhost:\d+", line))), None)
            if url is None:
                raise RuntimeError("The server exited before it was ready. See its output above.")
            server = psutil.Process(process.pid)
            with urllib.request.urlopen(url):  # noqa: S310 - a server on this machine
                page, page_cpu = time.monotonic() - begin, _cpu_seconds(server)
            while not _is_ready(url):
                if time.monotonic() - begin > READY_SECONDS:
                    raise TimeoutError(f"The server was not ready after {READY_SECONDS} s.")
                time.sleep(POLL_SECONDS)
            ready = time.monotonic() - begin
            return Start(page, page_cpu, ready, _cpu_seconds(server), server.memory_info().rss / 2**20)
        finally:
            process.terminate()
            process.communicate()  # the server still writes that it is ready, and that it stopped


def _is_ready(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz"):  # noqa: S310 - as above
        return True
    return False


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="starts of the server, of which the medians count")
    arguments = parser.parse_args()
    starts = [measure() for _ in range(arguments.repeats)]
    print("| until | time (s) | CPU time (s) |")
    print("|---|---|---|")
    for name in ("page", "ready"):
        times = (statistics.median(getattr(start, field) for start in starts) for field in (name, f"{name}_cpu"))
        print(f"| {name} | {' | '.join(f'{seconds:.1f}' for seconds in times)} |")
    megabytes = statistics.median(start.megabytes for start in starts)
    print(f"\nMedians of {len(starts)} starts. Memory when ready: {megabytes:.0f} MB.")


if __name__ == "__main__":
    main()
