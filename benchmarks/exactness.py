"""How far the engine's hypotheses are from greedy `generate`, by precision; and how often a final takes words back.

    python -m benchmarks.exactness [--clips 24] [--output FILE]

Each clip is fed in blocks of random size; after every third step, and at the end, the hypothesis is compared with
`generate` of a model of the same precision on the audio so far. The unit is a token; what differs is counted by edit
distance. The last line runs a live session over a conversation and counts the finals that correct settled text.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from transformers import Qwen3ASRForConditionalGeneration

from benchmarks.speech import Samples, conversation, joined, unheard_sentences
from qwen_asr import Final, Qwen3ASRModel, run_session
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.checkpoint import DEMO_FOLDER
from qwen_asr.engine.streaming import Utterance
from training.voices import HELD_OUT

LIMIT = 256


@dataclass
class Difference:
    """Compared hypotheses, their tokens, and how many of these differ; the same for the last of each clip."""

    steps: int = 0
    tokens: int = 0
    differing: int = 0
    finals: int = 0
    equal_finals: int = 0

    def row(self, name: str) -> str:
        return (
            f"| {name} | {self.steps} | {self.tokens} | {self.differing} ({self.differing / self.tokens:.2%}) | "
            f"{self.equal_finals} of {self.finals} |"
        )


def generate(model: Any, processor: Any, samples: Samples) -> list[int]:
    """Greedy tokens of transformers' own `generate`, without the end token."""
    inputs = processor.apply_transcription_request([samples])
    features = inputs.pop("input_features").to(model.dtype)
    with torch.inference_mode():
        answer = model.generate(**inputs, input_features=features, max_new_tokens=LIMIT, do_sample=False)
    tokens = answer[0, inputs["input_ids"].shape[1] :].tolist()
    return [token for token in tokens if token not in model.generation_config.eos_token_id]


def compare(dtype: torch.dtype, clips: list[Samples]) -> Difference:
    """Stream every clip in this precision beside `generate`."""
    model = Qwen3ASRModel.from_pretrained("demo", dtype=dtype, device_map="cpu")
    reference = Qwen3ASRForConditionalGeneration.from_pretrained(DEMO_FOLDER, dtype=dtype).eval()
    rng, found = np.random.default_rng(0), Difference()
    for samples in clips:
        utterance, position, step = Utterance(model.recognizer, max_new_tokens=LIMIT), 0, 0
        while position < len(samples):
            size = int(rng.integers(1, 2 * SAMPLE_RATE))
            hypothesis = utterance.feed(samples[position : position + size])
            position, step = min(position + size, len(samples)), step + 1
            if step % 3 and position < len(samples):
                continue
            expected = generate(reference, model.recognizer.processor, samples[:position])
            distance = Levenshtein.distance(expected, list(hypothesis.tokens))
            found.steps, found.tokens = found.steps + 1, found.tokens + len(expected)
            found.differing += distance
        found.finals += 1
        found.equal_finals += distance == 0
    return found


def corrections(seconds: float) -> str:
    """A live session over a conversation: how many finals took settled words back."""
    session = Qwen3ASRModel.from_pretrained("demo", dtype="float32", device_map="cpu").session(chunk_size_sec=0.5)
    samples = conversation(seconds, 7)
    blocks = (samples[start : start + 1600] for start in range(0, len(samples), 1600))
    finals = [event for event in run_session(session, blocks) if isinstance(event, Final)]
    corrected = sum(final.corrected for final in finals)
    return f"Of the {len(finals)} finals of a live session of {seconds:.0f} s, {corrected} took back a settled word."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the live session (default: 180)")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    texts = iter(unheard_sentences(options.clips * 4, 1))
    clips = [
        joined([next(texts) for _ in range(int(rng.integers(1, 5)))], HELD_OUT[number % len(HELD_OUT)], rng)
        for number in range(options.clips)
    ]
    lines = ["| precision | hypotheses | tokens | differing tokens | equal finals |", "|---|---|---|---|---|"]
    lines += [compare(dtype, clips).row(str(dtype).removeprefix("torch.")) for dtype in (torch.float32, torch.bfloat16)]
    text = "\n".join([*lines, "", corrections(options.seconds)]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
