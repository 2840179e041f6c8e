"""Turns that the client ends: what goes to the recognizer is the part with voice in it, generously measured.

For clients that decide where a turn ends (a button, a program). They send silence and noise too, from the opening of a
microphone to the press of a button, in which the model may lose a short sentence. So a turn is searched for voice, with
a low threshold and long margins: only what lies well before, after and between the voice is skipped.

A search may miss what the model would recognize, such as a whisper. So a turn in which no voice is found is one
utterance from its first to its last sample, unless it is longer than the longest utterance.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import (
    DetectorEvent,
    Ended,
    EndpointConfig,
    Speech,
    Started,
    UtteranceDetector,
    VoiceModel,
)

THRESHOLD = 0.3
"""Voice begins at this probability, where the setting is higher. Noise stays below 0.15, at which voice ends then."""
MARGIN_SECONDS = 0.8
"""An utterance begins this long before its first voice and ends this long after its last."""
PAUSE_SECONDS = 3.0
"""A pause of this length ends an utterance within the turn. Speakers who think make shorter ones."""


def turn_endpoints(config: EndpointConfig) -> EndpointConfig:
    """The settings with which a client's turn is searched. Of `config` it keeps `longest_seconds`."""
    return replace(
        config,
        threshold=min(config.threshold, THRESHOLD),
        silence_seconds=PAUSE_SECONDS,
        min_speech_seconds=0.0,
        pre_roll_seconds=min(MARGIN_SECONDS, config.longest_seconds / 2),
        hang_over_seconds=MARGIN_SECONDS,
    )


class ManualTurnDetector:
    """A `Detector` for one turn, from the first sample to `finish`.

    Its events tile the turn as those of an `UtteranceDetector` tile a stream. Until voice is found it returns nothing
    and keeps the samples, at most those of one utterance of `longest_seconds`.
    """

    def __init__(self, config: EndpointConfig, voice: VoiceModel) -> None:
        self.config = turn_endpoints(config)
        self._detector = UtteranceDetector(self.config, voice)
        self._longest = round(config.longest_seconds * SAMPLE_RATE)
        self._searching = True  # no voice so far, and not longer than one utterance
        self._skipped: list[DetectorEvent] = []  # what the detector has skipped meanwhile
        self._kept: list[NDArray[np.float32]] = []  # all samples meanwhile

    def feed(self, samples: NDArray[np.float32], /) -> Sequence[DetectorEvent]:
        """Take validated float32 mono 16 kHz, (n,), n >= 0; return the events that they decide, in order."""
        events = self._detector.feed(samples)
        if not self._searching:
            return events
        self._kept.append(samples)
        self._skipped += events
        if any(isinstance(event, Started) for event in events) or self._detector.position > self._longest:
            return self._found()
        return []

    def finish(self) -> Sequence[DetectorEvent]:
        """The turn ends here. A second call returns nothing."""
        events = self._detector.finish()
        if not self._searching:
            return events
        self._skipped += events
        if any(isinstance(event, Started) for event in events) or not self._detector.position:
            return self._found()
        self._searching = False
        whole = np.concatenate(self._kept)
        self._kept, self._skipped = [], []
        return [Started(0, 0), Speech(0, whole), Ended(0, 0, len(whole), "finish")]

    def set_silence(self, seconds: float) -> None:
        """Does nothing: the client ends the turn, not a pause (`PAUSE_SECONDS`)."""

    def _found(self) -> list[DetectorEvent]:
        """The search is over: everything that it has found so far."""
        self._searching = False
        events, self._skipped, self._kept = self._skipped, [], []
        return events
