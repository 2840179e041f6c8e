"""A clock for the rate limits, which tests turn forward. The fixture `clock` is in tests/conftest.py."""

from __future__ import annotations

import time


class Clock:
    """Stands in for the module `time` where rates and their storage read it."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now
