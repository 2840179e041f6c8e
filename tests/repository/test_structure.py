"""The structure of the code: which package may import which, sizes of modules, and the map in docs/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.layout import PACKAGE, ROOT, imports, modules, room_of, tracked

LONGEST_MODULE = 600

# A package imports only what stands to its left. `tls`, `client` and `config` stand beside that line.
GROUND = {"errors", "network", "logs", "redaction"}
ROOMS = {
    "errors": set(),
    "network": set(),
    "logs": set(),
    "redaction": {"config"},
    "config": GROUND,
    "audio": GROUND,
    "engine": GROUND | {"audio"},
    "live": GROUND | {"config", "audio", "engine"},
    "service": GROUND | {"config", "audio", "engine", "live", "web"},
    "tls": GROUND | {"config"},
    "web": GROUND | {"config", "audio", "engine", "live", "service", "tls"},
    "client": GROUND | {"audio"},  # a program of its own, for a machine without the model
    "cli": GROUND | {"config", "audio", "engine", "live", "service", "tls", "web", "client"},
    "demo": set(),
}
TOP = {"__init__", "__main__", "api"}


def test_every_module_is_in_a_room_that_is_known_here() -> None:
    assert {room_of(path) for path in modules()} <= set(ROOMS) | TOP


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_nothing_to_its_right(path: Path) -> None:
    room = room_of(path)
    if room in TOP:
        return
    foreign = {name.split(".")[1] for name in imports(path) if name.startswith("qwen_asr.")} - {room, "__version__"}
    assert foreign <= ROOMS[room], f"{room} must not import {sorted(foreign - ROOMS[room])}"


def test_modules_stay_small() -> None:
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: size for name, size in sizes.items() if size > LONGEST_MODULE} == {}


def test_every_module_says_what_it_is() -> None:
    bare = [path.name for path in modules() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert bare == []


def test_each_ignore_carries_its_reason() -> None:
    # What follows the codes has to be more than blanks.
    bare = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[^\]]*\])?|pragma:[\w ]+)\s*$")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in (".py", ".pyi")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def test_each_ignore_in_the_configuration_carries_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    ignored = [
        line
        for line in lines
        if re.match(r'\s*("[A-Z]+\d+"|"(ignore|default)[:"]|ignore_missing|"[\w*/]+" = \["[A-Z]+\d)', line)
    ]
    assert len(ignored) > 5
    assert [line for line in ignored if "#" not in line] == []


def test_the_generated_parts_of_the_docs_are_current() -> None:
    done = subprocess.run([sys.executable, "scripts/update-docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
