"""How many frames a WebSocket connection may send: a budget that fills up with time. No clock: time is passed in."""

from __future__ import annotations

from qwen_asr.config.limits import SocketLimits


class Budget:
    """So many units a second, of which those of `burst_seconds` can be saved up."""

    def __init__(self, per_second: float, burst_seconds: float) -> None:
        self._per_second = per_second
        self._most = self._left = per_second * burst_seconds
        self._at = 0.0

    def left(self, now: float) -> float:
        """The units left at `now`, a monotonic time in seconds. Below zero, more were spent than there were."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._per_second)
        self._at = max(now, self._at)
        return self._left

    def is_full(self, now: float) -> bool:
        """Whether nothing was spent for a while."""
        return self.left(now) >= self._most

    def spend(self, units: int, now: float) -> None:
        """Spends units, whether they are left or not."""
        self.left(now)
        self._left -= units

    def seconds_until_left(self, now: float) -> float:
        """How long it takes until something is left; 0 if it is."""
        return max(0.0, -self.left(now)) / self._per_second


class FrameBudget:
    """The frames of one connection.

    Each costs time of the event loop, on which all connections wait. Those that carry nothing (pings, pongs, empty
    frames) have a budget of their own, far smaller: a client needs a few in a minute.
    """

    def __init__(self, limits: SocketLimits) -> None:
        self._all = Budget(limits.frames_per_second, limits.burst_seconds)
        self._empty = Budget(limits.empty_frames_per_second, limits.burst_seconds)
        self._flood_seconds = limits.flood_seconds
        self._over_since: float | None = None

    def spend(self, frames: int, empty: int, now: float) -> None:
        """Counts frames that have arrived; `empty` of them carry nothing."""
        if self._empty.is_full(now):
            self._over_since = None
        self._all.spend(frames, now)
        self._empty.spend(empty, now)
        if self._over_since is None and self._empty.left(now) < 0:
            self._over_since = now

    def pause(self, now: float) -> float:
        """Seconds for which nothing more should be read from the connection; 0 within the budget."""
        return max(self._all.seconds_until_left(now), self._empty.seconds_until_left(now))

    def is_flood(self, now: float) -> bool:
        """Whether the client has sent too many frames that carry nothing for so long that it will not stop.

        Frames with content never count as a flood: a client with a whole file sends as fast as it is read.
        """
        if self._over_since is None or self._empty.left(now) >= 0:
            return False
        return now - self._over_since > self._flood_seconds
