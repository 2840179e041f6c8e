"""Start-up: the time from the start of the process to the page, and until the server is ready for sessions.

`python -m benchmarks.startup` starts `app.py` with the demo checkpoint several times and gives medians. "Page" is the
first answer of `GET /`, "ready" the first 200 of `/readyz`. CPU time is that of the server's process, on all cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
import urllib.request
from dataclasses import dataclass

from benchmarks.arguments import count
from benchmarks.load import launched, wait_until_ready


@dataclass(frozen=True)
class Start:
    """One start of the server. Times in seconds; the memory is what is resident when it is ready, in MiB."""

    page: float
    page_cpu: float
    ready: float
    ready_cpu: float
    megabytes: float


def measure() -> Start:
    """Start the server, and stop it when it is ready."""
    begin = time.monotonic()
    with launched("--asr-model-path", "demo", "--device", "cpu") as running:
        with urllib.request.urlopen(running.base):  # noqa: S310 - a server on this machine
            page, page_cpu = time.monotonic() - begin, running.cpu_seconds
        wait_until_ready(running.base)
        return Start(page, page_cpu, time.monotonic() - begin, running.cpu_seconds, running.megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=7, help="starts of the server, of which the medians count")
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
