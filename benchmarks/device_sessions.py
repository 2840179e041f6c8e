"""Sessions on a `ScriptedEngine`: one as fast as it goes, many in real time, and what their steps cost the host."""

import heapq
import math
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import psutil
import torch

from benchmarks.scripted import PassRecord, ScriptedEngine, ScriptedUtterance, close, noise
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import run_steps

UTTERANCE_SECONDS = 15.0
SHORTEST_CHUNK = 0.2
"""The chunk in seconds that `auto` waits for."""
BEHIND_SECONDS = 5.0
"""A level ends when audio has waited this long, or five chunks, for its text."""

Chunk = float | None
"""Seconds of new audio between two steps. None: a step begins when the last one has ended and 0.2 s are there."""


@dataclass(frozen=True)
class Step:
    """A step: seconds of new audio, seconds from the arrival of the audio to its text, and the recorded passes."""

    audio: float
    seconds: float
    passes: list[PassRecord] = field(default_factory=list)


class OneSession:
    """A session that hears utterances of 15 s as fast as its steps go."""

    def __init__(self, engine: ScriptedEngine, scheduler: Scheduler, chunk: Chunk) -> None:
        self._engine, self._scheduler, self._chunk = engine, scheduler, chunk
        self._samples = noise(UTTERANCE_SECONDS)
        self._utterance = engine.utterance()
        self._next = chunk or SHORTEST_CHUNK

    def step(self) -> float:
        """Hear the next chunk. Returns its seconds of audio; `seconds` then holds how long its step took."""
        utterance = self._utterance
        end = min(utterance.length + round(self._next * SAMPLE_RATE), len(self._samples))
        audio = (end - utterance.length) / SAMPLE_RATE
        began = time.perf_counter()
        utterance.append(self._samples[utterance.length : end])
        self._scheduler.submit(utterance).result()
        self.seconds = time.perf_counter() - began
        if self._chunk is None:
            self._next = max(SHORTEST_CHUNK, self.seconds)  # what has arrived meanwhile
        if end == len(self._samples):
            close(utterance)
            self._utterance = self._engine.utterance()
        return audio


def one_session(engine: ScriptedEngine, audio_seconds: float, chunk: Chunk, *, metered: bool) -> list[Step]:
    """The steps of a session over `audio_seconds` of audio."""
    steps: list[Step] = []
    with Scheduler(engine.recognizer) as scheduler:
        session = OneSession(engine, scheduler, chunk)
        while sum(step.audio for step in steps) < audio_seconds - 1e-6:
            if metered:
                with engine.metered() as meter:
                    audio = session.step()
                steps.append(Step(audio, session.seconds, meter.passes))
            else:
                audio = session.step()
                steps.append(Step(audio, session.seconds))
    return steps


# --- many sessions in real time


@dataclass
class Level:
    """The lags in seconds of all texts of `sessions` live sessions, in the order in which the texts came."""

    sessions: int
    lags: list[float]
    keeps_up: bool


class _Live:
    """An utterance in real time. Audio waits here while a step runs, so that only one thread uses the utterance."""

    def __init__(self, utterance: ScriptedUtterance) -> None:
        self.utterance = utterance
        self.waiting: list[tuple[float, int]] = []  # arrival and end in samples of each chunk without a text
        self.covered = 0  # samples of the running step; 0 while none runs
        self.ended = False


class LiveSessions:
    """`sessions` sessions, which hear utterances of 15 s in real time for `seconds`, each at its own phase."""

    def __init__(
        self, engine: ScriptedEngine, scheduler: Scheduler, sessions: int, seconds: float, chunk: Chunk
    ) -> None:
        self._engine, self._scheduler = engine, scheduler
        self._chunk = chunk or SHORTEST_CHUNK
        self._limit = max(BEHIND_SECONDS, 5 * self._chunk)
        self._samples = noise(UTTERANCE_SECONDS)
        self._block = round(self._chunk * SAMPLE_RATE)
        # The first utterance of each session has another length, so that they do not all end at once.
        blocks = max(int(UTTERANCE_SECONDS / self._chunk), 1)
        self._ends = [max(math.ceil(blocks * (number + 1) / sessions), 1) * self._block for number in range(sessions)]
        self._speaking = [_Live(engine.utterance()) for _ in range(sessions)]
        self._done: queue.SimpleQueue[tuple[_Live, Future[Hypothesis], float]] = queue.SimpleQueue()
        self._running = 0
        begin = time.monotonic()
        self._stop = begin + seconds
        self._arrivals = [(begin + self._chunk * (1 + number / sessions), number) for number in range(sessions)]
        heapq.heapify(self._arrivals)

    def run(self) -> Level:
        """Run to the end, or until text comes too late for good."""
        lags: list[float] = []
        late = False
        while self._arrivals or self._running:
            now = time.monotonic()
            while self._arrivals and self._arrivals[0][0] <= now:
                self._arrive()
            pause = max(self._arrivals[0][0] - time.monotonic(), 0.0) if self._arrivals else self._limit
            try:
                live, future, moment = self._done.get(timeout=pause)
            except queue.Empty:
                continue
            future.result()  # raises what went wrong
            self._running -= 1
            lags += [moment - arrival for arrival, end in live.waiting if end <= live.covered]
            live.waiting = [(arrival, end) for arrival, end in live.waiting if end > live.covered]
            live.covered = 0
            if live.waiting and moment - live.waiting[0][0] > self._limit:
                late = True
                self._arrivals.clear()
            if live.waiting and not late:
                self._submit(live)
            elif live.ended:
                close(live.utterance)
        for live in self._speaking:
            close(live.utterance)
        recent = sorted(lags[len(lags) // 2 :])
        keeps_up = not late and recent[len(recent) // 2] <= max(self._chunk, 1.0)
        return Level(len(self._speaking), lags, keeps_up)

    def _arrive(self) -> None:
        moment, number = heapq.heappop(self._arrivals)
        live = self._speaking[number]
        heard = live.waiting[-1][1] if live.waiting else live.utterance.length
        end = min(heard + self._block, len(self._samples))
        live.waiting.append((moment, end))
        if end >= self._ends[number]:
            live.ended = True
            self._ends[number] = len(self._samples)
            self._speaking[number] = _Live(self._engine.utterance())
        if not live.covered:
            self._submit(live)
        if moment + self._chunk <= self._stop:
            heapq.heappush(self._arrivals, (moment + self._chunk, number))

    def _submit(self, live: _Live) -> None:
        live.covered = live.waiting[-1][1]
        live.utterance.append(self._samples[live.utterance.length : live.covered])
        self._running += 1
        future = self._scheduler.submit(live.utterance)
        future.add_done_callback(lambda done: self._done.put((live, done, time.monotonic())))


def live_sessions(engine: ScriptedEngine, sessions: int, seconds: float, chunk: Chunk) -> Level:
    """Measure one level."""
    with Scheduler(engine.recognizer) as scheduler:
        return LiveSessions(engine, scheduler, sessions, seconds, chunk).run()


# --- operators, host and memory


@dataclass(frozen=True)
class Launched:
    """Operators that one pass dispatches, and kernels and graphs that it launches on CUDA (0 elsewhere)."""

    operators: int
    launches: int


def count_operators(engine: ScriptedEngine, utterances: int) -> dict[str, Launched]:
    """What an encoder pass, a verify pass and a single-token pass of so many utterances dispatch, by kind."""
    speaking = [engine.utterance() for _ in range(utterances)]
    samples = noise(3.0)
    step_all = partial(_step_all, engine, speaking)
    step_all(lambda utterance: utterance.append(samples[: 2 * SAMPLE_RATE]))
    with engine.metered(counting=True) as meter:
        step_all(lambda utterance: utterance.append(samples[2 * SAMPLE_RATE :]))
    for utterance in speaking:
        close(utterance)
    counted: dict[str, Launched] = {}
    for record in meter.passes:
        if record.kind != "log-mel" and utterances in (len(record.rows), len(record.frames)):
            counted.setdefault(record.kind, Launched(record.operators, record.launches))
    return counted


def _step_all(
    engine: ScriptedEngine, speaking: list[ScriptedUtterance], hear: Callable[[ScriptedUtterance], None]
) -> None:
    for utterance in speaking:
        hear(utterance)
    run_steps(engine.recognizer, speaking)


@dataclass(frozen=True)
class HostTime:
    """Milliseconds of the recognizer's thread for a step: in encoder passes, in decoder passes, and between passes."""

    encoder: float
    decoder: float
    between: float


def host_time(engine: ScriptedEngine, sessions: int, rounds: int) -> HostTime:
    """CPU time of the thread that runs the passes, while `sessions` utterances take `rounds` steps of 1 s together."""
    speaking = [engine.utterance() for _ in range(sessions)]
    samples = noise(float(rounds + 1))
    with Scheduler(engine.recognizer) as scheduler, engine.metered() as meter:
        starts = []
        for number in range(rounds + 1):
            starts.append(len(meter.passes))
            part = samples[number * SAMPLE_RATE : (number + 1) * SAMPLE_RATE]
            for utterance in speaking:
                utterance.append(part)
            for future in [scheduler.submit(utterance) for utterance in speaking]:
                future.result()
    for utterance in speaking:
        close(utterance)
    # From the first pass of the second round to the end of the last pass: the first round may hold one-time work.
    passes = meter.passes[starts[1] :]
    total = passes[-1].cpu[1] - passes[0].cpu[0]
    encoder, decoder = (
        sum(one.cpu[1] - one.cpu[0] for one in passes if one.kind in kinds)
        for kinds in (("encoder",), ("verify", "single"))
    )
    steps = sessions * rounds / 1000
    return HostTime(encoder / steps, decoder / steps, (total - encoder - decoder) / steps)


@dataclass(frozen=True)
class Memory:
    """MB. process and device: the largest growth while sessions were open; positions: of the fullest KV cache."""

    sessions: int
    process: float
    device: float
    positions: int


def memory(engine: ScriptedEngine, sessions: int) -> Memory:
    """What `sessions` open utterances of 15 s add to the memory of the process and of a CUDA device."""
    device = engine.recognizer.device
    process = psutil.Process()
    samples = noise(UTTERANCE_SECONDS)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    allocated = torch.cuda.memory_allocated(device) if cuda else 0
    before = peak = process.memory_info().rss
    engine.longest_cache = 0
    speaking = [engine.utterance() for _ in range(sessions)]
    with Scheduler(engine.recognizer) as scheduler:
        for start in range(0, len(samples), 5 * SAMPLE_RATE):
            for utterance in speaking:
                utterance.append(samples[start : start + 5 * SAMPLE_RATE])
            for future in [scheduler.submit(utterance) for utterance in speaking]:
                future.result()
                peak = max(peak, process.memory_info().rss)
    grown = torch.cuda.max_memory_allocated(device) - allocated if cuda else 0
    for utterance in speaking:
        close(utterance)
    return Memory(sessions, (peak - before) / 1e6, grown / 1e6, engine.longest_cache)
