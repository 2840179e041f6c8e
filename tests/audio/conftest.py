"""What the tests of the audio room share: the network once, and programs that may be missing."""

import os
import shutil
from collections.abc import Callable

import pytest

from qwen_asr.audio.vad import Silero


@pytest.fixture(scope="session")
def silero() -> Silero:
    return Silero()


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """Skip aloud when a program is missing; where CI is set, fail."""

    def check(program: str) -> None:
        if shutil.which(program) is None:
            message = f"{program} is not installed: run `apt-get install {program}`"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)

    return check
