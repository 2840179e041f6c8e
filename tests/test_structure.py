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
from qwen_asr.config import Config
from qwen_asr.options import option_table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qwen_asr"
LONGEST_MODULE = 400

# What each room may import of the package beside itself. Modules at the top of the package may import everything, and
# no room imports one of them, config and errors aside.
ROOMS = {
    "errors": set(),
    "options": {"errors"},
    "proxies": {"errors"},
    "checks": {"errors"},
    "config": {"checks", "errors", "options", "proxies"},
    "audio": {"config", "errors"},
    "engine": {"config", "errors", "audio"},
    "live": {"config", "errors", "audio", "engine"},
    "web": {"config", "errors", "proxies", "audio", "engine", "live", "tls"},
    "tls": {"config", "errors"},
    "client": {"config", "errors", "audio"},  # a program of its own, for a machine without the model
    "demo": {"config", "errors", "audio", "engine"},  # makes the checkpoint, of which others only read the files
}
TOP = {"__init__", "__main__", "api", "cli", "files", "progress", "stream_command"}


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
    foreign = {name.split(".")[1] for name in imports(path) if name.startswith("qwen_asr.")} - {room}
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


def between(text: str, marker: str) -> str:
    """What stands in a document between `<!-- marker -->` and `<!-- /marker -->`."""
    found = re.findall(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
    assert len(found) == 1, f"one <!-- {marker} --> … <!-- /{marker} --> is expected, {len(found)} found"
    return str(found[0]).strip("\n")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_options_of_the_code() -> None:
    assert between(readme(), "options") == option_table(Config), "run scripts/update-readme"


OPEN = ("qwen_asr", *(f"qwen_asr/{room}" for room in ("audio", "engine", "live", "web", "tls", "client")))
"""Folders whose every file the README's tree names. Of others it may name the folder only."""


def tree_entries(block: str) -> list[str]:
    """The paths in a drawn tree: a line each, two blanks a level, folders end in a slash, a comment may follow."""
    entries: list[str] = []
    above: list[str] = []
    for line in block.splitlines():
        if not line.strip() or line.startswith("```"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        assert depth <= len(above), f"{line!r} is drawn in no folder"
        name = line.split()[0]
        entries.append("".join([*above[:depth], name]))
        above = [*above[:depth], name]
    return entries


def tree_mistakes(block: str, files: list[str]) -> list[str]:
    """How a drawn tree differs from `files`, the paths that there are."""
    entries = tree_entries(block)
    folders = {
        f"{'/'.join(parts[:depth])}/" for parts in (name.split("/") for name in files) for depth in range(1, len(parts))
    }
    wrong = [f"{entry} is drawn twice" for entry in sorted(set(entries)) if entries.count(entry) > 1]
    wrong += [f"{entry} does not exist" for entry in entries if entry not in folders and entry not in files]
    unnamed = re.compile(r"(^|/)(__init__\.py|py\.typed|\.[^/]*)$")
    for path in [*files, *sorted(folders)]:
        folder = path.rstrip("/").rpartition("/")[0]
        if (folder == "" or folder in OPEN) and path not in entries and not unnamed.search(path.rstrip("/")):
            wrong.append(f"{path} is not drawn")
    return wrong


def test_the_readme_has_the_tree_of_the_code() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert tree_mistakes(between(readme(), "tree"), files) == []


def test_a_wrong_tree_is_noticed() -> None:
    files = ["app.py", "qwen_asr/cli.py", "qwen_asr/__init__.py", "qwen_asr/web/page.py", "docs/a.md", ".gitignore"]
    right = "```\napp.py   starts\nqwen_asr/\n  cli.py\n  web/   the edges\n    page.py\ndocs/\n```"
    assert tree_mistakes(right, files) == []
    assert tree_mistakes(right.replace("  cli.py\n", ""), files) == ["qwen_asr/cli.py is not drawn"]
    assert tree_mistakes(right.replace("app.py", "main.py"), files) == ["main.py does not exist", "app.py is not drawn"]
    assert tree_mistakes(right.replace("docs/\n", ""), files) == ["docs/ is not drawn"]


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
