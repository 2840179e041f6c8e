"""The structure of the code: which package may import which, sizes of modules, and the map in docs/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.repository.layout import (
    PACKAGE,
    ROOT,
    circles,
    import_graph,
    imports,
    module_name,
    modules,
    room_of,
    tracked,
)

LONGEST_MODULE = 600
MOST_FILES = 15

# A package imports only what stands to its left. `tls`, `client`, `config` and `inference` stand beside that line.
GROUND = {"errors", "network", "logs", "redaction"}
ROOMS = {
    "errors": set(),
    "network": set(),
    "logs": set(),
    "redaction": set(),
    "config": GROUND,
    "audio": GROUND,
    "engine": GROUND | {"audio"},
    "fleet": GROUND | {"config", "audio", "engine"},
    "live": GROUND | {"config", "audio", "engine", "fleet"},
    "service": GROUND | {"config", "audio", "engine", "fleet", "live"},
    "tls": {"errors", "network"},
    "web": GROUND | {"config", "audio", "engine", "fleet", "live", "service", "tls"},
    "inference": {"errors", "config", "audio", "engine", "live"},  # the Python API
    "client": {"errors", "audio"},  # a program of its own, for a machine without the model
    "cli": GROUND | {"config", "audio", "engine", "fleet", "live", "service", "tls", "web", "client"},
    "demo": set(),
}
TOP = {"__init__", "__main__"}


def test_every_module_is_in_a_room_that_is_known_here() -> None:
    assert {room_of(path) for path in modules()} <= set(ROOMS) | TOP


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_nothing_to_its_right(path: Path) -> None:
    room = room_of(path)
    if room in TOP:
        return
    foreign = {name.split(".")[1] for name in imports(path) if name.startswith("qwen_asr.")} - {room, "__version__"}
    assert foreign <= ROOMS[room], f"{room} must not import {sorted(foreign - ROOMS[room])}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    # The package itself offers names of its modules, which import its version.
    graph = {name: others - {"qwen_asr"} for name, others in import_graph().items() if name != "qwen_asr"}
    assert circles(graph) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    """A package and the packages inside it count as friends: `web/app.py` is made of `web/rest`, `web/page` …"""
    graph: dict[str, set[str]] = {}
    packages = {module_name(path.parent / "__init__.py") for path in modules()}
    for name, others in import_graph().items():
        for other in others:
            one, two = (full if full in packages else full.rpartition(".")[0] for full in (name, other))
            # Each module in the package's own folder is a room of its own.
            one, two = name if one == "qwen_asr" else one, other if two == "qwen_asr" else two
            if not (f"{one}.".startswith(f"{two}.") or f"{two}.".startswith(f"{one}.")):
                graph.setdefault(one, set()).add(two)
    assert len(graph) > 10
    assert circles(graph) == []


def test_folders_stay_small() -> None:
    counts = Counter(path.parent for path in tracked() if PACKAGE in path.parents)
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


# Tests whose subject is more than one module, with the reason.
WITHOUT_MODULE = {
    "audio/test_hostile_files.py": "decoding, with files that are made to do harm",
    "engine/test_offline.py": "the encoders of the engine, of transformers and of Qwen's package",
    "fleet/test_seam.py": "sessions on engines in other processes, with faults between them",
    "live/test_real_engine.py": "the session on the engine",
    "live/test_session_change.py": "options that change, from the session to the runner",
    "service/test_session_depth.py": "from each edge to the engine",
    "test_qwen_programs.py": "programs in the shape of the examples of Qwen's package",
    "tls/test_mistakes.py": "every mistake with certificate options, through the command line",
    "web/test_fuzz.py": "malformed requests to every route",
    "web/page/test_javascript.py": "the scripts of the page, under node",
    "web/sockets/asr/test_protocol.py": "docs/protocol.md",
    "web/sockets/asr/test_resume.py": "connection, session and registry together",
    "web/sockets/realtime/test_openai_package.py": "OpenAI's own package as the client",
    "web/transport/test_lets_encrypt.py": "certbot and Pebble against the whole server",
    "web/transport/test_uvicorn_internals.py": "what the transport modules expect of uvicorn",
}


def test_tests_mirror_the_package() -> None:
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(PACKAGE) for path in modules()}
    mirrored = [path for path in modules(tests) if path.parent.relative_to(tests) in folders]
    without = {
        str(path.relative_to(tests))
        for path in mirrored
        if path.name.startswith("test_")
        and not (PACKAGE / path.parent.relative_to(tests) / path.name.removeprefix("test_")).is_file()
    }
    assert len(mirrored) > 40
    assert without == set(WITHOUT_MODULE)


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
