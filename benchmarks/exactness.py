"""Differences between streaming hypotheses and greedy `generate` by precision, and corrections by finals.

    python -m benchmarks.exactness [--clips 24] [--output FILE]

Each clip is fed in blocks of random size; after every third step, and at the end, the hypothesis is compared with
`generate` in the same precision on the audio so far; with int8 weights, with `generate` in float32. Differences are
counted in tokens, as the edit distance. The last line runs a live session over a conversation and counts the finals
that correct settled text.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from transformers import Qwen3ASRForConditionalGeneration

from benchmarks.arguments import count, positive
from benchmarks.speech import Samples, conversation, make_clip, unseen_sentences
from qwen_asr import Final, Qwen3ASRModel, run_session
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.hub.checkpoints import DEMO_FOLDER
from qwen_asr.engine.streaming import Utterance
from training.voices import HELD_OUT

MAX_NEW_TOKENS = 256


@dataclass
class Difference:
    """Compared hypotheses, expected tokens and differing tokens; and the final hypotheses, one per clip."""

    steps: int = 0
    tokens: int = 0
    differing: int = 0
    finals: int = 0
    equal_finals: int = 0

    def row(self, name: str) -> str:
        """One row of the Markdown table."""
        return (
            f"| {name} | {self.steps} | {self.tokens} | {self.differing} ({self.differing / self.tokens:.2%}) | "
            f"{self.equal_finals} of {self.finals} |"
        )


def generate(model: Any, processor: Any, samples: Samples) -> list[int]:
    """Greedy tokens from the `generate` of transformers, without the end token."""
    inputs = processor.apply_transcription_request([samples])
    features = inputs.pop("input_features").to(model.dtype)
    with torch.inference_mode():
        answer = model.generate(**inputs, input_features=features, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    tokens = answer[0, inputs["input_ids"].shape[1] :].tolist()
    return [token for token in tokens if token not in model.generation_config.eos_token_id]


def compare(dtype: torch.dtype, clips: list[Samples], quantize: str = "none") -> Difference:
    """Stream every clip in this precision and compare it with `generate`, which always has the weights in `dtype`."""
    model = Qwen3ASRModel.from_pretrained("demo", dtype=dtype, device_map="cpu", quantize=quantize)
    reference = Qwen3ASRForConditionalGeneration.from_pretrained(DEMO_FOLDER, dtype=dtype).eval()
    rng, result = np.random.default_rng(0), Difference()
    for samples in clips:
        utterance, position, step = Utterance(model.recognizer, max_new_tokens=MAX_NEW_TOKENS), 0, 0
        while position < len(samples):
            size = int(rng.integers(1, 2 * SAMPLE_RATE))
            hypothesis = utterance.feed(samples[position : position + size])
            position, step = min(position + size, len(samples)), step + 1
            if step % 3 and position < len(samples):
                continue
            expected = generate(reference, model.recognizer.processor, samples[:position])
            distance = Levenshtein.distance(expected, list(hypothesis.tokens))
            result.steps, result.tokens = result.steps + 1, result.tokens + len(expected)
            result.differing += distance
        result.finals += 1
        result.equal_finals += distance == 0
    return result


def corrections(seconds: float) -> str:
    """Run a live session over a conversation; return a sentence on how many finals corrected settled words."""
    session = Qwen3ASRModel.from_pretrained("demo", dtype="float32", device_map="cpu").session(chunk_size_sec=0.5)
    samples = conversation(seconds, 7)
    blocks = (samples[start : start + 1600] for start in range(0, len(samples), 1600))
    finals = [event for event in run_session(session, blocks) if isinstance(event, Final)]
    corrected = sum(final.corrected for final in finals)
    return f"Of the {len(finals)} finals of a live session of {seconds:.0f} s, {corrected} took back a settled word."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=count, default=24)
    parser.add_argument("--seconds", type=positive, default=180.0, help="length of the live session (default: 180)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    texts = iter(unseen_sentences(options.clips * 4, 1))
    clips = [
        make_clip([next(texts) for _ in range(int(rng.integers(1, 5)))], HELD_OUT[number % len(HELD_OUT)], rng)
        for number in range(options.clips)
    ]
    lines = ["| precision | hypotheses | tokens | differing tokens | equal finals |", "|---|---|---|---|---|"]
    lines += [compare(dtype, clips).row(str(dtype).removeprefix("torch.")) for dtype in (torch.float32, torch.bfloat16)]
    lines.append(compare(torch.float32, clips, "int8").row("int8 against float32"))
    text = "\n".join([*lines, "", corrections(options.seconds)]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
