"""The tables and the plot of the device benchmark."""

from pathlib import Path

import torch

from benchmarks.device_sessions import Level, Step
from benchmarks.load import quantile
from benchmarks.scripted import PassRecord
from benchmarks.true_size import Rates, Shape, log_mel_operations

PARTS = {"log-mel": "log-mel", "encoder": "encoder", "verify": "verify passes", "single": "single-token passes"}
"""The kinds of recorded passes, and what people call them."""
BETWEEN = "host, between passes"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|".join(["", *(f" {cell} " if cell != "---" else cell for cell in line), ""]) for line in lines)


def real_time_factor(steps: list[Step]) -> float:
    """Seconds of computing for a second of audio."""
    return sum(step.seconds for step in steps) / sum(step.audio for step in steps)


def least_seconds(record: PassRecord, audio: float, shape: Shape, itemsize: int, rates: Rates) -> tuple[float, float]:
    """The least time for a pass: to read the bytes that it needs once, and to do its arithmetic.

    Weights and KV have `itemsize` bytes; activations are not counted. audio: the seconds that a log-mel adds.
    """
    if record.kind == "log-mel":
        return rates.seconds(0, log_mel_operations(round(audio * 100)))
    if record.kind == "encoder":
        operations = sum(shape.encoder_operations(frames) for frames in record.frames)
        return rates.seconds(shape.encoder_weights * itemsize, operations)
    held = sum(before + new for before, new, _ in record.rows)
    pairs = sum(new * before + new * (new + 1) // 2 for before, new, _ in record.rows)
    positions, predictions = (sum(row[index] for row in record.rows) for index in (1, 2))
    weights = shape.layer_weights + (shape.head_weights if predictions else 0)
    operations = shape.decoder_operations(positions, pairs, predictions)
    return rates.seconds((weights + shape.kv_values * held) * itemsize, operations)


def split_table(steps: list[Step], shape: Shape, dtype: torch.dtype, rates: Rates) -> str:
    """Where the time of one session's steps goes. Milliseconds for a second of audio."""
    audio, total = (sum(getattr(step, name) for step in steps) for name in ("audio", "seconds"))
    rows, known, least_total = [], 0.0, 0.0
    for kind, name in PARTS.items():
        passes = [(one, step.audio) for step in steps for one in step.passes if one.kind == kind]
        seconds = sum(one.seconds for one, _ in passes)
        least = [least_seconds(one, heard, shape, dtype.itemsize, rates) for one, heard in passes]
        floor = sum(max(pair) for pair in least)
        known, least_total = known + seconds, least_total + floor
        values = [seconds, *(sum(pair[index] for pair in least) for index in (0, 1))]
        cells = [f"{1000 * value / audio:.1f}" for value in values]
        ratio = f"{seconds / floor:.1f}" if floor else ""
        rows.append([name, f"{len(passes) / len(steps):.1f}", *cells, f"{seconds / total:.0%}", ratio])
    rest = total - known
    rows.append([BETWEEN, "", f"{1000 * rest / audio:.1f}", "", "", f"{rest / total:.0%}", ""])
    rows.append(["**all**", "", f"{1000 * total / audio:.1f}", "", "", "100%", f"{total / least_total:.1f}"])
    header = ["part", "passes a step", "ms", "least: memory", "least: arithmetic", "share", "times the larger least"]
    return table(header, rows)


def latency_sentence(steps: list[Step]) -> str:
    """The time from a chunk to its text."""
    times = [1000 * step.seconds for step in steps]
    return f"p50 {quantile(times, 0.5):.1f} ms, p95 {quantile(times, 0.95):.1f} ms over {len(times)} chunks"


def level_row(level: Level) -> list[str]:
    """One row of the table of live sessions."""
    lags = [f"{quantile(level.lags, share):.3f}" for share in (0.5, 0.95, 1)]
    return [str(level.sessions), *lags, "yes" if level.keeps_up else "falls behind"]


def plot(levels: list[Level], title: str, path: Path) -> None:
    """Plot the lag by the number of live sessions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        lags = [quantile(level.lags, share) for level in levels]
        axes.plot([level.sessions for level in levels], lags, marker="o", label=name)
    axes.set(xlabel="live sessions", ylabel="lag of the text (s)", yscale="log")
    axes.set_title(title, fontsize="small", wrap=True)
    axes.legend()
    figure.savefig(path, dpi=120)


def compare_table(ours: list[Step], theirs: list[Step], name: str) -> str:
    """Milliseconds of the steps of two engines, and those of the second over those of the first."""
    rows = []
    left, right = _parts(ours), _parts(theirs)
    for part, value in left.items():
        rows.append([part, f"{value:.1f}", f"{right[part]:.1f}", f"{right[part] / value:.2f}" if value else ""])
    return table(["ms", "this", name, "ratio"], rows)


def _parts(steps: list[Step]) -> dict[str, float]:
    audio = sum(step.audio for step in steps)
    times = [step.seconds for step in steps]
    parts = {
        name: sum(one.seconds for step in steps for one in step.passes if one.kind == kind)
        for kind, name in PARTS.items()
    }
    parts[BETWEEN] = sum(times) - sum(parts.values())
    return {
        "a second of audio": 1000 * sum(times) / audio,
        **{f"… {name}": 1000 * seconds / audio for name, seconds in parts.items()},
        "chunk to text, p50": 1000 * quantile(times, 0.5),
        "chunk to text, p95": 1000 * quantile(times, 0.95),
    }
