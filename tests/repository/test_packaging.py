"""What is installed: pinned versions, their ranges in pyproject.toml, the version and console scripts."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import sys
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import qwen_asr
from qwen_asr.engine.hub.checkpoints import LARGE, SMALL
from tests.repository.layout import ROOT, imports, modules, room_of, tracked

PINNED = {
    "requirements.txt": ("dependencies", "server"),
    "requirements-acme.txt": ("acme",),
    "requirements-mic.txt": ("mic",),
    "requirements-ray.txt": ("ray",),
    "requirements-otel.txt": ("otel",),
    "requirements-test.txt": ("test",),
}
"""Each requirements file, and where pyproject.toml has the ranges of the same packages."""
ON_SPACES = {"spaces"}
"""What a Hugging Face Space has already, and what is imported there alone."""
CLIENTS = "requirements-clients.txt"
"""The programs of tests/clients. They are installed beside the project, not with it, so they have no ranges."""


ZERO_GPU_PYTHONS = ("3.12.12", "3.10.13")
"""What ZeroGPU has; a Space with other hardware takes any version. https://huggingface.co/docs/hub/spaces-zerogpu"""
SPACE_HARDWARE = ("cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "l40sx1", "a10g-small", "a10g-large")
"""The names of hardware that is large enough and has one GPU at most. ZeroGPU cannot be suggested."""


def requirements(name: str) -> dict[str, str]:
    """Distribution → version, of a requirements file in which each line is pinned and has its reason."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==([\w.]+)\s+# \S.*", line)
        assert match, f"{line!r} is not of the form name==version  # reason"
        found[match[1]] = match[2]
    return found


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def ranges(*groups: str) -> list[Requirement]:
    """The requirements of groups in pyproject.toml, without the extras of this project that they name."""
    declared = project()["optional-dependencies"] | {"dependencies": project()["dependencies"]}
    listed = [Requirement(line) for group in groups for line in declared[group]]
    return [requirement for requirement in listed if requirement.name != project()["name"]]


@pytest.mark.slow
def test_what_is_imported_is_pinned_and_what_is_pinned_is_installed() -> None:
    pinned = requirements("requirements.txt")
    tests = requirements("requirements-test.txt")
    extras = {**requirements("requirements-acme.txt"), **requirements("requirements-otel.txt")}
    assert len({**pinned, **tests, **extras}) == len(pinned) + len(tests) + len(extras)
    for name, version in {**pinned, **tests, **extras}.items():
        assert importlib.metadata.version(name).partition("+")[0] == version
    extras |= requirements("requirements-ray.txt")  # which scripts/test-ray installs, beside .venv
    served = {name for path in modules() if room_of(path) != "demo" for name in imports(path)}
    ours = [path for path in tracked() if path.suffix == ".py" and ROOT / "tests" / "clients" not in path.parents]
    anywhere = {name for path in ours for name in imports(path)}
    assert _unpinned(served, {*pinned, *extras, *ON_SPACES}) == set()
    assert _unpinned(anywhere, {*pinned, *extras, *tests}) == set()


def _unpinned(names: set[str], pinned: set[str]) -> set[str]:
    """Which of these imports no pinned distribution provides, the standard library and ourselves aside."""
    providers = importlib.metadata.packages_distributions()
    own = {"qwen_asr", "app", *(path.stem for path in tracked()), *(path.parent.name for path in tracked())}
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - own
    # Several distributions may share a name, such as those of OpenTelemetry.
    return {
        name for name in outside if pinned.isdisjoint(canonicalize_name(one) for one in providers.get(name, [name]))
    }


@pytest.mark.parametrize("name", PINNED)
def test_each_pinned_version_is_in_its_range(name: str) -> None:
    pinned, declared = requirements(name), ranges(*PINNED[name])
    assert sorted(pinned) == sorted(requirement.name for requirement in declared)
    outside = [requirement for requirement in declared if pinned[requirement.name] not in requirement.specifier]
    assert outside == []


def test_the_space_is_configured_for_what_is_here() -> None:
    """The front matter of the README: https://huggingface.co/docs/hub/spaces-config-reference."""
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front["sdk_version"] == requirements("requirements.txt")["gradio"]
    assert (ROOT / front["app_file"]).is_file()
    assert front["python_version"] in ZERO_GPU_PYTHONS
    assert front["python_version"] in SpecifierSet(project()["requires-python"])
    assert front["models"] == [LARGE, SMALL]
    # The whole repository, as "auto" needs it on a CPU: no list of files to keep up to date.
    assert front["preload_from_hub"] == [SMALL]
    assert front["suggested_hardware"] in SPACE_HARDWARE
    assert re.fullmatch(r"\d+[hm]", front["startup_duration_timeout"])


def locked() -> dict[str, tuple[str, str]]:
    """Distribution → version and marker, of requirements.lock, in which each has its hashes."""
    found = {}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=[a-z])", text)[1:]:
        match = re.fullmatch(
            r"([a-z0-9-]+)==(\S+)(?: ; ([^\\]+))? \\((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)\n*", entry
        )
        assert match, f"{entry.splitlines()[0]!r} is not of the form name==version ; marker, with hashes"
        found[match[1]] = match[2], match[3] or ""
    return found


NOT_LOCKED = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


def test_the_lock_has_what_is_pinned() -> None:
    """After a change of requirements.txt run scripts/update-lock."""
    versions = {name: version for name, (version, _) in locked().items()}
    pinned = requirements("requirements.txt")
    assert pinned.pop("torch")  # its builds have different hashes
    assert versions.items() >= pinned.items()
    assert [name for name in versions if NOT_LOCKED.fullmatch(name)] == []
    declared = [requirement for requirement in ranges(*PINNED["requirements.txt"]) if requirement.name != "torch"]
    assert [
        str(requirement) for requirement in declared if versions[requirement.name] not in requirement.specifier
    ] == []


def test_the_lock_is_complete() -> None:
    """pip takes it without dependencies: all that its packages need on this machine must be in it."""
    versions, missing, seen = locked(), [], set()
    todo = [Requirement(name) for name in requirements("requirements.txt")]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if NOT_LOCKED.fullmatch(name) and name != "torch":
            continue
        if name != "torch" and (name not in versions or versions[name][0] not in wanted.specifier):
            missing.append(str(wanted))
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            extras = {"", *wanted.extras}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    assert missing == []


def test_the_lock_is_what_the_image_and_the_scripts_install() -> None:
    options = "--no-deps --require-hashes -r requirements.lock"
    for name in ("Dockerfile", "scripts/install"):
        assert options in (ROOT / name).read_text(encoding="utf-8")


def test_every_requirements_file_and_extra_is_checked() -> None:
    assert {path.name for path in tracked() if path.match("requirements*.txt")} == {*PINNED, CLIENTS}
    assert len(requirements(CLIENTS)) > 5
    groups = {group for groups in PINNED.values() for group in groups}
    assert {"dependencies", *project()["optional-dependencies"]} == groups


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings in (["Unreleased", *released], released)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", heading) for heading in released)
    newest, version = Version(released[0].split()[0]), Version(qwen_asr.__version__)
    if headings == released:
        assert version == newest
    else:
        assert version.is_devrelease
        assert version > newest


def test_the_console_scripts_lead_to_functions() -> None:
    scripts = project()["scripts"]
    of_qwen = {"qwen-asr-demo", "qwen-asr-demo-streaming", "qwen-asr-serve"}
    assert set(scripts) == {"qwen-asr-serve-websocket", "qwen-asr"} | of_qwen
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


IN_README = {
    "openai": "openai {} (Python)",
    "openai, Node": "{} (Node)",
    "pipecat-ai": "pipecat {}",
    "speechrecognition": "SpeechRecognition {}",
    "huggingface-hub": "huggingface_hub {}",
}
"""How the README names a client, where it is not as docs/clients.md does."""


def test_the_docs_name_the_versions_of_the_clients_that_run() -> None:
    package = json.loads((ROOT / "tests" / "clients" / "node" / "package.json").read_text(encoding="utf-8"))
    node = package["dependencies"]
    pinned = requirements(CLIENTS) | {"AI SDK": node["ai"], "openai, Node": node["openai"]}
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    rows = re.findall(r"^\| \[([\w -]+)\]\(\S+?\)(, Node)?.*? \| ([\d.]+) \|", page, re.M)
    assert len(rows) == 11
    for title, on_node, version in rows:
        name = title + on_node if title + on_node in pinned else canonicalize_name(title)
        assert pinned[name] == version
        parts = 1 if title == "AI SDK" else 2
        assert IN_README.get(name, f"{name} {{}}").format(".".join(version.split(".")[:parts])) in readme
