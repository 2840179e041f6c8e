"""`Pacing`: when an open utterance is decoded again, and how often its audio is read meanwhile.

It reads no clock: in a live stream, received audio is time.
"""

from __future__ import annotations

from qwen_asr.audio import SAMPLE_RATE

SHORTEST_CHUNK = SAMPLE_RATE // 5
"""Samples: a shorter chunk rarely holds a new word, and its text would hardly be seen earlier."""
LARGEST_SHARE = 0.6
"""How much of the time the steps of one session may take. The rest is for other sessions and for the final steps."""
LONGEST_REST = 2 * SAMPLE_RATE
"""Samples. A client that sends a backlog at once makes a short step look long, and must not wait long for its text."""
LONGEST_GATHERING = SAMPLE_RATE // 2
"""Samples. While they gather, the end of an utterance is not noticed."""


class Pacing:
    """Decides when a partial step is due. `received` counts all samples of the session, silence too.

    chunk_seconds: the new audio that makes a step due. None: 0.2 s do, but after a step the device has a rest. The
    audio that arrived during the step is its duration `d`, and the next one begins `d / LARGEST_SHARE` after it began.
    So a fast device updates the text five times a second, and on a slow or busy one the chunks grow by themselves.
    """

    def __init__(self, chunk_seconds: float | None) -> None:
        self._automatic = chunk_seconds is None
        self._chunk = SHORTEST_CHUNK if chunk_seconds is None else max(1, round(chunk_seconds * SAMPLE_RATE))
        self._submitted = 0  # `received` when the last step was submitted
        self._began = 0  # and when the device began it
        self._took = 0
        self._rest_until = 0

    @property
    def gathering(self) -> int:
        """How many samples may gather before they are fed while a step is under way: half of what the last one took.

        Each time that audio is fed, voice detection and a change of threads take time from the model. On a busy device
        a step takes long, and the next one needs the audio only when this one has ended.
        """
        return min(self._took // 2, LONGEST_GATHERING)

    def submitted(self, received: int) -> None:
        """A step waits for the device."""
        self._submitted = self._began = received

    def began(self, received: int) -> None:
        """The device begins that step."""
        self._began = received

    def ended(self, received: int) -> None:
        """That step has ended."""
        self._took = received - self._submitted
        duration = received - self._began
        self._rest_until = received + min(round(duration * (1 / LARGEST_SHARE - 1)), LONGEST_REST)

    def is_due(self, new: int, received: int) -> bool:
        """Whether a partial step is due for `new` samples of an utterance that no step has covered."""
        return new >= self._chunk and (not self._automatic or received >= self._rest_until)
