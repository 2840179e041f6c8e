"""How often a final takes a settled word back, and how long words wait, by the distance of hypotheses that must agree.

    python -m benchmarks.settling [--conversations 14] [--seconds 116] [--chunks 0.2] [--output FILE]

Live sessions transcribe conversations in held-out voices, with a hypothesis for each chunk. What the sessions gave to
`Settling` is then given to one of each distance. A final takes back if it does not start with the settled text. A word
waits from the first hypothesis that has it at its place to the first that settles it; words that only the final
settles do not count.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from benchmarks.arguments import count, positive
from benchmarks.speech import conversation
from qwen_asr import Qwen3ASRModel, run_session
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.settling import MIN_DISTANCE, Settling
from qwen_asr.live.transcript import split_units

DISTANCES = (1, *(round(seconds * SAMPLE_RATE) for seconds in (0.5, 0.8, 1, 1.2, 1.5)))


@dataclass
class Spoken:
    """An utterance: its hypotheses, as (text, samples that it covers), and its final text."""

    hypotheses: list[tuple[str, int]] = field(default_factory=list)
    final: str = ""


@dataclass
class Outcome:
    """Finals with text, those that take back, and the seconds that words waited."""

    finals: int = 0
    taken_back: int = 0
    waits: list[float] = field(default_factory=list)

    def add(self, spoken: Spoken, distance: int) -> None:
        """Give an utterance to a new `Settling`."""
        if not spoken.final:
            return
        settling = Settling(distance)
        units = words(spoken.final)
        shown_at: dict[int, int] = {}
        waiting = dict(enumerate(units))
        for text, samples in spoken.hypotheses:
            shown, stable = settling.update(text, samples)
            for place, unit in enumerate(words(shown)[: len(units)]):
                if unit == units[place]:
                    shown_at.setdefault(place, samples)
            for place, unit in enumerate(words(shown[:stable])[: len(units)]):
                if waiting.get(place) == unit:
                    del waiting[place]
                    self.waits.append((samples - shown_at[place]) / SAMPLE_RATE)
        self.finals += 1
        self.taken_back += settling.corrects(spoken.final)


def words(text: str) -> list[str]:
    """Its units, without the mark at the end that comes and goes."""
    return [unit.strip(" .,?!") for unit in split_units(text)]


def utterances(model: Qwen3ASRModel, seconds: float, seed: int, chunk: float) -> Iterator[Spoken]:
    """What a live session over a conversation gives to `Settling`. Nothing settles in it: the text is all tentative."""
    known: dict[Settling, Spoken] = {}

    def update(self: Settling, text: str, samples: int) -> tuple[str, int]:
        known.setdefault(self, Spoken()).hypotheses.append((text, samples))
        return text, 0

    def corrects(self: Settling, final: str) -> bool:
        known.setdefault(self, Spoken()).final = final
        return False

    samples = conversation(seconds, seed)
    blocks = (samples[start : start + 1600] for start in range(0, len(samples), 1600))
    with patch.object(Settling, "update", update), patch.object(Settling, "corrects", corrects):
        for _ in run_session(model.session(chunk_size_sec=chunk), blocks):
            pass
    yield from known.values()


def rows(chunk: float, spoken: list[Spoken]) -> Iterator[str]:
    """The rows of the table for one chunk."""
    for distance in DISTANCES:
        outcome = Outcome()
        for one in spoken:
            outcome.add(one, distance)
        wait = f"{median(outcome.waits):.1f} s" if outcome.waits else "–"
        share = f"{outcome.taken_back} of {outcome.finals} ({outcome.taken_back / max(outcome.finals, 1):.1%})"
        mark = "**" if distance == MIN_DISTANCE else ""
        cells = [f"{chunk:g} s", f"{distance / SAMPLE_RATE:g} s" if distance > 1 else "any", share, wait]
        yield "| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |"


def chunks(text: str) -> list[float]:
    """Numbers of seconds with commas between them."""
    return [positive(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=count, default=14)
    parser.add_argument("--seed", type=count, default=1, help="of the first conversation (default: 1)")
    parser.add_argument("--seconds", type=positive, default=116.0, help="length of each (default: 116)")
    parser.add_argument("--chunks", type=chunks, default="0.2", help="seconds between hypotheses (default: 0.2)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen3ASRModel.from_pretrained("demo", dtype="float32", device_map="cpu")
    lines = ["| a hypothesis each | distance | finals that take back | a word waits, median |", "|---|---|---|---|"]
    for chunk in options.chunks:
        seeds = range(options.seed, options.seed + options.conversations)
        spoken = [one for seed in seeds for one in utterances(model, options.seconds, seed, chunk)]
        lines += rows(chunk, spoken)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
