"""Endpointing: where each utterance begins and ends, to the sample.

A stream is cut into utterances and skipped ranges that tile it exactly: no sample is lost or used twice. What is
decided depends on the samples alone, not on how they came in pieces, because every decision is made at the end of
a 32 ms window, at its absolute position.

States: SILENCE (what is older than the pre-roll is skipped, window by window), MAYBE (voice was heard, not yet
enough to count as speech), SPEECH (an utterance is open and its samples are handed on as they come).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.resample import to_mono
from qwen_asr.audio.vad import WINDOW
from qwen_asr.errors import BadConfig

# A word is longer than its voiced part: of a "Stop." of 0.39 s Silero reports 0.19 s, since the consonants around
# the vowel do not count. So this share of `min_speech_seconds`, reported as voice, is enough.
VOICED_SHARE = 0.5
# Voice ends where the probability falls this far below the threshold (Silero's own hysteresis).
HYSTERESIS = 0.15
# At the length limit the cut is looked for in this many last seconds, at the quietest 0.2 s.
CUT_SECONDS = 3.0
_HOP = 160  # 10 ms
_QUIET_HOPS = 20


@dataclass(frozen=True)
class EndpointConfig:
    """How utterances are found. Raises `BadConfig` for a value out of its range.

    threshold: probability (0..1) from which a window counts as voice.
    silence_seconds: this much without voice ends the utterance.
    min_speech_seconds: a burst shorter than this is no utterance; see `VOICED_SHARE`.
    longest_seconds: no utterance is longer; it is cut at the quietest point of its last seconds.
    pre_roll_seconds: an utterance begins this much before its first voice.
    hang_over_seconds: and ends this much after its last, at most `silence_seconds`.
    """

    threshold: float = 0.5
    silence_seconds: float = 0.8
    min_speech_seconds: float = 0.3
    longest_seconds: float = 30.0
    pre_roll_seconds: float = 0.3
    hang_over_seconds: float = 0.3

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0.01, 0.99),
            ("silence_seconds", 0.05, 60.0),
            ("min_speech_seconds", 0.0, 60.0),
            ("longest_seconds", 1.0, 3600.0),
            ("pre_roll_seconds", 0.0, 60.0),
            ("hang_over_seconds", 0.0, 60.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadConfig(f"{name} is {value}; expected a number from {low:g} to {high:g}.")
        if self.pre_roll_seconds > self.longest_seconds / 2:
            raise BadConfig(
                f"pre_roll_seconds is {self.pre_roll_seconds}; expected at most half of longest_seconds, "
                f"{self.longest_seconds / 2:g}."
            )


@dataclass(frozen=True)
class Started:
    """Utterance number `utterance` (0, 1, 2 … in the stream) begins at sample `start`."""

    utterance: int
    start: int


@dataclass(frozen=True, eq=False)
class Speech:
    """The next samples of the open utterance: float32 (n,), n >= 1."""

    utterance: int
    samples: NDArray[np.float32]


@dataclass(frozen=True)
class Ended:
    """The utterance is the samples [start, end). With the reason "length" more may have been handed on: forget them."""

    utterance: int
    start: int
    end: int
    reason: Literal["silence", "length", "finish"]


@dataclass(frozen=True)
class Skipped:
    """The samples [start, end) belong to no utterance."""

    start: int
    end: int


Event = Started | Speech | Ended | Skipped


class Detector(Protocol):
    """What a session needs of whoever finds its utterances; `UtteranceDetector` says what the events have to be."""

    @property
    def config(self) -> EndpointConfig:
        """How they are found; of `longest_seconds` the session takes when no more may settle."""

    def feed(self, samples: NDArray[np.float32], /) -> Sequence[Event]: ...

    def finish(self) -> Sequence[Event]: ...


class Voice(Protocol):
    """What the detector needs of a `VoiceActivity`: a probability for each completed window of 512 samples."""

    def feed(self, samples: NDArray[np.float32], /) -> NDArray[np.float32]: ...


class _State(Enum):
    SILENCE = auto()
    MAYBE = auto()
    SPEECH = auto()


class UtteranceDetector:
    """Finds the utterances of one stream of float32 mono 16 kHz samples.

    The ranges of all `Ended` and `Skipped`, which come in order, tile [0, position) once `finish` was called. An
    utterance gives `Started`, `Speech` …, `Ended`; its `Speech` blocks, cut to ``end - start`` samples, are it.
    """

    def __init__(self, config: EndpointConfig, voice: Voice) -> None:
        self.config = config
        self._voice = voice
        self._voiced_enough = max(1, _samples(config.min_speech_seconds * VOICED_SHARE))
        self._silence = _samples(config.silence_seconds)
        self._hang_over = min(_samples(config.hang_over_seconds), self._silence)
        self._pre_roll = _samples(config.pre_roll_seconds)
        self._longest = _samples(config.longest_seconds)
        # At most half of an utterance is looked through, so that each cut leaves a good piece behind it.
        self._cut_span = min(_samples(CUT_SECONDS), self._longest // 2)
        self._tape = _Tape()
        self._state = _State.SILENCE
        self._speaking = False  # of the last window
        self._heard = 0  # end of the last window that was judged
        self._settled = 0  # all before it is in an Ended or Skipped; where an utterance is open, its start
        self._handed = 0  # end of what was handed on of the open utterance
        self._voiced = 0  # samples with voice since the first of them
        self._voice_end = 0  # end of the last window with voice
        self._utterance = -1
        self._finished = False

    @property
    def position(self) -> int:
        """Samples fed so far."""
        return self._tape.end

    @property
    def quiet(self) -> bool:
        """Whether no utterance is open, and none may be about to begin."""
        return self._state is _State.SILENCE

    def feed(self, samples: NDArray[np.float32]) -> list[Event]:
        """Take samples (n,), n >= 0; return what they decide, in order. Raises `AudioError` for NaN or infinity."""
        if self._finished:
            raise RuntimeError("this detector was finished; make a new one for a new stream")
        samples = to_mono(samples)  # also refuses NaN, which would stay in the network's state for good
        self._tape.append(samples)
        events: list[Event] = []
        for probability in self._voice.feed(samples).tolist():
            self._speaking = probability >= self.config.threshold or (
                self._speaking and probability >= self.config.threshold - HYSTERESIS
            )
            events += self._window(self._heard + WINDOW)
        if self._state is _State.SPEECH:
            events += self._hand_on(self.position)
        self._forget()
        return events

    def finish(self) -> list[Event]:
        """No more samples: end the open utterance, skip the rest. A second call returns nothing."""
        if self._finished:
            return []
        self._finished = True
        events: list[Event] = []
        if self.position > self._heard:
            events += self._window(self.position)  # the incomplete window goes on as the one before it was
        if self._state is _State.MAYBE and self._speaking:
            events += self._open()  # stopped in the middle of a word: nobody knows how long it would have been
        if self._state is _State.SPEECH:
            events += self._close(min(self.position, self._voice_end + self._hang_over), "finish")
        events += self._skip(self.position)
        self._forget()
        return events

    def _window(self, end: int) -> list[Event]:
        """Judge the window that ends at `end` by `_speaking`."""
        begin, self._heard = self._heard, end
        events: list[Event] = []
        if self._speaking:
            if self._state is _State.SILENCE:
                events += self._skip(begin - self._pre_roll)
                self._state, self._voiced = _State.MAYBE, 0
            self._voiced += end - begin
            self._voice_end = end
        long = end - self._settled >= self._longest
        quiet = end - self._voice_end >= self._silence
        if self._state is _State.MAYBE:
            # At the length limit nothing more may be waited for; what little voice there was is not dropped.
            if self._voiced >= self._voiced_enough or long:
                events += self._open()
            elif quiet:
                self._state = _State.SILENCE
        if self._state is _State.SPEECH:
            if long:
                events += self._cut()
            elif quiet:
                events += self._close(self._voice_end + self._hang_over, "silence")
        if self._state is _State.SILENCE:
            events += self._skip(end - self._pre_roll)
        return events

    def _open(self) -> list[Event]:
        """Begin an utterance where the last settled range ended."""
        self._state = _State.SPEECH
        self._utterance += 1
        self._handed = self._settled
        return [Started(self._utterance, self._settled)]

    def _close(self, end: int, reason: Literal["silence", "length", "finish"]) -> list[Event]:
        """End the open utterance at `end`."""
        events = self._hand_on(end)
        events.append(Ended(self._utterance, self._settled, end, reason))
        self._state, self._settled = _State.SILENCE, end
        return events

    def _cut(self) -> list[Event]:
        """End the utterance at the quietest point before the length limit; what is behind it begins the next."""
        limit = self._settled + self._longest
        begin = limit - self._cut_span
        cut = begin + quietest(self._tape[begin:limit])
        if self._voice_end <= cut:  # only silence is behind it: no utterance of its own
            return self._close(min(limit, self._voice_end + self._hang_over), "length")
        return [*self._close(cut, "length"), *self._open()]

    def _hand_on(self, end: int) -> list[Event]:
        """Hand on the open utterance up to `end`, but neither silence that may end it nor more than the longest."""
        end = min(end, self._voice_end + self._hang_over, self._settled + self._longest)
        if end <= self._handed:
            return []
        begin, self._handed = self._handed, end
        return [Speech(self._utterance, self._tape[begin:end])]

    def _skip(self, end: int) -> list[Event]:
        """Settle what lies before `end` as skipped."""
        if end <= self._settled:
            return []
        begin, self._settled = self._settled, end
        return [Skipped(begin, end)]

    def _forget(self) -> None:
        """Keep the samples that may still be handed on: those not yet handed, and those behind a possible cut."""
        keep = self._settled
        if self._state is _State.SPEECH:
            keep = min(self._handed, self._settled + self._longest - self._cut_span)
        self._tape.forget(keep)


class _Tape:
    """The last samples of the stream, addressed by absolute position."""

    def __init__(self) -> None:
        self._begin = 0
        self._samples = np.zeros(0, np.float32)

    @property
    def end(self) -> int:
        return self._begin + len(self._samples)

    def append(self, samples: NDArray[np.float32]) -> None:
        self._samples = np.concatenate((self._samples, samples))

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        return self._samples[part.start - self._begin : part.stop - self._begin].copy()

    def forget(self, before: int) -> None:
        self._samples = self._samples[before - self._begin :]
        self._begin = before


def quietest(samples: NDArray[np.float32]) -> int:
    """Where to cut: the middle of the quietest 0.2 s of `samples` (n,), a position in 0..n.

    Of several equally quiet places (digital silence) it is the middle of the last: the longest utterance, with
    room on both sides of the cut.
    """
    hops = len(samples) // _HOP
    if hops < _QUIET_HOPS:
        return len(samples)
    energy = np.square(samples[: hops * _HOP], dtype=np.float64).reshape(hops, _HOP).sum(axis=1)
    smooth = np.convolve(energy, np.ones(_QUIET_HOPS), "valid")
    quiet = np.flatnonzero(smooth == smooth.min())
    runs = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)
    middle = int(runs[-1][len(runs[-1]) // 2])
    return (middle + _QUIET_HOPS // 2) * _HOP


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
