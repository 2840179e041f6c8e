"""A buffer of the audio that may have to be sent again after a reconnection."""

from __future__ import annotations

from collections import deque


class ReplayBuffer:
    """The last part of a stream of samples, at most `capacity` samples. Positions count samples from 0.

    `final_until` is the end of the last final text; nothing before it is needed again. `begin` is the first sample that
    is kept: `final_until`, or later if the capacity was exceeded. `end` is the end of the stream so far.
    """

    def __init__(self, sample_bytes: int, capacity: int) -> None:
        self._sample_bytes = sample_bytes
        self._capacity = capacity
        self._blocks: deque[bytes] = deque()
        self._blocks_begin = 0  # position of the first sample in the first block; may be before `begin`
        self.begin = 0
        self.end = 0
        self.final_until = 0

    def append(self, data: bytes) -> None:
        """Adds samples, which must be complete. Discards the oldest ones beyond the capacity."""
        if not data:
            return
        self._blocks.append(data)
        self.end += len(data) // self._sample_bytes
        self._discard_before(self.end - self._capacity)

    def settle(self, position: int) -> None:
        """The text is final up to `position`, so the audio before it is discarded. Earlier positions are ignored."""
        self.final_until = min(max(self.final_until, position), self.end)
        self._discard_before(self.final_until)

    def read(self, position: int, count: int) -> bytes:
        """At most `count` samples from `position` on, with silence in place of discarded ones; empty at the end.

        Raises ValueError if `position` is not between 0 and `end`.
        """
        if not 0 <= position <= self.end:
            raise ValueError(f"There is no sample {position}; the stream has {self.end}.")
        count = min(count, self.end - position)
        discarded = min(count, max(0, self.begin - position))
        parts = [bytes(discarded * self._sample_bytes)]
        wanted = range(position + discarded, position + count)
        block_begin = self._blocks_begin
        for block in self._blocks if wanted else ():
            length = len(block) // self._sample_bytes
            low, high = max(wanted.start - block_begin, 0), min(wanted.stop - block_begin, length)
            if low < high:
                parts.append(block[low * self._sample_bytes : high * self._sample_bytes])
            block_begin += length
            if block_begin >= wanted.stop:
                break
        return b"".join(parts)

    def _discard_before(self, position: int) -> None:
        self.begin = max(self.begin, position)
        while self._blocks and self._blocks_begin + len(self._blocks[0]) // self._sample_bytes <= self.begin:
            self._blocks_begin += len(self._blocks.popleft()) // self._sample_bytes
