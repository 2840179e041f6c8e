"""Recognizes live audio whose sample rate is not the announced one, by how fast it arrives. Reads no clock itself."""

from __future__ import annotations

from collections import deque

import numpy as np

USUAL_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""The sample rates of microphones, browsers and telephones, in Hz."""
_SECONDS = 10.0  # how long the pace must be steady
_STEP_SECONDS = 0.2  # between two looks, so that a stream of short messages costs no more than one of long ones
_PAUSE_SECONDS = 1.0  # a longer gap ends what was steady
_TOLERANCE = 0.015  # clocks are more exact; a sender that sleeps between its messages is seldom so near to a usual rate
_JITTER_SECONDS = 0.3  # of arrival; longer blocks than this say nothing


class ArrivalRate:
    """Watches when the samples of a stream come that was announced with `rate`. Files come at any speed, live audio at
    its own: 48 kHz that is announced as 16 kHz comes three times as fast as it lasts.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._points = deque[tuple[float, int]]()  # when, and how many samples had come
        self._warned = False

    def warning(self, received: int, now: float, waited: bool) -> str | None:
        """What to tell the client about the audio that came until `now`, once; None if it is as announced.

        `waited`: the client waits for the server, so the pace of what follows says nothing.
        """
        if self._warned:
            return None
        if waited:
            self.restart()
            return None
        likely = self.feed(received, now)
        self._warned = likely is not None
        return rate_sentence(self._rate, likely) if likely is not None else None

    def feed(self, received: int, now: float) -> int | None:
        """`received` samples have come until `now`, in seconds. The likely sample rate in Hz, where it is another.

        None while it is not clear: the pace is not steady for ten seconds, or it is that of no usual rate.
        """
        points = self._points
        if points and now - points[-1][0] > _PAUSE_SECONDS:
            points.clear()
        if points and now - points[-1][0] < _STEP_SECONDS:
            return None
        points.append((now, received))
        if now - points[0][0] < _SECONDS:
            return None
        times, samples = np.array(points, np.float64).T
        points.popleft()
        slope, begin = np.polyfit(times - times[0], samples, 1)
        if slope <= 0 or np.abs(samples - begin - slope * (times - times[0])).max() > _JITTER_SECONDS * slope:
            return None
        nearest = min(USUAL_RATES, key=lambda usual: abs(usual / slope - 1))
        is_other = abs(nearest / self._rate - 1) > 5 * _TOLERANCE and abs(slope / self._rate - 1) > 5 * _TOLERANCE
        return nearest if is_other and abs(nearest / slope - 1) < _TOLERANCE else None

    def restart(self) -> None:
        """Forget the pace: what comes next waited for the server, not for the microphone."""
        self._points.clear()


def rate_sentence(announced: int, likely: int) -> str:
    """What to tell the client about a stream that comes at another rate than it announced, both in Hz."""
    return (
        f"The audio was announced with {announced} samples a second, but comes with {likely}: if it is live, announce "
        f"{likely} Hz, or convert it; otherwise it is heard at the wrong speed. Two channels count twice: send one."
    )
