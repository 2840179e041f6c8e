"""The engine at the true size of Qwen3-ASR on this machine's GPU or CPU. Downloads nothing.

    python -m benchmarks.device                                    # everything, 0.6B, the best device
    python -m benchmarks.device --model 1.7b --plot lag.png
    python -m benchmarks.device --measure split,latency --chunk auto
    python -m benchmarks.device --measure live --levels 64,256,400 --seconds 60
    python -m benchmarks.device --against ../version-0.1           # the engine of another checkout, in turns

The model has the shape of Qwen's and random weights. Every pass is real; its predictions are replaced by a text of 3.5
tokens a second whose last two tokens change from step to step. Sessions hear utterances of 15 s.

    live        lag of the text by the number of live sessions, in real time, until one level falls behind
    split       one session: where the time goes, beside the least that memory and arithmetic allow
    latency     one session: from a chunk to its text
    operators   operators that a pass of 1 and of 64 utterances dispatches, and kernels that it launches
    host        CPU time of the recognizer's thread for a step
    memory      memory of a session
    baselines   all audio again with `generate`, and the strategy of Qwen's streaming demo, over one utterance
"""

import argparse
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from benchmarks.arguments import counts, positive
from benchmarks.device_compare import baselines, compare_engines, serve_steps
from benchmarks.device_sessions import (
    UTTERANCE_SECONDS,
    Chunk,
    Level,
    count_operators,
    host_time,
    live_sessions,
    memory,
    one_session,
)
from benchmarks.device_tables import (
    PARTS,
    compare_table,
    latency_sentence,
    level_row,
    plot,
    real_time_factor,
    split_table,
    table,
)
from benchmarks.scripted import ScriptedEngine
from benchmarks.true_size import (
    SHAPES,
    Shape,
    build_model,
    build_recognizer,
    load_processor,
    measure_rates,
    thin,
)
from qwen_asr.engine.checkpoint import Source, pick_device, pick_dtype
from qwen_asr.engine.hub.checkpoints import DEMO_FOLDER
from qwen_asr.engine.recognizer import Recognizer

MANY = 64
"""How many utterances a full pass has where operators and the host are measured."""
HOST_ROUNDS = 8
WARM_UP_SECONDS = 2.0


@dataclass
class Setting:
    """What is measured: the device, the model and its engine, and the command's options."""

    options: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    shape: Shape
    engine: ScriptedEngine

    @property
    def chunk(self) -> Chunk:
        """Seconds of new audio between two steps; None for automatic chunks."""
        return None if self.options.chunk == "auto" else float(self.options.chunk)

    @property
    def title(self) -> str:
        """The model, the machine and the versions."""
        name = device_name(self.device)
        precision = str(self.dtype).removeprefix("torch.")
        chunk = "automatic chunks" if self.chunk is None else f"chunks of {self.chunk:g} s"
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        return f"{self.options.model}, {precision}, {name}, {chunk}; {versions}"


def device_name(device: torch.device) -> str:
    """The processor or GPU, as people call it, and for a processor what torch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists() and (found := re.search(r"model name\s*: (.+)", information.read_text())):
        name = found[1]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{device.type}: {name}, {capability}, {torch.get_num_threads()} threads"


# --- measurements: each returns Markdown


def measure_live(setting: Setting) -> str:
    """Levels in ascending order, up to the first that falls behind."""
    levels: list[Level] = []
    for sessions in setting.options.levels:
        level = live_sessions(setting.engine, sessions, setting.options.seconds, setting.chunk)
        levels.append(level)
        say("  " + " | ".join(level_row(level)))
        if not level.keeps_up:
            break
    if setting.options.plot:
        plot(levels, setting.title, setting.options.plot)
    header = ["live sessions", "lag p50 (s)", "p95", "longest", "keeps up"]
    return "Lag of the text\n\n" + table(header, [level_row(level) for level in levels])


def measure_split(setting: Setting) -> str:
    """Where the time of one session goes."""
    before = measure_rates(setting.device, setting.dtype)
    steps = one_session(setting.engine, setting.options.audio_seconds, setting.chunk, metered=True)
    rates = before.best(measure_rates(setting.device, setting.dtype))  # other programs may have slowed one of them
    return (
        f"One session: real-time factor {real_time_factor(steps):.3f}. Milliseconds for a second of audio, over "
        f"{sum(step.audio for step in steps):.0f} s. This device reads {rates.bandwidth / 1e9:.1f} GB/s and multiplies "
        f"matrices at {rates.operations / 1e12:.3f} TFLOP/s.\n\n"
        + split_table(steps, setting.shape, setting.dtype, rates)
    )


def measure_latency(setting: Setting) -> str:
    """From a chunk to its text, without the meter of `measure_split`."""
    steps = one_session(setting.engine, setting.options.audio_seconds, setting.chunk, metered=False)
    return f"One session, from a chunk to its text: {latency_sentence(steps)}."


def measure_operators(setting: Setting) -> str:
    """Operators of a pass: on a CPU those of a thin model with the same layers, which are the same and quicker."""
    engine, model = setting.engine, "this model"
    if setting.device.type != "cuda":
        model = "a model with the same layers and small widths"
        small = build_model(thin(setting.shape), load_processor(), setting.device, torch.float32)
        engine = ScriptedEngine(Recognizer(small, load_processor(), "thin"))
    one, many = (count_operators(engine, utterances) for utterances in (1, MANY))
    rows = []
    for kind in ("encoder", "verify", "single"):
        left, right = one[kind], many[kind]
        ratio = f"{right.operators / left.operators:.2f}"
        launches = [str(count.launches or "") for count in (left, right)]
        rows.append([PARTS[kind], str(left.operators), str(right.operators), ratio, *launches])
    header = ["pass", "operators, 1 utterance", f"{MANY} utterances", "ratio", "kernels launched, 1", f"{MANY}"]
    return f"Operators that a pass of {model} dispatches\n\n" + table(header, rows)


def measure_host(setting: Setting) -> str:
    """CPU time of the recognizer's thread: on a CPU with the tiny model, whose passes cost next to nothing."""
    engine, threads = setting.engine, torch.get_num_threads()
    note = "Time in passes includes waiting for the GPU."
    if setting.device.type == "cpu":
        engine = ScriptedEngine(build_recognizer("tiny", setting.device, torch.float32))
        note = "Measured with the tiny model on one thread, so time between passes is what counts."
        torch.set_num_threads(1)  # else other threads would do a part of it
    try:
        host = host_time(engine, MANY, HOST_ROUNDS)
    finally:
        torch.set_num_threads(threads)
    return (
        f"CPU time of the recognizer's thread for a step, {MANY} sessions together: {host.between:.2f} ms between "
        f"passes, {host.encoder:.2f} ms in encoder passes, {host.decoder:.2f} ms in decoder passes. {note}"
    )


def measure_memory(setting: Setting) -> str:
    """Memory of a session."""
    used = memory(setting.engine, MANY if setting.device.type == "cuda" else 4)
    position = setting.shape.kv_values * setting.dtype.itemsize / 1e6
    device = f", of the GPU by {used.device / used.sessions:.1f} MB" if setting.device.type == "cuda" else ""
    return (
        f"Memory: a position takes {1000 * position:.0f} kB of KV, and an utterance of {UTTERANCE_SECONDS:g} s "
        f"{used.positions} positions, {position * used.positions:.1f} MB. With {used.sessions} such utterances open, "
        f"the memory of the process grew by {used.process / used.sessions:.1f} MB for each{device}, at its peak."
    )


def measure_baselines(setting: Setting) -> str:
    """The engine beside two strategies over `generate`, at chunks of 1 s over one utterance."""
    seconds = int(min(setting.options.audio_seconds, UTTERANCE_SECONDS))
    ours = [step.seconds for step in one_session(setting.engine, seconds, 1.0, metered=False)]
    rows = []
    others = baselines(setting.shape, setting.device, setting.dtype, seconds)
    for name, steps in (("engine", ours), *((other.name, other.steps) for other in others)):
        cells = [f"{sum(steps) / seconds:.3f}", f"{sum(steps) / sum(ours):.1f}", f"{steps[-1]:.3f}"]
        rows.append([name, *cells])
    header = ["strategy", "real-time factor", "times the engine", "last step (s)"]
    return f"An utterance of {seconds} s at chunks of 1 s\n\n" + table(header, rows)


def measure_against(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> str:
    """One session with this checkout's engine and with that of another folder, in turns."""
    arguments = ["--model", options.model, "--device", str(device), "--dtype", str(dtype).removeprefix("torch.")]
    arguments += ["--chunk", options.chunk, "--threads", str(options.threads)]
    quantize = ["--quantize", options.quantize]
    ours, theirs = compare_engines(options.against, arguments, options.audio_seconds, quantize)
    name = options.against.resolve().name
    return (
        f"One session with the engine of this checkout and with that of {name}, step by step in turns, over "
        f"{sum(step.audio for step in ours):.0f} s of audio\n\n" + compare_table(ours, theirs, name)
    )


RUN: dict[str, Callable[[Setting], str]] = {
    "live": measure_live,
    "split": measure_split,
    "latency": measure_latency,
    "operators": measure_operators,
    "host": measure_host,
    "memory": measure_memory,
    "baselines": measure_baselines,
}


MEASURES = tuple(RUN)


def say(line: str) -> None:
    """Report progress."""
    print(line, file=sys.stderr, flush=True)


def parse_options() -> argparse.Namespace:
    """The command's options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="0.6b", choices=tuple(SHAPES), help="default: 0.6b. tiny is for tests")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32 (default: auto)")
    parser.add_argument("--quantize", default="none", choices=("none", "int8"), help="int8: the decoder, on a CPU")
    parser.add_argument("--threads", type=int, default=0, help="threads of a CPU (default: what torch takes)")
    parser.add_argument("--measure", default=",".join(MEASURES), help="what to measure (default: everything)")
    parser.add_argument("--chunk", default="1", help="seconds of new audio between two steps, or auto (default: 1)")
    parser.add_argument("--levels", type=counts, help="numbers of live sessions, ascending (default: by the device)")
    parser.add_argument("--seconds", type=positive, default=30, help="length of each level (default: 30)")
    parser.add_argument(
        "--audio-seconds", type=positive, default=15, help="audio of the one session and of the baselines (default: 15)"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="measure only this engine and that of a checkout"
    )
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--plot", type=Path, help="also write a plot of the lag to this file")
    parser.add_argument("--serve-steps", action="store_true", help=argparse.SUPPRESS)  # the child of --against
    options = parser.parse_args()
    options.measure = options.measure.split(",")
    if unknown := set(options.measure) - set(MEASURES):
        parser.error(f"--measure knows {', '.join(MEASURES)}, not {', '.join(sorted(unknown))}")
    if options.chunk != "auto" and not re.fullmatch(r"\d+(\.\d+)?", options.chunk):
        parser.error("--chunk takes a number of seconds, or auto")
    if options.against and not (options.against / "qwen_asr").is_dir():
        parser.error(f"--against: {options.against} is no checkout: it has no folder qwen_asr")
    return options


def main() -> None:
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device, Source(DEMO_FOLDER, options.model))
    options.levels = options.levels or counts("4,16,64,128,192,256,320,400" if device.type == "cuda" else "1,2,4,8")
    if options.against:
        say("Measuring both engines")
        print(result := measure_against(options, device, dtype))
        write(options.output, [result])
        return
    say(f"Making a random {options.model} model on {device}")
    quantized = options.quantize == "int8"
    engine = ScriptedEngine(build_recognizer(options.model, device, dtype, quantized=quantized))
    setting = Setting(options, device, dtype, SHAPES[options.model], engine)
    say("Warming up")
    one_session(engine, WARM_UP_SECONDS if device.type == "cpu" else UTTERANCE_SECONDS, setting.chunk, metered=False)
    if options.serve_steps:
        serve_steps(engine, setting.chunk)
        return
    results = [setting.title]
    print(results[0], flush=True)
    for name, measure in RUN.items():
        if name in options.measure:
            say(f"Measuring: {name}")
            results.append(measure(setting))
            print(f"\n{results[-1]}", flush=True)
    write(options.output, results)


def write(path: Path | None, results: list[str]) -> None:
    """Write the results, if there is a path for them."""
    if path:
        path.write_text("\n\n".join(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
