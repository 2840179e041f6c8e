"""`Shares`: how much of something each address may have at once, such as bytes of uploads. No clock, thread-safe."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from qwen_asr.errors import LimitExceeded


class Shares:
    """Counts what the requests of each address hold, and gives it back when they end.

    `most` is what one address may hold. `what` is the beginning of the message for one that wants more, with `{most}`.
    """

    def __init__(self, most: float, what: str) -> None:
        self._most = most
        self._message = f"{what.format(most=f'{most:.0f}')}, the most that this server takes at once: try again later."
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, address: str) -> Iterator[Callable[[int], None]]:
        """A request of `address`: call what this gives with each amount that the request takes.

        That raises LimitExceeded, and takes nothing, where the address would hold more than allowed.
        """
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            with self._lock:
                if self._held.get(address, 0) + amount > self._most:
                    raise LimitExceeded(self._message)
                self._held[address] += amount
                taken += amount

        try:
            yield take
        finally:
            with self._lock:
                self._held[address] -= taken
                if self._held[address] <= 0:
                    del self._held[address]

    def check(self, address: str, amount: int) -> None:
        """Raises LimitExceeded if the address could not take `amount` now."""
        with self._lock:
            if self._held.get(address, 0) + amount > self._most:
                raise LimitExceeded(self._message)

    def __len__(self) -> int:
        return len(self._held)
