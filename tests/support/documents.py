"""The runnable blocks of the documentation: how a page marks them, and the environment that they run in.

A comment on the line before a block of `sh` or `python` says how it is run::

    <!-- run: serve -->                           each line is a server: it has to answer, and to stop when told
    <!-- run: once, prints "Turn on" -->          it has to succeed, and to print that text
    <!-- run: once, with --seconds 10 -->         the same, with arguments that make it short
    <!-- run: with server, prints "Turn on" -->   as `once`, while a server with the demo model runs, over HTTPS
    <!-- run: with http server -->                the same without HTTPS
    <!-- not run: it needs root -->               with the reason

The blocks run exactly as they stand, but for the port, which is one that is free. `scripts/test-benchmarks` runs those
of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import re
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.checkpoints import Samples, spoken

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "certs/README.md", "training/README.md")),
]
_BLOCK = re.compile(r"(?:^(?P<mark><!--[^\n]*-->)\n)?^```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.M | re.S)
_RUN = re.compile(
    r'<!-- run: (?P<how>serve|once|with(?: http)? server)(?:, with (?P<extra>[^"]*?))?(?:, prints "(?P<text>.*)")? -->'
)
_NOT_RUN = re.compile(r"<!-- not run: \S.{5,} -->")

SHIMS = {
    "python": "",
    "qwen-asr": "-m qwen_asr",
    "qwen-asr-serve-websocket": f"{ROOT / 'app.py'}",
    **{
        name: f"-c 'import sys, qwen_asr_live; sys.exit(qwen_asr_live.{function}())'"
        for name, function in (
            ("qwen-asr-demo", "demo"),
            ("qwen-asr-demo-streaming", "demo_streaming"),
            ("qwen-asr-serve", "serve_model"),
        )
    },
}
"""The commands that an installation of the package offers, and what they are without one."""


@dataclass(frozen=True)
class Block:
    """One marked block. `how` is as in the mark, or "" for a block that is not run."""

    page: str
    line: int
    language: str
    text: str
    how: str
    extra: str = ""
    prints: str = ""

    @property
    def name(self) -> str:
        """What a test run calls it."""
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order. Raises ValueError for one without a mark, or with a wrong one."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        name, line = page.relative_to(ROOT).as_posix(), text.count("\n", 0, match.start("language")) + 1
        mark = match["mark"] or ""
        run = _RUN.fullmatch(mark)
        if run is None and not _NOT_RUN.fullmatch(mark):
            raise ValueError(f"{name}:{line}: a block of {match['language']} needs a mark before it, see {__file__}")
        parts = (run["how"], run["extra"] or "", run["text"] or "") if run else ("", "", "")
        found.append(Block(name, line, match["language"], match["text"], *parts))
    return found


def make_shims(folder: Path) -> None:
    """Write the commands of `SHIMS` into a folder for PATH."""
    for name, arguments in SHIMS.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)


def environment(shims: Path, port: int) -> dict[str, str]:
    """An environment without a hub or its cache, in which the commands of `SHIMS` exist and servers take `port`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QWEN_ASR_", "HF_"))}
    return kept | {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "QWEN_ASR_PORT": str(port),
        "QWEN_ASR_MODEL_PATH": "demo",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(shims / "huggingface"),
        "OMP_NUM_THREADS": "1",
    }


def write_wave(path: Path) -> Samples:
    """Write one spoken sentence as 16-bit mono at 16 kHz; returns its int16 samples."""
    samples = (spoken("Turn on the kitchen light.") * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return np.asarray(samples)
