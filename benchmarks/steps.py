"""The cost of a step as a session gets longer, compared with transcribing all audio again.

    python -m benchmarks.steps [--asr-model-path demo] [--seconds 60] [--output FILE]

Measures the CPU time of one thread for three strategies that update the text every second:

- engine: a session of this project: utterances, cached windows and KV, the last hypothesis verified as a draft;
- again: all audio so far transcribed from scratch at each chunk (the same model code, no cache between chunks);
- official: the strategy of Qwen's streaming demo: all audio again, with the text so far except its last 5 tokens
  forced as a prefix; no prefix in the first 2 chunks (`qwen_asr/inference/qwen3_asr.py`, `streaming_transcribe`).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.arguments import count
from benchmarks.speech import Samples, conversation
from benchmarks.strategies import CHUNK, again, official
from qwen_asr.audio.vad import Silero
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.decoder.packing import AUDIO, Row
from qwen_asr.engine.encoder import Window
from qwen_asr.engine.features import LogMel
from qwen_asr.engine.local_engine import LocalModel
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions

MAX_NEW_TOKENS = 512


@dataclass
class Cost:
    """CPU seconds per chunk, and the work of the whole run."""

    chunks: list[float] = field(default_factory=list)
    frames: int = 0
    prefilled: int = 0
    decoded: int = 0

    def mean_near(self, second: int) -> float:
        """Mean CPU seconds of the ten chunks around `second`, so that utterance boundaries average out."""
        near = self.chunks[max(second - 5, 0) : second + 5][-10:]
        return sum(near) / len(near)


def engine(recognizer: Recognizer, samples: Samples) -> Iterator[None]:
    """A session, as the app runs it."""
    session = create_session(LocalModel(recognizer), Silero(), SessionOptions(chunk_seconds=1.0))
    for start in range(0, len(samples), CHUNK):
        session.feed(samples[start : start + CHUNK])
        if start + CHUNK >= len(samples):
            session.finish()
        while (step := session.next_step()) is not None:
            session.completed(step, cast("Utterance", step.utterance).finish())
        yield


def decode_with_prefix(recognizer: Recognizer, samples: Samples, prefix: list[int]) -> list[int]:
    """Greedy tokens after the prompt, the audio and a forced prefix, computed from scratch."""
    head, tail = recognizer.prompt("", None)
    log_mel = LogMel(recognizer.frontend)
    spectrum = log_mel.spectrum(samples, recognizer.frontend.compute([log_mel.missing(samples)])[0])
    size, total = recognizer.encoder.window_frames, len(spectrum.raw)
    windows = [Window(spectrum.window(start, min(start + size, total))) for start in range(0, total, size)]
    audio = tuple(encoded.embeddings for encoded in recognizer.encoder.encode(windows))
    cache = recognizer.decoder.new_cache()
    pending = [*head, *[AUDIO] * sum(map(len, audio)), *tail, *prefix]
    tokens: list[int] = []
    while len(tokens) < MAX_NEW_TOKENS:
        cache.reserve(len(pending))
        token = recognizer.decoder.predict([Row(cache, np.array(pending), audio, 1)])[0].tokens[0]
        if token in recognizer.end_tokens:
            break
        tokens.append(token)
        pending, audio = [token], ()
    cache.close()
    return tokens


def measure(strategy: Callable[[Samples], Iterator[None]], recognizer: Recognizer, samples: Samples) -> Cost:
    """Run a strategy over the whole session, and time each chunk in CPU time, so that other programs do not matter."""
    encoder, decoder = recognizer.encoder, recognizer.decoder
    encoder.frames_encoded = decoder.positions_prefilled = decoder.tokens_decoded = 0
    cost, started = Cost(), time.process_time()
    for _ in strategy(samples):
        cost.chunks.append(time.process_time() - started)
        started = time.process_time()
    cost.frames, cost.prefilled = encoder.frames_encoded, decoder.positions_prefilled
    cost.decoded = decoder.tokens_decoded
    return cost


def table(costs: dict[str, Cost], seconds: int) -> str:
    """A Markdown table of the cost of each strategy and its ratio to the engine."""
    base = sum(costs["engine"].chunks)
    lines = [
        f"| strategy | CPU s for {seconds} s | ratio | step at 10 s (ms) | step at {seconds} s (ms) | last / first "
        "| encoder frames | prefilled | decoded |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        early, late = cost.mean_near(10), cost.mean_near(seconds)
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
    parser.add_argument("--seconds", type=int, default=60, help="length of each session, at least 10 (default: 60)")
    parser.add_argument(
        "--repeats", type=count, default=3, help="number of sessions, whose costs are added up (default: 3)"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.seconds < 10:
        parser.error("--seconds must be at least 10: the first of the two compared steps is at 10 s")
    torch.set_num_threads(1)
    recognizer = load_recognizer(options.asr_model_path, options.device, options.dtype, print)
    transcribe = partial(decode_with_prefix, recognizer)
    strategies = {
        "engine": partial(engine, recognizer),
        "again": partial(again, transcribe),
        "official": partial(official, transcribe),
    }
    costs = {name: Cost([0.0] * options.seconds) for name in strategies}
    measure(strategies["engine"], recognizer, conversation(3.0, 99))  # warm-up, so that one-time work is not measured
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
