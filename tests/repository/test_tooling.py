"""The scripts, and that developers, pre-commit and CI run the same checks."""

from __future__ import annotations

import subprocess

import pytest

from tests.repository.layout import ROOT


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_command_that_the_readme_names() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert command in [line.strip() for line in readme().splitlines()]


@pytest.mark.parametrize("name", ["scripts/install", "scripts/run", "scripts/test", "scripts/check-tls", ".ci/run"])
def test_scripts_can_be_run_and_read(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111 == 0o111
    shell = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").split()
    subprocess.run([*shell, "-n", path], check=True)
