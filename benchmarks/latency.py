"""The time from the end of a spoken word to its text on the client, by the number of sessions.

    python -m benchmarks.latency [--levels 1,8,24] [--chunks auto,1.0] [--seconds 30] [--output FILE]

The server is `app.py` in a separate process. Each session sends speech in real time over `/ws/asr`, in frames of
100 ms. The ends of the words come from the synthesizer (`timed_speech`). A word is shown by the first message that has
it at its place in the utterance, which may be a guess before its end. It stays from the message on after which all have
it there, and is settled by the first whose settled part has it; a final settles all its words. Words that the final
text does not have are left out and counted as wrong. Server and clients share the machine.
"""

import argparse
import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from benchmarks.arguments import counts, positive
from benchmarks.load import quantile, run_sessions, server
from benchmarks.speech import Samples
from benchmarks.timed_speech import timed_conversation
from qwen_asr.audio import SAMPLE_RATE
from training.espeak_events import SpokenWord

HEADER = (
    "| sessions | chunk (s) | shown, p50 (s) | p95 | stays, p50 (s) | p95 | settled, p50 (s) | p95 | words | wrong |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass
class Delays:
    """Seconds from the end of each word until it was shown, stayed, and was settled; and the number of wrong words."""

    shown: list[float] = field(default_factory=list)
    stays: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    wrong: int = 0

    def add(self, other: "Delays") -> None:
        """Add those of another session."""
        self.shown += other.shown
        self.stays += other.stays
        self.settled += other.settled
        self.wrong += other.wrong

    def row(self, sessions: int, chunk: str) -> str:
        """One row of the Markdown table."""
        columns = (self.shown, self.stays, self.settled)
        parts = [f"{quantile(delays, share):.2f}" for delays in columns for share in (0.5, 0.95)]
        return f"| {sessions} | {chunk} | {' | '.join(parts)} | {len(self.shown)} | {self.wrong} |"


def normalize(word: str) -> str:
    """A word without case and punctuation."""
    return "".join(character for character in word.casefold() if character.isalnum())


def has_word(text: str, place: int, wanted: str) -> bool:
    """Whether the text has this normalized word at this place, counted from 0."""
    words = text.split()
    return place < len(words) and normalize(words[place]) == wanted


def measure_words(words: list[SpokenWord], texts: list[tuple[float, dict[str, Any]]]) -> Delays:
    """The delays of a session's words. `texts`: its messages, each with its arrival in seconds of the audio."""
    finals = [message for _, message in texts if message["type"] == "final"]
    places = [(final["utterance"], place) for final in finals for place in range(len(final["text"].split()))]
    heard = [normalize(word) for final in finals for word in final["text"].split()]
    spoken = [normalize(word.text) for word in words]
    delays = Delays()
    for part in Levenshtein.opcodes(spoken, heard):
        if part.tag != "equal":
            delays.wrong += part.src_end - part.src_start
            continue
        for source, target in zip(
            range(part.src_start, part.src_end), range(part.dest_start, part.dest_end), strict=True
        ):
            end, (utterance, place) = words[source].end, places[target]
            if end is None:
                continue
            own = [(arrival, message) for arrival, message in texts if message["utterance"] == utterance]
            has = [has_word(message["text"], place, spoken[source]) for _, message in own]
            last_without = max((number for number, found in enumerate(has) if not found), default=-1)
            settled = (has_word(one["text"][: one["stable"]], place, spoken[source]) for _, one in own)
            arrivals = [arrival - end / SAMPLE_RATE for arrival, _ in own]
            delays.shown.append(arrivals[has.index(True)])
            delays.stays.append(arrivals[last_without + 1])
            delays.settled.append(next(delay for delay, found in zip(arrivals, settled, strict=True) if found))
    return delays


def measure(url: str, spoken: list[tuple[Samples, list[SpokenWord]]], chunk: str) -> Delays:
    """Measure one number of sessions with one chunk."""
    value = "auto" if chunk == "auto" else float(chunk)
    results = asyncio.run(run_sessions(url, [samples for samples, _ in spoken], chunk_size_sec=value))
    delays = Delays()
    for (_, words), result in zip(spoken, results, strict=True):
        if result.errors:
            raise RuntimeError(result.errors[0])
        delays.add(measure_words(words, result.texts))
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--levels", type=counts, default="1,8,24", help="numbers of sessions, ascending")
    parser.add_argument("--chunks", default="auto,1.0", help="values of chunk_size_sec, each measured at each level")
    parser.add_argument("--seconds", type=positive, default=30, help="seconds of speech per session (default: 30)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    spoken = [timed_conversation(options.seconds, seed) for seed in range(max(options.levels))]
    limits = ("--asr-model-path", options.asr_model_path, "--device", "cpu", "--max-sessions", str(max(options.levels)))
    lines = [HEADER]
    print(HEADER, flush=True)
    with server(*limits) as running:
        measure(running.url, [timed_conversation(6, 99)], "auto")  # warm-up, so that one-time work is not measured
        for sessions in options.levels:
            for chunk in options.chunks.split(","):
                lines.append(measure(running.url, spoken[:sessions], chunk).row(sessions, chunk))
                print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
