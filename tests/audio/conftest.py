"""Fixtures for the tests of `qwen_asr.audio`: the voice activity network, and programs that may be missing."""

import os
import shutil
from collections.abc import Callable

import pytest

from qwen_asr.audio.vad import Silero


@pytest.fixture(scope="session")
def silero() -> Silero:
    return Silero()


@pytest.fixture(scope="session")
def one_window() -> Silero:
    """The network with one window a call: chunked equals whole bit for bit on any processor."""
    return Silero(max_windows=1)


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """`needs(name)` skips the test with a message when a program is missing; where CI is set, it fails."""

    def check(program: str) -> None:
        if shutil.which(program) is None:
            message = f"{program} is not installed: run `apt-get install {program}`"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)

    return check
