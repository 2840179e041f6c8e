"""The growth of the server's memory over hours of speech, sent as fast as the server accepts it.

    python -m benchmarks.soak [--sessions 8] [--hours 1] [--rounds 30] [--output FILE]

Each round runs `--sessions` concurrent sessions over `/ws/asr`. The speech of all rounds adds up to `--hours`. The
resident memory of the server's process after the first tenth of the rounds is compared with that at the end.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.arguments import count, positive
from benchmarks.load import RunningServer, server, stream_clip
from benchmarks.speech import Samples, conversation
from qwen_asr.config.limits import WatchdogLimits

CLEANUP_SECONDS = 1.5 * WatchdogLimits.poll_seconds
"""The server releases the memory of ended sessions within this time."""


@dataclass
class Soak:
    """Memory in MB after each round, the total time in seconds, and the errors that clients received."""

    memory: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    finals: int = 0

    @property
    def early_memory(self) -> float:
        """The memory after the first tenth of the rounds, in MB."""
        return self.memory[max(len(self.memory) // 10, 1) - 1]

    @property
    def growth(self) -> float:
        """The relative growth of the memory since the first tenth of the rounds."""
        return self.memory[-1] / self.early_memory - 1


async def soak(running: RunningServer, clips: list[Samples], rounds: int) -> Soak:
    """Stream all clips concurrently, `rounds` times."""
    result, began = Soak(), time.monotonic()
    for number in range(rounds):
        rotated = clips[number % len(clips) :] + clips[: number % len(clips)]
        for session in await asyncio.gather(
            *(stream_clip(running.url, samples, realtime=False) for samples in rotated)
        ):
            result.errors += session.errors
            result.finals += len(session.finals)
        await asyncio.sleep(CLEANUP_SECONDS)
        result.memory.append(running.megabytes)
        print(f"round {number + 1} of {rounds}: {result.memory[-1]:.0f} MB", flush=True)
    result.seconds = time.monotonic() - began
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--sessions", type=count, default=8, help="concurrent sessions (default: 8)")
    parser.add_argument(
        "--hours", type=positive, default=1.0, help="hours of speech in all sessions together (default: 1)"
    )
    parser.add_argument("--rounds", type=count, default=30, help="number of rounds (default: 30)")
    parser.add_argument("--output", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    seconds = options.hours * 3600 / options.sessions / options.rounds
    clips = [conversation(seconds, seed) for seed in range(options.sessions)]
    with server("--asr-model-path", options.asr_model_path, "--device", "cpu") as running:
        result = asyncio.run(soak(running, clips, options.rounds))
    text = (
        f"{options.hours:g} h of speech in {options.sessions} sessions at a time took {result.seconds / 60:.1f} min: "
        f"{result.finals} finals, {len(result.errors)} errors. Memory after the first tenth "
        f"{result.early_memory:.0f} MB, at the end {result.memory[-1]:.0f} MB: {result.growth:+.1%}.\n"
    )
    print(f"\n{text}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
