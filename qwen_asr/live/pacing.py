"""`Pacing`: when an open utterance is decoded again. It reads no clock: in a live stream, received audio is time."""

from __future__ import annotations

from qwen_asr.audio import SAMPLE_RATE

SHORTEST_CHUNK = SAMPLE_RATE // 5
"""Samples: a shorter chunk rarely holds a new word, and its text would hardly be seen earlier."""
LARGEST_SHARE = 0.6
"""How much of the time the steps of one session may take. The rest is for other sessions and for the final steps."""
LONGEST_REST = 2 * SAMPLE_RATE
"""Samples. A client that sends a backlog at once makes a short step look long, and must not wait long for its text."""


class Pacing:
    """Decides when a partial step is due. `received` counts all samples of the session, silence too.

    chunk_seconds: the new audio that makes a step due. None: 0.2 s do, but after a step the device has a rest. The
    audio that arrived during the step is its duration `d`, and the next one begins `d / LARGEST_SHARE` after it began.
    So a fast device updates the text five times a second, and on a slow or busy one the chunks grow by themselves.
    """

    def __init__(self, chunk_seconds: float | None) -> None:
        self._automatic = chunk_seconds is None
        self._chunk = SHORTEST_CHUNK if chunk_seconds is None else max(1, round(chunk_seconds * SAMPLE_RATE))
        self._began = 0  # `received` at the start of the last step
        self._rest_until = 0

    def began(self, received: int) -> None:
        """A step begins."""
        self._began = received

    def ended(self, received: int) -> None:
        """That step has ended."""
        duration = received - self._began
        self._rest_until = received + min(round(duration * (1 / LARGEST_SHARE - 1)), LONGEST_REST)

    def is_due(self, new: int, received: int) -> bool:
        """Whether a partial step is due for `new` samples of an utterance that no step has covered."""
        return new >= self._chunk and (not self._automatic or received >= self._rest_until)
