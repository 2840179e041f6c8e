"""What the device benchmark compares the engine with: `generate` with two strategies, and another checkout's engine."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.device_sessions import Chunk, OneSession, Step
from benchmarks.scripted import PassRecord, Script, ScriptedEngine, noise
from benchmarks.speech import Samples
from benchmarks.strategies import again, official
from benchmarks.true_size import Shape, build_model, load_processor, synchronize
from qwen_asr.engine.scheduler import Scheduler

ROOT = Path(__file__).parents[1]

# `qwen_asr` is imported first, from the folder, and then finds its own modules; all else comes from this checkout.
CHILD = """
import runpy, sys
sys.path[0] = sys.argv[1]
import qwen_asr
sys.path[0] = sys.argv[2]
del sys.argv[1:3]
runpy.run_module("benchmarks.device", run_name="__main__", alter_sys=True)
"""


class Generate:
    """Transcribes with transformers' `generate` on a random model: as many tokens as the script has, and its text."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        self._processor = load_processor()
        self._model = build_model(shape, self._processor, device, dtype)
        self._script = Script(self._processor.tokenizer, self._model.config.eos_token_id[0])

    def __call__(self, samples: Samples, prefix: list[int]) -> list[int]:
        """The scripted tokens for `samples` that follow the forced prefix."""
        inputs = self._processor.apply_transcription_request([samples]).to(self._model.device, self._model.dtype)
        forced = torch.tensor([prefix], dtype=torch.long, device=self._model.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], forced], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        tokens = self._script.answer(len(samples))[len(prefix) :]
        count = len(tokens) + 1  # the end token
        with torch.inference_mode():
            self._model.generate(**inputs, min_new_tokens=count, max_new_tokens=count, do_sample=False)
        synchronize(self._model.device)
        return tokens


@dataclass(frozen=True)
class Baseline:
    """Seconds of each step of 1 s, over one utterance."""

    name: str
    steps: list[float]


def baselines(shape: Shape, device: torch.device, dtype: torch.dtype, seconds: int) -> list[Baseline]:
    """An utterance of `seconds` with both strategies of `benchmarks.steps`."""
    transcribe = Generate(shape, device, dtype)
    samples = noise(float(seconds))
    transcribe(samples[: 2 * len(samples) // seconds], [])  # one-time work
    measured = []
    for name, strategy in (("all audio again", again), ("Qwen's prefix", official)):
        steps, began = [], time.perf_counter()
        for _ in strategy(transcribe, samples):
            steps.append(time.perf_counter() - began)
            began = time.perf_counter()
        measured.append(Baseline(name, steps))
    return measured


def serve_steps(engine: ScriptedEngine, chunk: Chunk) -> None:
    """In a child process: for each line of standard input, run the next step of a session and print it as JSON."""
    with Scheduler(engine.recognizer) as scheduler:
        session = OneSession(engine, scheduler, chunk)
        print("ready", flush=True)
        for _ in sys.stdin:
            with engine.metered() as meter:
                audio = session.step()
            print(json.dumps(asdict(Step(audio, session.seconds, meter.passes))), flush=True)


class _Child:
    """A process with the engine of one checkout."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        command = [sys.executable, "-c", CHILD, str(folder), str(ROOT), *arguments, "--serve-steps"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.steps: list[Step] = []

    @property
    def heard(self) -> float:
        """Seconds of audio of the measured steps."""
        return sum(step.audio for step in self.steps)

    def read(self) -> str:
        """The next line of the process. Raises RuntimeError when it has ended."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError("The process with one of the engines ended. See its output above.")
        return line

    def step(self) -> Step:
        """Run the next step of the process's session."""
        assert self.process.stdin  # noqa: S101 - for mypy: it is a pipe
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.read())
        passes = [PassRecord(**{**one, "cpu": tuple(one["cpu"])}) for one in answer.pop("passes")]
        return Step(**answer, passes=passes)


@contextlib.contextmanager
def _child(folder: Path, arguments: list[str]) -> Iterator[_Child]:
    child = _Child(folder, arguments)
    with child.process:
        try:
            child.read()  # "ready"
            yield child
        finally:
            child.process.kill()


def compare_engines(
    folder: Path, arguments: list[str], audio_seconds: float, own_arguments: list[str]
) -> tuple[list[Step], list[Step]]:
    """Steps of one session with the engine of this checkout and with that of `folder`, in turns.

    arguments: the options of `benchmarks.device` for both. own_arguments: more for this checkout.
    """
    with _child(ROOT, arguments + own_arguments) as ours, _child(folder.resolve(), arguments) as theirs:
        while unfinished := [child for child in (ours, theirs) if child.heard < audio_seconds - 1e-6]:
            for child in unfinished:
                child.steps.append(child.step())
        return ours.steps, theirs.steps
