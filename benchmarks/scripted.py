"""The engine on a model with random weights: its passes are real, and its predictions are replaced by a scripted text.

Everything that the benchmark expects of the engine's insides stands here: `Decoder.predict(rows)` with `row.cache`,
`row.predictions` and `cache.length`, `Encoder.encode(windows)`, the log-mel, and the passes that a step yields. Where
version 0.1, with which it is compared, differs, both forms are taken.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speech import Samples
from benchmarks.true_size import synchronize
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine import features
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import StepGenerator, Utterance

TOKENS_PER_SECOND = 3.5
UNSURE_TOKENS = 2
"""The last tokens of a text, which the next step changes."""
CHANGE_SAMPLES = SAMPLE_RATE // 5
"""The unsure tokens are others for each 0.2 s of audio: the shortest chunk."""


class Script:
    """Scripted answers: what the model is made to say about the first `samples` samples of an utterance.

    An answer depends on `samples` alone: the prefix with the language, 3.5 words a second, then the end token. Its last
    two words are others at each step, so a draft fails at its last two tokens, and 5.5 single-token passes follow on
    average at chunks of 1 s. Words near each other differ, so no draft is taken up again by chance.
    """

    def __init__(self, tokenizer: Any, end_token: int) -> None:
        self.end_token = end_token
        self._prefix: list[int] = tokenizer("language English<asr_text>", add_special_tokens=False)["input_ids"]
        words = [i for i in range(len(tokenizer)) if re.fullmatch(r" [a-z]{2,}", tokenizer.decode([i]))]
        self._unsure, self._sure = words[:32], words[32:]

    def answer(self, samples: int) -> list[int]:
        """The tokens of the answer, without the end token."""
        count = max(int(TOKENS_PER_SECOND * samples / SAMPLE_RATE), UNSURE_TOKENS)
        sure = [self._sure[index % len(self._sure)] for index in range(count - UNSURE_TOKENS)]
        first = UNSURE_TOKENS * (samples // CHANGE_SAMPLES)
        unsure = [self._unsure[(first + index) % len(self._unsure)] for index in range(UNSURE_TOKENS)]
        return [*self._prefix, *sure, *unsure]


@dataclass
class _Answering:
    """A step's answer, and the position in the KV cache before its first token (None before the first prediction)."""

    answer: list[int]
    start: int | None = None


@dataclass(frozen=True)
class PassRecord:
    """One call of the encoder, of the decoder or of the log-mel.

    kind: "log-mel", "encoder", "verify" (more than one new position in any row), or "single". seconds: wall time, with
    the device's work. cpu: `thread_time` before and after. frames: log-mel frames of each window. rows: (positions in
    the cache before, new positions, predictions) of each row. operators: those that were dispatched, and launches:
    kernels and graphs launched on CUDA; both 0 if they were not counted.
    """

    kind: str
    seconds: float
    cpu: tuple[float, float]
    frames: tuple[int, ...] = ()
    rows: tuple[tuple[int, int, int], ...] = ()
    operators: int = 0
    launches: int = 0


class _CountOperators(TorchDispatchMode):
    """Counts the operators that are dispatched while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Meter:
    """Records passes while it is attached to the engine. counting: also count operators and kernel launches."""

    device: torch.device
    counting: bool = False
    passes: list[PassRecord] = field(default_factory=list)

    def run(self, function: Callable[[], Any], describe: Callable[[], dict[str, Any]]) -> Any:
        """Call a function and record it; `describe` gives the rest of its record afterwards."""
        counter, launches = _CountOperators(), 0
        cpu, begun = time.thread_time(), time.perf_counter()
        if self.counting:
            result, launches = _count_launches(function, counter, self.device)
        else:
            result = function()
            synchronize(self.device)
        seconds, cpu_end = time.perf_counter() - begun, time.thread_time()
        record = PassRecord(
            seconds=seconds, cpu=(cpu, cpu_end), operators=counter.count, launches=launches, **describe()
        )
        self.passes.append(record)
        return result


def _count_launches(function: Callable[[], Any], counter: _CountOperators, device: torch.device) -> tuple[Any, int]:
    if device.type != "cuda":
        with counter:
            return function(), 0
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, counter:
        result = function()
        synchronize(device)
    names = [event.name for event in profile.events() or ()]
    return result, sum("LaunchKernel" in name or "GraphLaunch" in name for name in names)


class ScriptedEngine:
    """A recognizer whose predictions come from a `Script`, with a place for a `Meter`.

    `longest_cache` is the largest number of positions that a KV cache held.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.script = Script(recognizer.processor.tokenizer, max(recognizer.end_tokens))
        self.longest_cache = 0
        self._meter: Meter | None = None
        self._answering: dict[int, _Answering] = {}  # by the id of the cache
        self._predict, self._encode = recognizer.decoder.predict, recognizer.encoder.encode
        recognizer.decoder.predict = self._scripted_predict  # type: ignore[method-assign]  # so the engine stays as it is
        recognizer.encoder.encode = self._metered_encode  # type: ignore[method-assign]  # so the engine stays as it is

    @contextmanager
    def metered(self, *, counting: bool = False) -> Iterator[Meter]:
        """Record all passes until the block ends."""
        self._meter = meter = Meter(self.recognizer.device, counting)
        # Utterances make their own `LogMel`, so it is its class that is watched.
        owner, name = (features.Frontend, "compute") if hasattr(features, "Frontend") else (features.LogMel, "spectrum")
        compute = getattr(owner, name)

        def metered_compute(itself: Any, argument: Any) -> Any:
            return meter.run(lambda: compute(itself, argument), lambda: {"kind": "log-mel"})

        try:
            with patch.object(owner, name, metered_compute):
                yield meter
        finally:
            self._meter = None

    def utterance(self) -> "ScriptedUtterance":
        """A new utterance."""
        return ScriptedUtterance(self)

    def answer_for(self, cache: Any, answering: _Answering) -> None:
        """From now on, predictions for this cache come from this answer."""
        self._answering[id(cache)] = answering

    def _scripted_predict(self, rows: list[Any]) -> list[Any]:
        before = [row.cache.length for row in rows]

        def sizes() -> list[tuple[int, int, int]]:
            parts = zip(rows, before, strict=True)
            return [(held, row.cache.length - held, row.predictions) for row, held in parts]

        def describe() -> dict[str, Any]:
            kind = "single" if all(new == 1 for _, new, _ in sizes()) else "verify"
            return {"kind": kind, "rows": tuple(sizes())}

        predicted = self._meter.run(lambda: self._predict(rows), describe) if self._meter else self._predict(rows)
        self.longest_cache = max(self.longest_cache, *(row.cache.length for row in rows))
        said = [self._said(row, row.cache.length) for row in rows]
        if isinstance(predicted[0], list):  # version 0.1
            return said
        return [replace(one, tokens=tokens) for one, tokens in zip(predicted, said, strict=True)]

    def _said(self, row: Any, end: int) -> list[int]:
        """The scripted tokens after the last `row.predictions` positions; `end` is the end of the cache."""
        if not row.predictions:
            return []
        answering = self._answering[id(row.cache)]
        first = end - row.predictions + 1  # the position of the first token that is predicted
        if answering.start is None:
            answering.start = first
        index = first - answering.start
        rest = [*answering.answer[index:], *[self.script.end_token] * row.predictions]
        return rest[: row.predictions]

    def _metered_encode(self, windows: Sequence[Any]) -> Any:
        if not self._meter:
            return self._encode(list(windows))
        frames = tuple(getattr(window, "frames", window).shape[-1] for window in windows)
        return self._meter.run(lambda: self._encode(list(windows)), lambda: {"kind": "encoder", "frames": frames})


class ScriptedUtterance(Utterance):
    """An utterance of a `ScriptedEngine`: each of its steps says which caches its answer is for."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine.recognizer)
        self._engine = engine

    def step(self) -> StepGenerator:
        """As `Utterance.step`. The step covers the samples at its start, and so does its answer."""
        answering = _Answering(self._engine.script.answer(self.length))
        step, result = super().step(), None
        while True:
            try:
                one = step.send(result)
            except StopIteration as done:
                return done.value
            if row := getattr(one, "row", None):
                self._engine.answer_for(row.cache, answering)
            result = yield one


def close(utterance: Utterance) -> None:
    """Give the KV of an utterance back. Version 0.1 has no call for it: its memory goes with the object."""
    if release := getattr(utterance, "close", None):
        release()


def noise(seconds: float, seed: int = 0) -> Samples:
    """Noise with the rhythm of speech, at one level: the floor of the log-mel never makes a finished window invalid."""
    count = round(seconds * SAMPLE_RATE)
    envelope = 0.06 + 0.04 * np.sin(2 * np.pi * 4 * np.arange(count) / SAMPLE_RATE)
    values: Samples = (np.random.default_rng(seed).standard_normal(count) * envelope).astype(np.float32)
    return values
