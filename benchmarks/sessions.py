"""How many people can speak at once: the lag of their text, by the number of sessions.

    python -m benchmarks.sessions [--levels 1,8,24,48,64,96,128] [--seconds 60] [--output FILE] [--plot FILE.png]

A server of its own process, as `app.py` starts it; each session speaks in real time over `/ws/asr`, in frames of
100 ms. The lag of a text is the time from the moment its last sample was spoken to its arrival at the client. Server
and clients share the machine. Finals are compared with `Qwen3ASRModel.transcribe` of the same samples.
"""

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.load import Heard, Running, differing, quantile, server, speak
from benchmarks.speech import Samples, conversation
from qwen_asr import Qwen3ASRModel

BARS = (1.0, 5.0)
VOICES = 24
STAGGER_SECONDS = 1.0


@dataclass
class Level:
    """What was measured with so many sessions at once; lags in seconds, memory in MB."""

    sessions: int
    median: float
    p95: float
    longest: float
    cores: float
    memory: tuple[float, float]
    finals: int
    differing: int
    errors: int

    def row(self) -> str:
        lags = f"{self.median:.2f} | {self.p95:.2f} | {self.longest:.2f}"
        same = f"{self.finals - self.differing} of {self.finals}"
        memory = f"{self.memory[0]:.0f} → {self.memory[1]:.0f}"
        return f"| {self.sessions} | {lags} | {self.cores:.2f} | {memory} | {same} | {self.errors} |"


HEAD = (
    "| sessions | lag, median (s) | p95 | longest | server's cores | its memory (MB) | finals == offline | errors |\n"
    "|---|---|---|---|---|---|---|---|"
)


async def together(url: str, clips: list[Samples]) -> list[Heard]:
    """All clips at once, their beginnings spread over a second."""

    async def one(number: int, samples: Samples) -> Heard:
        await asyncio.sleep(STAGGER_SECONDS * number / len(clips))
        return await speak(url, samples, realtime=True)

    return list(await asyncio.gather(*(one(number, samples) for number, samples in enumerate(clips))))


def measure(running: Running, model: Qwen3ASRModel, sessions: int, clips: list[Samples]) -> Level:
    """One level. Memory is taken before its first and after its last session."""
    before, used = running.megabytes, sum(running.process.cpu_times()[:2])
    chosen = [clips[number % len(clips)] for number in range(sessions)]
    heard = asyncio.run(together(running.url, chosen))
    used = sum(running.process.cpu_times()[:2]) - used
    lags = [lag for one in heard for lag in one.lags]
    return Level(
        sessions,
        quantile(lags, 0.5),
        quantile(lags, 0.95),
        max(lags),
        used / (len(clips[0]) / 16_000 + STAGGER_SECONDS),
        (before, running.megabytes),
        sum(len(one.finals) for one in heard),
        sum(differing(model, samples, one) for samples, one in zip(chosen, heard, strict=True)),
        sum(len(one.errors) for one in heard),
    )


def passed(levels: list[Level], bar: float) -> str:
    """From how many sessions on the p95 lag is above the bar, of the numbers that were tried."""
    above = [level.sessions for level in levels if level.p95 > bar]
    if not above:
        return f"The p95 lag stays under {bar:g} s up to {levels[-1].sessions} sessions."
    return f"The p95 lag passes {bar:g} s at {above[0]} sessions."


def plot(levels: list[Level], path: Path) -> None:
    """Lag by number of sessions, with the bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    count = [level.sessions for level in levels]
    for name in ("median", "p95", "longest"):
        axes.plot(count, [getattr(level, name) for level in levels], marker="o", label=name)
    for bar in BARS:
        axes.axhline(bar, color="gray", linestyle=":")
    axes.set(xlabel="sessions at once", ylabel="lag of the text (s)", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--levels", default="1,8,24,48,64,96,128", help="numbers of sessions, rising")
    parser.add_argument("--seconds", type=float, default=60, help="that each session speaks (default: 60)")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = [int(text) for text in options.levels.split(",")]
    clips = [conversation(options.seconds, seed) for seed in range(min(VOICES, max(counts)))]
    model = Qwen3ASRModel.from_pretrained(options.asr_model_path, dtype="float32", device_map="cpu")
    levels = []
    limits = ("--asr-model-path", options.asr_model_path, "--device", "cpu", "--max-sessions", str(max(counts)))
    print(HEAD, flush=True)
    with server(*limits) as running:
        measure(running, model, 1, [conversation(5, 99)])  # what happens once, happens here
        for sessions in counts:
            levels.append(measure(running, model, sessions, clips))
            print(levels[-1].row(), flush=True)
    verdict = " ".join(passed(levels, bar) for bar in BARS)
    text = "\n".join([HEAD, *(level.row() for level in levels), "", verdict]) + "\n"
    print(f"\n{verdict}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    if options.plot:
        plot(levels, options.plot)


if __name__ == "__main__":
    main()
