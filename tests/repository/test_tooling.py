"""The scripts, and that developers, pre-commit and CI run the same checks."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.repository.layout import ROOT, tracked

SCRIPTS = [path for path in tracked() if path.parent == ROOT / "scripts" or path == ROOT / ".ci" / "run"]
PYTHON_SCRIPTS = [path for path in SCRIPTS if "python" in path.read_text(encoding="utf-8").split("\n")[0]]


def commands(name: str) -> list[str]:
    """The lines of a shell script, without comments and blank lines."""
    lines = [line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_full_test_run_and_pre_commit_run_the_checks() -> None:
    assert "scripts/check" in commands("scripts/test")
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [repository] = configured["repos"]
    [hook] = repository["hooks"]
    assert (repository["repo"], hook["entry"], hook["always_run"]) == ("local", "scripts/check", True)


def test_ci_runs_the_full_test_run() -> None:
    assert commands(".ci/run")[-1] == "scripts/test"
    workflows = [path for path in tracked() if path.parent == ROOT / ".github" / "workflows"]
    assert workflows
    for path in workflows:
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        for job in jobs.values():
            assert job["steps"][-1] == {"run": ".ci/run"}


def test_the_checks_cover_all_python() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    scripts = {str(path.relative_to(ROOT)) for path in PYTHON_SCRIPTS}
    assert scripts
    assert set(tools["ruff"]["extend-include"]) == scripts
    checked = set(tools["mypy"]["files"])
    python = {path.relative_to(ROOT) for path in tracked() if path.suffix == ".py" or path in PYTHON_SCRIPTS}
    assert [path for path in python if not checked & {str(path), *map(str, path.parents)}] == []


def test_contributing_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for command in ("scripts/check", "scripts/test --fast", ".ci/run"):
        assert command in text
    named = re.findall(r"`((?:qwen_asr|tests|docs|scripts)/[\w./-]*|[\w-]+\.(?:md|toml))", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run_and_read(path: Path) -> None:
    assert path.stat().st_mode & 0o111 == 0o111
    text = path.read_text(encoding="utf-8")
    if path in PYTHON_SCRIPTS:
        ast.parse(text)
    else:
        subprocess.run([*text.splitlines()[0].removeprefix("#!").split(), "-n", path], check=True)
