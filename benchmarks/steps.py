"""What a step costs as a session goes on, beside transcribing everything again.

    python -m benchmarks.steps [--asr-model-path demo] [--seconds 60] [--output FILE]

One run, one checkpoint, one thread, CPU time. Three ways to show text every second of a session:

- engine: this project's session: utterances, cached windows and KV, the last hypothesis verified as a draft;
- again: all audio so far transcribed from nothing at each chunk (the same model code, no cache between chunks);
- official: the strategy of Qwen's streaming demo: all audio again, the text so far forced as a prefix but for its last
  5 tokens, no prefix in the first 2 chunks (`qwen_asr/inference/qwen3_asr.py`, `streaming_transcribe`).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.speech import Samples, conversation
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.vad import Silero
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.decoder import Row
from qwen_asr.engine.features import LogMel
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions

CHUNK = SAMPLE_RATE
UNFIXED_CHUNKS, UNFIXED_TOKENS = 2, 5
MAX_NEW_TOKENS = 512


@dataclass
class Cost:
    """CPU seconds of each chunk, and the work of the whole run."""

    chunks: list[float] = field(default_factory=list)
    frames: int = 0
    prefilled: int = 0
    decoded: int = 0

    def around(self, second: int) -> float:
        """Mean cost of the ten chunks around `second`: utterances start and end in them, whatever the second."""
        near = self.chunks[max(second - 5, 0) : second + 5][-10:]
        return sum(near) / len(near)


def engine(recognizer: Recognizer, samples: Samples) -> Iterator[None]:
    """The session as the app runs it."""
    session = create_session(recognizer, Silero(), SessionOptions(chunk_seconds=1.0))
    for start in range(0, len(samples), CHUNK):
        session.feed(samples[start : start + CHUNK])
        if start + CHUNK >= len(samples):
            session.finish()
        while (step := session.next_step()) is not None:
            session.completed(step, step.utterance.finish())
        yield


def again(recognizer: Recognizer, samples: Samples) -> Iterator[None]:
    """Everything from nothing at each chunk."""
    for end in range(CHUNK, len(samples) + CHUNK, CHUNK):
        Utterance(recognizer, max_new_tokens=MAX_NEW_TOKENS).feed(samples[:end])
        yield


def official(recognizer: Recognizer, samples: Samples) -> Iterator[None]:
    """All audio again, with the text so far but its last tokens forced in front of the answer."""
    head, tail = recognizer.prompt("", None)
    tokens: list[int] = []
    for number, end in enumerate(range(CHUNK, len(samples) + CHUNK, CHUNK)):
        prefix = tokens[: max(1, len(tokens) - UNFIXED_TOKENS)] if number >= UNFIXED_CHUNKS else []
        tokens = prefix + continued(recognizer, samples[:end], head, tail + prefix)
        yield


def continued(recognizer: Recognizer, samples: Samples, head: list[int], behind: list[int]) -> list[int]:
    """Greedy tokens after prompt, audio and a forced prefix, from nothing."""
    spectrum = LogMel(recognizer.extractor).spectrum(samples)
    size, total = recognizer.encoder.window_frames, spectrum.raw.shape[1]
    windows = [spectrum.window(start, min(start + size, total)) for start in range(0, total, size)]
    decoder = recognizer.decoder
    cache = decoder.new_cache()
    pending = torch.cat([decoder.embed(head), *recognizer.encoder.encode(windows), decoder.embed(behind)])
    tokens: list[int] = []
    while len(tokens) < MAX_NEW_TOKENS:
        token = decoder.predict([Row(cache, pending, 1)])[0][0]
        if token in recognizer.end_tokens:
            break
        tokens.append(token)
        pending = decoder.embed([token])
    return tokens


def measure(
    strategy: Callable[[Recognizer, Samples], Iterator[None]], recognizer: Recognizer, samples: Samples
) -> Cost:
    """Run a strategy over the whole session, timing each chunk (CPU time: other programs do not count)."""
    encoder, decoder = recognizer.encoder, recognizer.decoder
    encoder.frames_encoded = decoder.positions_prefilled = decoder.tokens_decoded = 0
    cost, started = Cost(), time.process_time()
    for _ in strategy(recognizer, samples):
        cost.chunks.append(time.process_time() - started)
        started = time.process_time()
    cost.frames, cost.prefilled = encoder.frames_encoded, decoder.positions_prefilled
    cost.decoded = decoder.tokens_decoded
    return cost


def table(costs: dict[str, Cost], seconds: int) -> str:
    """Markdown: what each strategy cost, and its ratio to the engine."""
    base = sum(costs["engine"].chunks)
    lines = [
        f"| strategy | CPU s for {seconds} s | ratio | step at 10 s (ms) | step at {seconds} s (ms) | last / first "
        "| encoder frames | prefilled | decoded |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        early, late = cost.around(10), cost.around(seconds)
        lines.append(
            f"| {name} | {sum(cost.chunks):.2f} | {sum(cost.chunks) / base:.1f} | {early * 1000:.0f} | "
            f"{late * 1000:.0f} | {late / early:.2f} | {cost.frames} | {cost.prefilled} | {cost.decoded} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=int, default=60, help="of each session, 10 or more (default: 60)")
    parser.add_argument("--repeats", type=int, default=3, help="sessions, whose costs are added (default: 3)")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    if options.seconds < 10:
        parser.error("--seconds: the first of the two steps compared is at 10 s, so give 10 or more")
    torch.set_num_threads(1)
    recognizer = load_recognizer(options.asr_model_path, options.device, options.dtype, print)
    strategies = {"engine": engine, "again": again, "official": official}
    costs = {name: Cost([0.0] * options.seconds) for name in strategies}
    measure(engine, recognizer, conversation(3.0, 99))  # what happens once, happens here
    for seed in range(options.repeats):
        samples = conversation(options.seconds, seed)
        for name, strategy in strategies.items():
            one = measure(strategy, recognizer, samples)
            total = costs[name]
            total.chunks = list(np.add(total.chunks, one.chunks) if options.repeats > 1 else one.chunks)
            total.frames, total.prefilled = total.frames + one.frames, total.prefilled + one.prefilled
            total.decoded += one.decoded
    title = f"{recognizer.name}, {recognizer.device}, {options.dtype}, one thread, {options.repeats} sessions together"
    text = f"{title}\n\n{table(costs, options.seconds)}\n"
    print(f"\n{text}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
