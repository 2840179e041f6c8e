"""`Speed`: how fast a recording becomes text while speech waits for the recognizer."""

from __future__ import annotations

from collections import deque

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Final, Partial, TextEvent

WINDOW_SECONDS = 30.0
"""Only what happened this recently counts: the load of the server changes."""
WAITING_SECONDS = 0.5
"""With less speech waiting than this, the recognizer may be waiting for the speaker, which says nothing about it."""
SHORTEST_SECONDS = 2.0
"""A measurement over less time says little: a step may cover seconds of speech at once."""


class Speed:
    """The real-time factor of a recording, as its speaker meets it.

    It is the seconds of speech that got their text for each second of wall time in which speech was waiting for text:
    the device's speed on this recording, shared with all others that it serves meanwhile. Below 1.0 the text falls
    behind a speaker who does not pause. A second between two events counts if at least `WAITING_SECONDS` of speech
    waited from its beginning, so pauses and a recognizer that waits for the speaker do not count. Speech that is
    decoded again counts once. It reads no clock: `now` is in seconds.
    """

    def __init__(self) -> None:
        self._measured: deque[tuple[float, float, float]] = deque()  # (when, seconds of speech, seconds that passed)
        self._waiting_since: float | None = None  # the last event, if speech waited after it
        self._covered: dict[int, int] = {}  # the end of the text of each open utterance, in samples

    def take(self, event: TextEvent, now: float) -> None:
        """Takes the next event of the session."""
        spoken = 0.0
        if isinstance(event, Partial | Final):
            spoken = (event.end - self._covered.get(event.utterance, event.start)) / SAMPLE_RATE
        if isinstance(event, Partial):
            self._covered[event.utterance] = event.end
        else:
            self._covered.pop(event.utterance, None)
        if self._waiting_since is not None:
            self._measured.append((now, spoken, now - self._waiting_since))
        self._waiting_since = now if event.lag >= WAITING_SECONDS else None

    def value(self, now: float) -> float | None:
        """Seconds of speech for each second that passed, in the last `WINDOW_SECONDS`. None: too little was waiting."""
        while self._measured and now - self._measured[0][0] > WINDOW_SECONDS:
            self._measured.popleft()
        passed = sum(seconds for _, _, seconds in self._measured)
        if passed < SHORTEST_SECONDS:
            return None
        return max(0.0, sum(spoken for _, spoken, _ in self._measured)) / passed
