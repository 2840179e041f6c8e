"""The repository itself: who imports whom, what is tracked, and that documents say what the code does."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import qwen_asr
from qwen_asr import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "qwen_asr"
LONGEST_MODULE = 600

# A package imports only what stands to its left. `tls`, `client` and `config` stand beside that line.
GROUND = {"errors", "network", "logs", "redaction"}
ROOMS = {
    "errors": set(),
    "network": set(),
    "logs": set(),
    "redaction": set(),
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


def tracked() -> list[Path]:
    """Every file that is in the repository or about to be: git's own list, ignored files aside."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


def modules(folder: Path = PACKAGE) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and folder in path.parents]


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it, by their full names."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "qwen_asr" else (module,)


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


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


# What must never be in a file that is tracked: the folders of one person's machine, and secrets.
PRIVATE = {
    "a path of one machine": r"(?<![\w.])/(?:work|root|Users|home/(?!user/))(?:/|\b/)\w",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}",
    "a token": r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{32,})",
}


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_private_is_tracked(what: str) -> None:
    pattern = re.compile(PRIVATE[what].encode())
    assert [str(path.relative_to(ROOT)) for path in tracked() if pattern.search(path.read_bytes())] == []


def test_of_the_certificates_only_the_readme_is_tracked() -> None:
    assert [path.name for path in tracked() if path.parent == ROOT / "certs"] == ["README.md"]
    assert [path for path in tracked() if path.suffix in (".pem", ".key")] == []


# --- what the documents say


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_generated_parts_of_the_docs_are_current() -> None:
    done = subprocess.run([sys.executable, "scripts/update-docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_command_that_the_readme_names() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert command in [line.strip() for line in readme().splitlines()]


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    drawn = re.findall(r"^    ([│├└─ ]*)(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE)
    above: list[str] = []
    for lines, name, rest in drawn:
        depth = len(lines) // 4
        above = [*above[:depth], name]
        kind = getattr(errors, name)
        assert [parent.__name__ for parent in reversed(kind.__mro__[:-3])] == above
        status, close, code = re.fullmatch(r"\s+(\d{3})?\s*(\d{4})?\s*(?:exit (\d))?\s.*", rest).groups()  # type: ignore[union-attr]  # a line that does not match fails here
        own = (kind.http_status, kind.close_code, kind.exit_code)
        for said, is_so in zip((status, close, code), own, strict=True):
            assert said is None or int(said) == is_so, f"{name}: {said} is drawn, {is_so} it is"
    assert [name for _, name, _ in drawn] == [kind.__name__ for kind in classes]
    assert all(kind.__doc__ for kind in classes)


# --- what is installed


def requirements(name: str) -> dict[str, str]:
    """Distribution → version, of a requirements file in which each line is pinned and has its reason."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)\s+# \S.*", line)
        assert match, f"{line!r} is not of the form name==version  # reason"
        found[match[1]] = match[2]
    return found


def test_what_is_imported_is_pinned_and_what_is_pinned_is_installed() -> None:
    pinned = requirements("requirements.txt")
    tests = requirements("requirements-test.txt")
    extras = requirements("requirements-acme.txt")
    assert len({**pinned, **tests, **extras}) == len(pinned) + len(tests) + len(extras)
    for name, version in {**pinned, **tests, **extras}.items():
        assert importlib.metadata.version(name).partition("+")[0] == version
    served = {name for path in modules() if room_of(path) != "demo" for name in imports(path)}
    anywhere = {name for path in tracked() if path.suffix == ".py" for name in imports(path)}
    assert _distributions(served) <= {*pinned, *extras}
    assert _distributions(anywhere) <= {*pinned, *extras, *tests}


def _distributions(names: set[str]) -> set[str]:
    """What has to be installed for these imports, the standard library and ourselves aside."""
    providers = importlib.metadata.packages_distributions()
    own = {"qwen_asr", "app", *(path.stem for path in tracked()), *(path.parent.name for path in tracked())}
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - own
    return {providers.get(name, [name])[0].lower().replace("_", "-") for name in outside}


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert project()["version"] == qwen_asr.__version__ == newest[1]


def test_the_console_scripts_lead_to_functions() -> None:
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    assert set(scripts) == {"qwen-asr-serve-websocket", "qwen-asr"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_image_runs_the_app_as_a_user_that_is_not_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    steps = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    users = [step[1] for step in steps if step[0] == "USER"]
    assert users
    assert not {"root", "0"} & set(users)
    assert [step[0] for step in steps].index("USER") < [step[0] for step in steps].index("COPY")
    passed_on = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for step in (step for step in steps if step[0] == "COPY"):
        for source in step[2:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in passed_on
    assert lines[-1] == 'ENTRYPOINT ["python", "app.py"]'


@pytest.mark.parametrize("name", ["scripts/install", "scripts/run", "scripts/test", "scripts/check-tls", ".ci/run"])
def test_scripts_can_be_run_and_read(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111 == 0o111
    shell = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").split()
    subprocess.run([*shell, "-n", path], check=True)
