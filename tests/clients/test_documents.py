"""The programs in docs/clients.md run as they stand, but for the port."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clients import ROOT, ClientServer, Speech, words

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(
    r"^<!-- not run: scripts/clients runs it, with its own packages -->\n```python\n(.*?)^```$", PAGE, re.M | re.S
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split()[1])
def test_a_program_runs(program: str, server: ClientServer, speech: Speech, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").symlink_to(speech.wav(16_000))
    text = program.replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert words(done.stdout) == speech.words * program.count("print(")


def test_all_programs_are_found() -> None:
    assert len(PROGRAMS) == 4
