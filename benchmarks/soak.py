"""Does the server's memory stay where it is? Hours of speech, as fast as it is consumed.

    python -m benchmarks.soak [--sessions 8] [--hours 1] [--rounds 30] [--output FILE]

The sessions run side by side over `/ws/asr`, one after another in each of the places, and their speech adds up to
`--hours`. Resident memory of the server's process is compared between the end of the first tenth and the end.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import Running, server, speak
from benchmarks.speech import Samples, conversation
from qwen_asr.config.limits import WatchdogLimits

TIDY_SECONDS = 1.5 * WatchdogLimits.poll_seconds
"""Within these the server has given back what ended sessions held."""


@dataclass
class Soak:
    """Memory in MB after each round, seconds that it took, and the errors that clients were told."""

    memory: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    finals: int = 0

    @property
    def early_memory(self) -> float:
        """The memory after the first tenth."""
        return self.memory[max(len(self.memory) // 10, 1) - 1]

    @property
    def growth(self) -> float:
        """The memory at the end over that after the first tenth, less 1."""
        return self.memory[-1] / self.early_memory - 1


async def soak(running: Running, clips: list[Samples], rounds: int) -> Soak:
    """`rounds` times a session for each clip, all clips of a round side by side."""
    result, began = Soak(), time.monotonic()
    for number in range(rounds):
        turned = clips[number % len(clips) :] + clips[: number % len(clips)]
        for heard in await asyncio.gather(*(speak(running.url, samples, realtime=False) for samples in turned)):
            result.errors += heard.errors
            result.finals += len(heard.finals)
        await asyncio.sleep(TIDY_SECONDS)
        result.memory.append(running.megabytes)
        print(f"round {number + 1} of {rounds}: {result.memory[-1]:.0f} MB", flush=True)
    result.seconds = time.monotonic() - began
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--sessions", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--hours", type=float, default=1.0, help="of speech in all sessions together (default: 1)")
    parser.add_argument("--rounds", type=int, default=30, help="sessions one after another (default: 30)")
    parser.add_argument("--output", type=Path, help="write the result to this file too")
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
