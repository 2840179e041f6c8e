"""Fixtures for the tests of `qwen_asr.audio`: the voice activity network, and a check for required programs."""

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
    """The network with one window per call: chunked and whole results are bit-identical on any processor."""
    return Silero(max_windows=1)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], None]:
    """`require_program(name)` skips the test if a program is missing, or fails it if CI is set."""

    def check(program: str) -> None:
        if shutil.which(program) is None:
            message = f"{program} is not installed: run `apt-get install {program}`"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)

    return check
