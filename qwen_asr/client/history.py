"""The audio that may have to be sent again: from the end of the last final to the newest sample, within a bound."""

from __future__ import annotations

from collections import deque


class History:
    """The tail of one stream of samples of `width` bytes, at most `most` samples long. Positions count samples from 0.

    `settled` is the end of the last final: nothing before it is ever needed. `begin`, which is `settled` unless the
    bound was passed, is where what is kept begins, `end` where the stream ends so far.
    """

    def __init__(self, width: int, most: int) -> None:
        self._width = width
        self._most = most
        self._blocks: deque[bytes] = deque()
        self._first = 0  # position of the first sample of the first block; a part of that may be forgotten already
        self.begin = 0
        self.end = 0
        self.settled = 0

    def append(self, data: bytes) -> None:
        """The next samples, whole ones. What then is over the bound is forgotten, the oldest first."""
        if not data:
            return
        self._blocks.append(data)
        self.end += len(data) // self._width
        self._forget_before(self.end - self._most)

    def settle(self, position: int) -> None:
        """A final ended there: what lies before is not needed any more. Positions that go back change nothing."""
        self.settled = min(max(self.settled, position), self.end)
        self._forget_before(self.settled)

    def read(self, position: int, most: int) -> bytes:
        """At most `most` samples from `position` on, none at the end; silence where they are forgotten.

        Raises ValueError for a position that is not between 0 and `end`.
        """
        if not 0 <= position <= self.end:
            raise ValueError(f"There is no sample {position}; the stream has {self.end}.")
        most = min(most, self.end - position)
        forgotten = min(most, max(0, self.begin - position))
        parts = [bytes(forgotten * self._width)]
        wanted = range(position + forgotten, position + most)
        at = self._first
        for block in self._blocks if wanted else ():
            length = len(block) // self._width
            low, high = max(wanted.start - at, 0), min(wanted.stop - at, length)
            if low < high:
                parts.append(block[low * self._width : high * self._width])
            at += length
            if at >= wanted.stop:
                break
        return b"".join(parts)

    def _forget_before(self, position: int) -> None:
        self.begin = max(self.begin, position)
        while self._blocks and self._first + len(self._blocks[0]) // self._width <= self.begin:
            self._first += len(self._blocks.popleft()) // self._width
