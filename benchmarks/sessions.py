"""The lag of the text by the number of concurrent real-time sessions.

    python -m benchmarks.sessions [--levels 1,8,24,48,64,96,128] [--seconds 60] [--output FILE] [--plot FILE.png]
    python -m benchmarks.sessions --levels 8 --contexts 2000     # beside long contexts

The server is `app.py` in a separate process. Each session sends speech in real time over `/ws/asr`, in frames of
100 ms. The lag of a text is the time from its last sample to its arrival at the client. Server and clients share the
machine. Finals are compared with `Qwen3ASRModel.transcribe` on the same samples.

With `--contexts TOKENS` another session opens every two seconds, says a sentence, and brings a context of about so many
tokens that no session had before. Its own lags are not counted.
"""

import argparse
import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.arguments import counts, positive
from benchmarks.load import (
    STAGGER_SECONDS,
    RunningServer,
    SessionResult,
    count_mismatches,
    quantile,
    run_sessions,
    server,
    stream_clip,
)
from benchmarks.speech import Samples, conversation
from qwen_asr import Qwen3ASRModel

LAG_THRESHOLDS = (1.0, 5.0)
MAX_CLIPS = 24
CONTEXT_SECONDS = 2.0


@dataclass
class Level:
    """The measurements for one number of sessions. Lags are in seconds, memory is in MB."""

    sessions: int
    median: float
    p95: float
    longest: float
    cores: float
    memory: tuple[float, float]
    finals: int
    mismatches: int
    errors: int

    def row(self) -> str:
        """One row of the Markdown table."""
        lags = f"{self.median:.2f} | {self.p95:.2f} | {self.longest:.2f}"
        same = f"{self.finals - self.mismatches} of {self.finals}"
        memory = f"{self.memory[0]:.0f} → {self.memory[1]:.0f}"
        return f"| {self.sessions} | {lags} | {self.cores:.2f} | {memory} | {same} | {self.errors} |"


HEADER = (
    "| sessions | lag, median (s) | p95 | longest | server's cores | its memory (MB) | finals == offline | errors |\n"
    "|---|---|---|---|---|---|---|---|"
)


def long_context(model: Qwen3ASRModel, tokens: int, number: int) -> str:
    """Names that differ with `number`, of at most so many tokens."""
    per_word = len(model.recognizer.processor.tokenizer(" Anna1234")["input_ids"])
    # The one that differs comes first, so that nothing is shared.
    return " ".join(f"Anna{other}" for other in [number, *range(1000, 998 + tokens // per_word)])


async def run_beside_contexts(
    running: RunningServer, model: Qwen3ASRModel, clips: list[Samples], tokens: int
) -> list[SessionResult]:
    """The results of the sessions of `clips`, while others come with long contexts."""
    contexts: list[asyncio.Task[SessionResult]] = []

    async def bring_contexts() -> None:
        sentence = conversation(2.0, 98)
        while True:
            context = long_context(model, tokens, len(contexts))
            stream = stream_clip(running.url, sentence, realtime=True, context=context)
            contexts.append(asyncio.create_task(stream))
            await asyncio.sleep(CONTEXT_SECONDS)

    bringing = asyncio.create_task(bring_contexts())
    results = await run_sessions(running.url, clips)
    bringing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await bringing
    for session in await asyncio.gather(*contexts):
        if session.errors or not session.finals:
            raise RuntimeError(f"A session with a long context failed: {session.errors}")
    return results


def measure(
    running: RunningServer, model: Qwen3ASRModel, sessions: int, clips: list[Samples], context_tokens: int = 0
) -> Level:
    """Measure one level. Memory is read before the first session and after the last."""
    before, used = running.megabytes, running.cpu_seconds
    session_clips = [clips[number % len(clips)] for number in range(sessions)]
    if context_tokens:
        results = asyncio.run(run_beside_contexts(running, model, session_clips, context_tokens))
    else:
        results = asyncio.run(run_sessions(running.url, session_clips))
    used = running.cpu_seconds - used
    lags = [lag for one in results for lag in one.lags]
    return Level(
        sessions,
        quantile(lags, 0.5),
        quantile(lags, 0.95),
        max(lags),
        used / (len(clips[0]) / 16_000 + STAGGER_SECONDS),
        (before, running.megabytes),
        sum(len(one.finals) for one in results),
        sum(count_mismatches(model, samples, one) for samples, one in zip(session_clips, results, strict=True)),
        sum(len(one.errors) for one in results),
    )


def describe_threshold(levels: list[Level], threshold: float) -> str:
    """A sentence on the first measured number of sessions whose p95 lag exceeds the threshold."""
    above = [level.sessions for level in levels if level.p95 > threshold]
    if not above:
        return f"The p95 lag stays under {threshold:g} s up to {levels[-1].sessions} sessions."
    return f"The p95 lag passes {threshold:g} s at {above[0]} sessions."


def plot(levels: list[Level], path: Path) -> None:
    """Plot the lag by number of sessions, with the thresholds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    count = [level.sessions for level in levels]
    for name in ("median", "p95", "longest"):
        axes.plot(count, [getattr(level, name) for level in levels], marker="o", label=name)
    for threshold in LAG_THRESHOLDS:
        axes.axhline(threshold, color="gray", linestyle=":")
    axes.set(xlabel="sessions at once", ylabel="lag of the text (s)", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--levels", type=counts, default="1,8,24,48,64,96,128", help="numbers of sessions, ascending")
    parser.add_argument("--seconds", type=positive, default=60, help="seconds of speech per session (default: 60)")
    parser.add_argument(
        "--contexts", type=int, default=0, metavar="TOKENS", help="also open sessions with long contexts"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="also write a plot to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = [conversation(options.seconds, seed) for seed in range(min(MAX_CLIPS, max(options.levels)))]
    model = Qwen3ASRModel.from_pretrained(options.asr_model_path, dtype="float32", device_map="cpu")
    levels = []
    most = max(options.levels) + 16 * bool(options.contexts)
    limits = ("--asr-model-path", options.asr_model_path, "--device", "cpu", "--max-sessions", str(most))
    print(HEADER, flush=True)
    with server(*limits) as running:
        measure(running, model, 1, [conversation(5, 99)])  # warm-up, so that one-time work is not measured
        for sessions in options.levels:
            levels.append(measure(running, model, sessions, clips, options.contexts))
            print(levels[-1].row(), flush=True)
    summary = " ".join(describe_threshold(levels, threshold) for threshold in LAG_THRESHOLDS)
    text = "\n".join([HEADER, *(level.row() for level in levels), "", summary]) + "\n"
    print(f"\n{summary}")
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    if options.plot:
        plot(levels, options.plot)


if __name__ == "__main__":
    main()
