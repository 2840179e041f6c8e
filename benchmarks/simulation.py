"""Simulates live sessions on one H100 with the 0.6B model. This is not a measurement of this engine on a GPU.

    python -m benchmarks.simulation [--sessions 1,64,400] [--host-ms 0.87] [--seconds 30] [--output FILE]

The times of the passes are those of a prototype, fitted to the lags that were measured on it. The first table shows how
far to trust them: measured next to simulated. Under heavy load the simulated p95 is up to a third too low. The second
table is this engine, if its passes take as long as the prototype's. It differs in two ways: its host time, and its
first iteration, which brings a step up to its first tokens.

A session gets 1 s of audio each second, at a random phase, and submits a step: an encoder pass, a verify pass, and 3 to
8 single-token passes. Audio that arrives during a step waits; the next step covers all of it, with more tokens. One
thread goes through the active steps in iterations, as `scheduler` does on a GPU. The lag of a chunk is the
time from its arrival to the end of the step that covers it.

Left out: the server and its other threads, the ends of utterances, fixed shapes of passes, a full KV pool.
"""

import argparse
import heapq
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAUNCHES = {"log-mel": (0.0, 0.0), "encoder": (2.1, 0.46), "verify": (2.8, 0.64), "single": (2.6, 0.15)}
"""Milliseconds of a launch, and of each row in it. Log-mel is computed on the host and has no launch.

No launch was timed by itself. These are fitted to the lags in `MEASURED` up to 320 sessions, and to the shares of the
thread's time at 256, measured on a prototype (CUDA graphs, one H100 80 GB, 16 CPU cores, torch 2.11, November 2026). So
a whole step and the load on the thread are about right; how they divide among the launches is less certain.
"""
PROTOTYPE_HOST_MS = 0.94
"""Of a step of the prototype. Its thread at 256 sessions: 57 % decoder passes, 19 % encoder passes, 24 % for this."""
LIGHT_HOST_MS = 0.31
"""The same without log-mel and tokenizer: 12 % of the thread at 384 sessions. A check, which the fit does not use."""
ENGINE_HOST_MS = 0.87
"""Of a step of this engine, between passes, with log-mel: docs/benchmarks.md, on a core of an AMD EPYC."""
PROTOTYPE, ENGINE = [["encoder"], ["verify"]], [["log-mel", "encoder", "verify"]]
"""The passes of a step before those for single tokens, in one iteration or in several."""
MEASURED = {
    (4, PROTOTYPE_HOST_MS): "0.022 / 0.025",
    (16, PROTOTYPE_HOST_MS): "0.026 / 0.037",
    (64, PROTOTYPE_HOST_MS): "0.049 / 0.070",
    (128, PROTOTYPE_HOST_MS): "0.081 / 0.135",
    (192, PROTOTYPE_HOST_MS): "0.119 / 0.176",
    (256, PROTOTYPE_HOST_MS): "0.20 / 0.43",
    (320, PROTOTYPE_HOST_MS): "0.60 / 1.03",
    (350, PROTOTYPE_HOST_MS): "falls behind",
    (384, LIGHT_HOST_MS): "– / 0.85",
}
"""The lag of the prototype in seconds, p50 / p95, by the number of sessions and the host's time for a step."""


@dataclass
class Level:
    """The lags in seconds of all chunks, and how the thread's time divides."""

    lags: list[float]
    milliseconds: Counter[str]

    def lag(self, share: float) -> float:
        return float(np.quantile(self.lags, share))

    def share(self, *parts: str) -> float:
        """Per cent of the thread's working time in these parts."""
        return 100 * sum(self.milliseconds[part] for part in parts) / self.milliseconds.total()

    def row(self, *cells: object) -> str:
        """One row of a Markdown table: these cells, p50, p95, the host's share."""
        first = " | ".join(map(str, cells))
        return f"| {first} | {self.lag(0.5):.3f} | {self.lag(0.95):.3f} | {self.share('host'):.0f} % |"


def simulate(sessions: int, seconds: float, host_ms: float, before: list[list[str]]) -> Level:
    """Simulate one level. host_ms: of a step, over all its passes. before: its iterations before the single tokens."""
    rng = random.Random(sessions)
    arrivals = [(rng.random(), number) for number in range(sessions)]
    heapq.heapify(arrivals)
    waiting: list[list[float]] = [[] for _ in range(sessions)]  # arrivals of the chunks that no step covers yet
    # The passes of each iteration, the last first; the host's ms for a pass; arrivals.
    active: dict[int, tuple[list[list[str]], float, list[float]]] = {}
    first = sum(map(len, before))
    now, level = 0.0, Level([], Counter())
    while arrivals or active or any(waiting):
        if not active and not any(waiting):
            now = max(now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= now:
            arrival, number = heapq.heappop(arrivals)
            waiting[number].append(arrival)
            if arrival + 1 < seconds:
                heapq.heappush(arrivals, (arrival + 1, number))
        for number, chunks in enumerate(waiting):
            if chunks and number not in active:
                tokens = 2 + sum(rng.randint(1, 6) for _ in chunks)  # two of the last text change; 3.5 are new
                active[number] = [["single"]] * tokens + before[::-1], host_ms / (tokens + first), chunks
                waiting[number] = []
        taken = [(kind, host) for passes, host, _ in active.values() for kind in passes.pop()]
        rows = Counter(kind for kind, _ in taken)
        spent = {kind: LAUNCHES[kind][0] + LAUNCHES[kind][1] * count for kind, count in rows.items()}
        spent["host"] = sum(host for _, host in taken)
        level.milliseconds.update(spent)
        now += sum(spent.values()) / 1000
        for number in [number for number, (passes, _, _) in active.items() if not passes]:
            level.lags += [now - arrival for arrival in active.pop(number)[2]]
    return level


def first_above(seconds: float, host_ms: float, before: list[list[str]]) -> int:
    """The number of sessions, to the next ten, at which the p95 lag passes 1 s."""
    low, high = 0, 60  # tens; 600 sessions are more than the launches alone can serve
    while high - low > 1:
        middle = (low + high) // 2
        above = simulate(10 * middle, seconds, host_ms, before).lag(0.95) > 1
        low, high = (low, middle) if above else (middle, high)
    return 10 * high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", default="1,16,64,128,256,320,400", help="numbers of live sessions")
    parser.add_argument("--host-ms", type=float, default=ENGINE_HOST_MS, help="host time for a step (default: 0.87)")
    parser.add_argument("--seconds", type=float, default=30, help="seconds of each level, at least 10 (default: 30)")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    counts = [int(text) for text in options.sessions.split(",")]
    if options.seconds < 10 or options.host_ms < 0 or min(counts) < 1:
        parser.error("--seconds must be at least 10, --host-ms at least 0, and --sessions at least 1")
    levels = {key: simulate(key[0], options.seconds, key[1], PROTOTYPE) for key in MEASURED}
    full = levels[256, PROTOTYPE_HOST_MS]
    lines = [
        "Simulated, not measured: one H100, 0.6B, chunks of 1 s. Lags in s, host in ms a step.\n\nThe prototype:\n",
        "| sessions | host | measured, p50 / p95 | simulated, p50 | p95 | host's share |\n|---|---|---|---|---|---|",
        *(level.row(*key, MEASURED[key]) for key, level in levels.items()),
        f"\nThe thread at 256 sessions: decoder {full.share('verify', 'single'):.0f} % (measured: 57 %), encoder "
        f"{full.share('encoder'):.0f} % (19 %), host {full.share('host'):.0f} % (24 %). The p95 lag passes 1 s at "
        f"{first_above(options.seconds, PROTOTYPE_HOST_MS, PROTOTYPE)} sessions (measured: just before 320).",
        "\nThis engine:\n\n| sessions | host | p50 | p95 | host's share |\n|---|---|---|---|---|",
    ]
    hosts = (options.host_ms, options.host_ms / 2)
    for host in hosts:
        lines += [simulate(count, options.seconds, host, ENGINE).row(count, f"{host:.3g}") for count in counts]
    above = [f"{first_above(options.seconds, host, ENGINE)} sessions with {host:.3g} ms" for host in hosts]
    text = "\n".join([*lines, f"\nThe p95 lag passes 1 s at {', and at '.join(above)} of host time a step."]) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
