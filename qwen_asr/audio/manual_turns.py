"""Endpointing by the client: an utterance is everything between two commits, with voice in it or not.

For clients that decide where an utterance ends (a button, a program): no voice activity is computed and no sample is
skipped. An utterance at the length limit is cut like one that was found by voice, see `endpointing.cut_point`.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import (
    DetectorEvent,
    Ended,
    EndpointConfig,
    Speech,
    Started,
    cut_point,
    cut_span,
)


class ManualTurnDetector:
    """A `Detector` whose utterances tile the whole stream. It uses only `longest_seconds` of its settings."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._longest = round(config.longest_seconds * SAMPLE_RATE)
        self._cut_span = cut_span(self._longest)
        self._utterance = -1
        self._start = 0  # of the open utterance, in the stream
        self._length = 0  # of the open utterance, so far
        self._passed_on = 0  # samples of it that were passed on
        self._held = np.zeros(0, np.float32)  # its end, which a cut may give to the next utterance
        self._open = False

    def feed(self, samples: NDArray[np.float32], /) -> list[DetectorEvent]:
        """Take validated float32 mono 16 kHz, (n,), n >= 0; return the events that they decide, in order."""
        if not len(samples):
            return []
        events = [] if self._open else self._begin(0)
        self._held = np.concatenate((self._held, samples))
        self._length += len(samples)
        while self._length > self._longest:
            events += self._pass_on(self._longest)
            cut = cut_point(self._part(self._longest - self._cut_span, self._longest), self._longest)
            events += self._end(cut, "length")
            events += self._begin(self._length - cut)
        events += self._pass_on(self._length)
        self._held = self._part(min(self._longest - self._cut_span, self._length), self._length)
        return events

    def finish(self) -> list[DetectorEvent]:
        """No more samples follow: end the open utterance, if any. A second call returns nothing."""
        return self._end(self._length, "finish") if self._open else []

    def _part(self, begin: int, end: int) -> NDArray[np.float32]:
        """Samples [begin, end) of the open utterance, of which only the end is held."""
        base = self._length - len(self._held)
        return self._held[begin - base : end - base]

    def _begin(self, length: int) -> list[DetectorEvent]:
        """Open an utterance that already has `length` samples."""
        self._open = True
        self._utterance += 1
        self._length, self._passed_on = length, 0
        return [Started(self._utterance, self._start)]

    def _pass_on(self, end: int) -> list[DetectorEvent]:
        """Pass on the open utterance up to its sample `end`."""
        begin, self._passed_on = self._passed_on, max(self._passed_on, end)
        return [Speech(self._utterance, self._part(begin, end).copy())] if end > begin else []

    def _end(self, length: int, reason: Literal["length", "finish"]) -> list[DetectorEvent]:
        self._open = False
        start, self._start = self._start, self._start + length
        return [Ended(self._utterance, start, self._start, reason)]
