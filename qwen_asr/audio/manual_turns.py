"""Endpointing by the speaker himself: everything that is fed belongs together, whether anybody speaks in it or not.

For whoever says where his turns end (a button, a program): no voice is looked for and no sample is skipped. What is
longer than the longest utterance is cut as `api.Qwen3ASRModel.transcribe` and the detector of voice cut it, at the
quietest point of the last seconds.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import CUT_SECONDS, Ended, EndpointConfig, Event, Speech, Started, quietest


class ManualTurnDetector:
    """A `Detector` whose utterances tile the whole stream; of `config` only `longest_seconds` counts."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._longest = round(config.longest_seconds * SAMPLE_RATE)
        self._cut_span = min(round(CUT_SECONDS * SAMPLE_RATE), self._longest // 2)
        self._utterance = -1
        self._start = 0  # of the open utterance, in samples of the stream
        self._length = 0  # of the open utterance, so far
        self._handed = 0  # how much of it was handed on
        self._held = np.zeros(0, np.float32)  # its end: what may lie behind a cut
        self._open = False

    def feed(self, samples: NDArray[np.float32], /) -> list[Event]:
        """Take float32 mono 16 kHz (n,), n >= 0; return what they decide, in order."""
        if not len(samples):
            return []
        events = [] if self._open else self._begin(0)
        self._held = np.concatenate((self._held, samples))
        self._length += len(samples)
        while self._length > self._longest:
            events += self._hand_on(self._longest)
            begin = self._longest - self._cut_span
            cut = begin + quietest(self._part(begin, self._longest))
            events += self._end(cut, "length")
            events += self._begin(self._length - cut)
        events += self._hand_on(self._length)
        self._held = self._part(min(self._longest - self._cut_span, self._length), self._length)
        return events

    def finish(self) -> list[Event]:
        """No more samples: end the open utterance, if there is one. A second call returns nothing."""
        return self._end(self._length, "finish") if self._open else []

    def _part(self, begin: int, end: int) -> NDArray[np.float32]:
        """Samples [begin, end) of the open utterance, of which the end is held."""
        base = self._length - len(self._held)
        return self._held[begin - base : end - base]

    def _begin(self, length: int) -> list[Event]:
        """Open an utterance of which there are `length` samples already."""
        self._open = True
        self._utterance += 1
        self._length, self._handed = length, 0
        return [Started(self._utterance, self._start)]

    def _hand_on(self, end: int) -> list[Event]:
        """Hand on the open utterance up to its sample `end`."""
        begin, self._handed = self._handed, max(self._handed, end)
        return [Speech(self._utterance, self._part(begin, end).copy())] if end > begin else []

    def _end(self, length: int, reason: Literal["length", "finish"]) -> list[Event]:
        self._open = False
        start, self._start = self._start, self._start + length
        return [Ended(self._utterance, start, self._start, reason)]
