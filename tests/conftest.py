"""What all tests share: where the repository is, and what becomes of a missing program."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.network import Canary
from tests.support.rate_clock import Clock

# A deadline for each example would fail on a busy machine; pytest-timeout ends a test that hangs.
settings.register_profile("qwen_asr", deadline=None)
settings.load_profile("qwen_asr")

REPOSITORY = Path(__file__).parents[1]
collect_ignore = ["clients"]  # other people's programs, which only `scripts/clients` installs and runs


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """`program(name)` is the path of an installed program. Without it the test skips; where CI is set it fails."""

    def find(name: str) -> str:
        # Debian keeps servers, which their owner may well start, where only root's search path leads.
        path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin")
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must have it")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option of the developer's own environment reaches a test."""
    for name in os.environ:
        others = ("SPACE_ID", "SPACES_ZERO_GPU", "GRADIO_SHARE_SERVER_ADDRESS")
        if name.startswith(("QWEN_ASR_", "OTEL_")) or name in others:
            monkeypatch.delenv(name)


@pytest.fixture
def canary() -> Iterator[Canary]:
    """A listener that what is tested must not ask."""
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all rate limits."""
    import limits.storage.memory

    from qwen_asr.service import rate_limit

    clock = Clock()
    monkeypatch.setattr(limits.storage.memory, "time", clock)
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first. Otherwise one worker of `--dist loadfile` would run them alone at the end.

    `--no-loadscope-reorder` in pyproject.toml keeps this order.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("browser"))
    items.sort(key=lambda item: slow[item.path], reverse=True)
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker("no_cover")  # the server runs in the same process, and would be half as fast


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tests do not import a file that is slow as a whole: some packages take seconds to import."""
    if "not slow" not in config.getoption("markexpr") or collection_path.suffix != ".py":
        return None
    slow = re.search(
        r"^pytestmark = \[?\s*pytest\.mark\.slow", collection_path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return True if slow else None
