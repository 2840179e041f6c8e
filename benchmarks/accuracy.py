"""Word error rate of the demo checkpoint on held-out voices and unseen sentences, offline and streaming.

    python -m benchmarks.accuracy [--clips 64] [--output FILE]

Each clip is a held-out voice speaking sentences that are not in the training set, with noise and at a random level.
Offline is `Qwen3ASRModel.transcribe`; streaming feeds blocks of random size and steps every 0.5 s. Words are compared
in lowercase without punctuation.
"""

import argparse
import string
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import torch

from benchmarks.arguments import count
from benchmarks.speech import Samples, make_clip, unseen_sentences
from qwen_asr import Qwen3ASRModel
from qwen_asr.audio import SAMPLE_RATE
from training.voices import HELD_OUT

CLIP_SENTENCES = {"one sentence": (1, 1), "two to four sentences": (2, 4), "up to 30 s": (6, 8)}


@dataclass
class Score:
    """Reference texts, transcripts, and the number of clips whose streaming and offline texts are equal."""

    references: list[str] = field(default_factory=list)
    transcripts: list[str] = field(default_factory=list)
    equal: int = 0
    seconds: float = 0.0

    def row(self, name: str) -> str:
        """One row of the Markdown table."""
        rate = jiwer.wer([normalize(text) for text in self.references], [normalize(text) for text in self.transcripts])
        words = sum(len(text.split()) for text in self.references)
        same = f"{self.equal} of {len(self.references)}"
        return f"| {name} | {len(self.references)} | {self.seconds:.0f} | {words} | {rate:.1%} | {same} |"


def normalize(text: str) -> str:
    """Lowercase the text and remove punctuation."""
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def stream(model: Qwen3ASRModel, samples: Samples, rng: np.random.Generator) -> str:
    """Stream the clip in blocks of random size and return the final text."""
    state = model.init_streaming_state(chunk_size_sec=0.5)
    position = 0
    while position < len(samples):
        size = int(rng.integers(1, 24_000))
        model.streaming_transcribe(samples[position : position + size], state)
        position += size
    return model.finish_streaming_transcribe(state).text


def score(model: Qwen3ASRModel, clips: int, min_sentences: int, max_sentences: int, seed: int) -> Score:
    """Synthesize and transcribe clips of random length, cycling through the held-out voices."""
    rng = np.random.default_rng(seed)
    texts = iter(unseen_sentences(clips * max_sentences, seed))
    result = Score()
    for number in range(clips):
        sentences = [next(texts) for _ in range(int(rng.integers(min_sentences, max_sentences + 1)))]
        samples = make_clip(sentences, HELD_OUT[number % len(HELD_OUT)], rng)
        transcript = model.transcribe((samples, SAMPLE_RATE))[0].text
        result.references.append(" ".join(sentences))
        result.transcripts.append(transcript)
        result.equal += stream(model, samples, rng) == transcript
        result.seconds += len(samples) / SAMPLE_RATE
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--quantize", default="none", choices=("none", "int8"), help="int8: the decoder's weights")
    parser.add_argument("--clips", type=count, default=64, help="clips per row (default: 64)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen3ASRModel.from_pretrained(
        options.asr_model_path, dtype="float32", device_map="cpu", quantize=options.quantize
    )
    lines = ["| clips of | clips | seconds | words | word errors | streaming == offline |", "|---|---|---|---|---|---|"]
    total = Score()
    for seed, (name, (minimum, maximum)) in enumerate(CLIP_SENTENCES.items(), start=100):
        result = score(model, options.clips if maximum < 5 else options.clips // 4, minimum, maximum, seed)
        lines.append(result.row(name))
        print(lines[-1], flush=True)
        total = Score(
            total.references + result.references,
            total.transcripts + result.transcripts,
            total.equal + result.equal,
            total.seconds + result.seconds,
        )
    text = "\n".join([*lines, total.row("**all**")]) + "\n"
    print(f"\n{len(HELD_OUT)} espeak-ng voices that were not used in training\n\n{text}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
