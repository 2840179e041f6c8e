"""How well the demo model's times of words agree with those of the synthesizer, for held-out voices and sentences.

    python -m benchmarks.word_times [--clips 40] [--head FILE] [--output FILE]

Each clip is a held-out voice speaking sentences that are not in the training set, with pauses and noise and at a random
level. The synthesizer says when it speaks each word (`training.espeak_events`). The words of the true text are aligned,
and those of the recognized text where it equals the true one. Words that are spoken as one have only the start of the
first and the end of the last.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy import CLIP_SENTENCES
from benchmarks.arguments import count
from benchmarks.device import device_name
from benchmarks.speech import Samples, unseen_sentences
from benchmarks.timed_speech import timed_clip
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.frame_aligner import FrameAligner, load_frame_aligner
from qwen_asr.engine.frame_aligner.aligner import DEMO_HEAD
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.engine.words import Clip, Word
from training.espeak_events import SpokenWord
from training.train_word_times import training_jobs
from training.voices import HELD_OUT

LONGEST = 30.0
CLOSE = 80
"""Milliseconds. The forced aligner of Qwen tells times in steps of 80 ms."""
HEADER = (
    f"| clips of | text | clips | seconds | starts | within {CLOSE} ms | median, ms | worst | ends | within {CLOSE} ms "
    "| median | worst |\n|" + "---|" * 12
)


@dataclass
class Errors:
    """Milliseconds from the true starts and ends of words to those that were found."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    clips: int = 0
    audio: float = 0.0

    def add(self, found: Sequence[Word], spoken: Sequence[SpokenWord]) -> None:
        """Compare the words of a clip. Raises ValueError if they are not the same."""
        for word, true in zip(found, spoken, strict=True):
            if word.text != true.text:
                raise ValueError(f"The aligner found {word.text!r} for {true.text!r}.")
            if true.start is not None:
                self.starts.append(abs(word.start - true.start) * 1000 / SAMPLE_RATE)
            if true.end is not None:
                self.ends.append(abs(word.end - true.end) * 1000 / SAMPLE_RATE)

    def row(self, name: str, text: str) -> str:
        """One row of the Markdown table."""
        columns = [
            f"{len(errors)} | {share_within(errors):.1%} | {np.median(errors):.0f} | {max(errors):.0f}"
            for errors in (self.starts, self.ends)
        ]
        return f"| {name} | {text} | {self.clips} | {self.audio:.0f} | {' | '.join(columns)} |"


def share_within(errors: Sequence[float], limit: float = CLOSE) -> float:
    """The share of errors of at most `limit` ms."""
    return float(np.mean(np.array(errors) <= limit))


def held_out_clips(clips: int, sentences: tuple[int, int], seed: int) -> Iterator[tuple[Samples, list[SpokenWord]]]:
    """Clips of so many sentences and at most `LONGEST` seconds, cycling through the held-out voices."""
    rng = np.random.default_rng(seed)
    taught = {text for text, _ in training_jobs()}  # the encoder's own training sentences are left out already
    texts = (text for text in unseen_sentences(2 * clips * sentences[1], seed) if text not in taught)
    for number in range(clips):
        drawn = [(next(texts), rng.uniform(0.1, 1.2)) for _ in range(int(rng.integers(sentences[0], sentences[1] + 1)))]
        yield timed_clip(drawn, HELD_OUT[number % len(HELD_OUT)], rng, LONGEST)


def measure(aligner: FrameAligner, samples: Samples, spoken: list[SpokenWord], errors: Errors) -> None:
    """Align the words of a clip and add their errors."""
    text = " ".join(word.text for word in spoken)
    [found] = aligner.align_words([Clip(samples, text, "English")])
    errors.clips += 1
    errors.audio += len(samples) / SAMPLE_RATE
    errors.add(found, spoken)


def recognizes(recognizer: Recognizer, samples: Samples, spoken: list[SpokenWord]) -> bool:
    """Whether the recognized text is the true one."""
    utterance = Utterance(recognizer)
    utterance.append(samples)
    text = utterance.finish().text
    utterance.close()
    return text == " ".join(word.text for word in spoken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=count, default=40, help="clips per row (default: 40)")
    parser.add_argument("--head", type=Path, default=DEMO_HEAD, help="what training.train_word_times wrote")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = load_recognizer("demo", "cpu", "float32")
    aligner = load_frame_aligner(recognizer, options.head)
    lines = [f"{device_name(recognizer.device)}; {len(HELD_OUT)} held-out voices\n", HEADER]
    print("\n".join(lines), flush=True)
    for seed, (name, sentences) in enumerate(CLIP_SENTENCES.items(), start=200):
        true, recognized = Errors(), Errors()
        for samples, spoken in held_out_clips(options.clips, sentences, seed):
            measure(aligner, samples, spoken, true)
            if recognizes(recognizer, samples, spoken):
                measure(aligner, samples, spoken, recognized)
        rows = [true.row(name, "true"), *([recognized.row(name, "recognized")] if recognized.clips else [])]
        lines += rows
        print("\n".join(rows), flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
