"""`Shares`: how much of something each address may have at once, such as bytes of uploads. No clock, thread-safe."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from qwen_asr.errors import LimitExceeded


class Shares:
    """Counts what the requests of each address hold, and gives it back when they end.

    `most` is what one address may hold, `most_in_all` what all of them may. `what` and `what_in_all` are the beginnings
    of the messages for a request that wants more, with `{most}`.
    """

    def __init__(self, most: float, what: str, most_in_all: float = math.inf, what_in_all: str = "") -> None:
        self._most, self._message = most, _message(what, most)
        self._most_in_all, self._message_in_all = most_in_all, _message(what_in_all, most_in_all)
        self._held: Counter[str] = Counter()
        self._held_in_all = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, address: str) -> Iterator[Callable[[int], None]]:
        """A request of `address`: call what this gives with each amount that the request takes.

        That raises LimitExceeded, and takes nothing, where the address, or all of them, would hold more than allowed.
        """
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            with self._lock:
                self._check(address, amount)
                self._held[address] += amount
                self._held_in_all += amount
                taken += amount

        try:
            yield take
        finally:
            with self._lock:
                self._held[address] -= taken
                self._held_in_all -= taken
                if self._held[address] <= 0:
                    del self._held[address]

    def check(self, address: str, amount: int) -> None:
        """Raises LimitExceeded if the address could not take `amount` now."""
        with self._lock:
            self._check(address, amount)

    def _check(self, address: str, amount: int) -> None:
        if self._held.get(address, 0) + amount > self._most:
            raise LimitExceeded(self._message)
        if self._held_in_all + amount > self._most_in_all:
            raise LimitExceeded(self._message_in_all)

    def __len__(self) -> int:
        return len(self._held)


def _message(what: str, most: float) -> str:
    return f"{what.format(most=f'{most:.0f}')}, the most that this server takes at once: try again later."
