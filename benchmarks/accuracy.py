"""Word error rate of the demo checkpoint on voices and sentences outside its training, offline and streaming.

    python -m benchmarks.accuracy [--clips 64] [--output FILE]

Each clip is a held-out voice speaking sentences that no training clip holds, with hiss and a random level. Offline is
`Qwen3ASRModel.transcribe`; streaming feeds blocks of random size and steps every 0.5 s. Words are compared in lower
case without punctuation.
"""

import argparse
import string
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import torch

from benchmarks.speech import Samples, joined, unheard_sentences
from qwen_asr import Qwen3ASRModel
from qwen_asr.audio import SAMPLE_RATE
from training.voices import HELD_OUT

SENTENCES = {"one sentence": (1, 1), "two to four sentences": (2, 4), "up to 30 s": (6, 8)}


@dataclass
class Score:
    """What was said, what was heard, and how often streaming gave the same text as offline."""

    said: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    equal: int = 0
    seconds: float = 0.0

    def row(self, name: str) -> str:
        rate = jiwer.wer([plain(text) for text in self.said], [plain(text) for text in self.heard])
        words = sum(len(text.split()) for text in self.said)
        same = f"{self.equal} of {len(self.said)}"
        return f"| {name} | {len(self.said)} | {self.seconds:.0f} | {words} | {rate:.1%} | {same} |"


def plain(text: str) -> str:
    """Lower case, no punctuation."""
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def stream(model: Qwen3ASRModel, samples: Samples, rng: np.random.Generator) -> str:
    """The final text when the clip comes in blocks of random size."""
    state = model.init_streaming_state(chunk_size_sec=0.5)
    position = 0
    while position < len(samples):
        size = int(rng.integers(1, 24_000))
        model.streaming_transcribe(samples[position : position + size], state)
        position += size
    return model.finish_streaming_transcribe(state).text


def score(model: Qwen3ASRModel, clips: int, fewest: int, most: int, seed: int) -> Score:
    """Speak and transcribe `clips` clips of `fewest` to `most` sentences, the held-out voices in turn."""
    rng = np.random.default_rng(seed)
    texts = iter(unheard_sentences(clips * most, seed))
    found = Score()
    for number in range(clips):
        said = [next(texts) for _ in range(int(rng.integers(fewest, most + 1)))]
        samples = joined(said, HELD_OUT[number % len(HELD_OUT)], rng)
        heard = model.transcribe((samples, SAMPLE_RATE))[0].text
        found.said.append(" ".join(said))
        found.heard.append(heard)
        found.equal += stream(model, samples, rng) == heard
        found.seconds += len(samples) / SAMPLE_RATE
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--clips", type=int, default=64, help="clips a row (default: 64)")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen3ASRModel.from_pretrained(options.asr_model_path, dtype="float32", device_map="cpu")
    lines = ["| clips of | clips | seconds | words | word errors | streaming == offline |", "|---|---|---|---|---|---|"]
    total = Score()
    for seed, (name, (fewest, most)) in enumerate(SENTENCES.items(), start=100):
        found = score(model, options.clips if most < 5 else options.clips // 4, fewest, most, seed)
        lines.append(found.row(name))
        print(lines[-1], flush=True)
        total = Score(
            total.said + found.said, total.heard + found.heard, total.equal + found.equal, total.seconds + found.seconds
        )
    text = "\n".join([*lines, total.row("**all**")]) + "\n"
    print(f"\n{len(HELD_OUT)} espeak-ng voices that the training did not hear\n\n{text}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
