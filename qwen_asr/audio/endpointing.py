"""Endpointing: splits a stream into utterances, with sample-exact start and end.

A stream is split into utterances and skipped ranges that tile it: no sample is lost or used twice. The result depends
on the samples only, not on the pieces they come in, because each decision is made at the end of a 32 ms window, at its
absolute position.

States: SILENCE (what is older than the pre-roll is skipped, window by window), CANDIDATE (voice was found, but not yet
enough to count as speech), SPEECH (an utterance is open, and its samples are passed on as they arrive).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.vad import WINDOW
from qwen_asr.errors import BadConfig

# A word is longer than its voiced part: of a "Stop." of 0.39 s Silero reports 0.19 s, because the consonants around
# the vowel do not count. So this share of `min_speech_seconds`, reported as voice, is enough.
VOICED_SHARE = 0.5
# Voice ends where the probability falls this far below the threshold (the value that Silero's own iterator uses).
HYSTERESIS = 0.15
CUT_SECONDS = 3.0
"""An utterance at the length limit is cut in its last seconds, this many, at the quietest 0.2 s."""
_HOP = 160  # 10 ms
_QUIET_HOPS = 20


@dataclass(frozen=True)
class EndpointConfig:
    """Settings of endpointing. Raises `BadConfig` for a value out of its range.

    threshold: probability from which a window counts as voice, 0.01 to 0.99.
    silence_seconds: an utterance ends after this long without voice, 0.05 to 60.
    min_speech_seconds: a sound shorter than this is no utterance, 0 to 60; see `VOICED_SHARE`.
    longest_seconds: a longer utterance is cut at the quietest point of its last seconds, 1 to 3600.
    pre_roll_seconds: an utterance starts this long before its first voice, 0 to half of `longest_seconds`.
    hang_over_seconds: an utterance ends this long after its last voice, 0 to 60, at most `silence_seconds`.
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
    """Utterance number `utterance` (0, 1, 2 … in the stream) starts at sample `start`."""

    utterance: int
    start: int


@dataclass(frozen=True, eq=False)
class Speech:
    """The next samples of the open utterance: float32 (n,), n >= 1."""

    utterance: int
    samples: NDArray[np.float32]


@dataclass(frozen=True)
class Ended:
    """The utterance is the samples [start, end). With the reason "length", drop any `Speech` samples beyond `end`."""

    utterance: int
    start: int
    end: int
    reason: Literal["silence", "length", "finish"]


@dataclass(frozen=True)
class Skipped:
    """The samples [start, end) are in no utterance."""

    start: int
    end: int


DetectorEvent = Started | Speech | Ended | Skipped


class Detector(Protocol):
    """What a session needs from a detector. `UtteranceDetector` documents the order of the events."""

    @property
    def config(self) -> EndpointConfig:
        """The settings. The session reads `longest_seconds`: text near the length limit does not settle."""

    def feed(self, samples: NDArray[np.float32], /) -> Sequence[DetectorEvent]:
        """Take validated float32 mono 16 kHz, (n,), n >= 0."""

    def finish(self) -> Sequence[DetectorEvent]:
        """No more samples follow."""

    def set_silence(self, seconds: float) -> None:
        """Changes `silence_seconds` for the utterances that have not begun. Raises `BadConfig`."""


class VoiceModel(Protocol):
    """What the detector needs from a `VoiceActivity`: a probability for each completed window of 512 samples."""

    def feed(self, samples: NDArray[np.float32], /) -> NDArray[np.float32]: ...


class _State(Enum):
    SILENCE = auto()
    CANDIDATE = auto()
    SPEECH = auto()


class UtteranceDetector:
    """Finds the utterances of one stream by voice activity.

    The ranges of all `Ended` and `Skipped` come in order, and after `finish` they tile [0, position). An utterance
    gives `Started`, any number of `Speech`, and `Ended`. Its samples are those of the `Speech` events, up to
    ``end - start``.
    """

    def __init__(self, config: EndpointConfig, voice: VoiceModel) -> None:
        self._apply(config)
        self._next_config = config
        self._voice = voice
        self._voiced_enough = max(1, _samples(config.min_speech_seconds * VOICED_SHARE))
        self._pre_roll = _samples(config.pre_roll_seconds)
        self._longest = _samples(config.longest_seconds)
        self._cut_span = cut_span(self._longest)
        self._buffer = _SampleBuffer()
        self._state = _State.SILENCE
        self._speaking = False  # in the last window
        self._judged = 0  # end of the last window that was judged
        # Everything before it is in an Ended or Skipped. The start of the open utterance, if there is one.
        self._decided_until = 0
        self._passed_on = 0  # end of the samples of the open utterance that were passed on
        self._voiced = 0  # samples with voice since the first voice of the utterance
        self._voice_end = 0  # end of the last window with voice
        self._utterance = -1
        self._finished = False

    def _apply(self, config: EndpointConfig) -> None:
        self.config = config
        self._silence = _samples(config.silence_seconds)
        self._hang_over = min(_samples(config.hang_over_seconds), self._silence)

    @property
    def position(self) -> int:
        """Samples fed so far."""
        return self._buffer.end

    @property
    def quiet(self) -> bool:
        """Whether no utterance is open, and no voice was found that may start one."""
        return self._state is _State.SILENCE

    def feed(self, samples: NDArray[np.float32]) -> list[DetectorEvent]:
        """Take validated float32 mono 16 kHz, (n,), n >= 0; return the events that they decide, in order.

        NaN and infinity must not get here: they would stay in the network's state.
        """
        if self._finished:
            raise RuntimeError("This detector is finished: make a new one for a new stream.")
        self._buffer.append(samples)
        events: list[DetectorEvent] = []
        for probability in self._voice.feed(samples).tolist():
            self._speaking = probability >= self.config.threshold or (
                self._speaking and probability >= self.config.threshold - HYSTERESIS
            )
            events += self._window(self._judged + WINDOW)
        if self._state is _State.SPEECH:
            events += self._pass_on(self.position)
        self._drop_old()
        return events

    def finish(self) -> list[DetectorEvent]:
        """No more samples follow: end the open utterance and skip the rest. A second call returns nothing."""
        if self._finished:
            return []
        self._finished = True
        events: list[DetectorEvent] = []
        if self.position > self._judged:
            events += self._window(self.position)  # the incomplete window counts like the one before it
        if self._state is _State.CANDIDATE and self._speaking:
            events += self._open()  # stopped in the middle of a word, so its length says nothing
        if self._state is _State.SPEECH:
            events += self._close(min(self.position, self._voice_end + self._hang_over), "finish")
        events += self._skip(self.position)
        self._drop_old()
        return events

    def set_silence(self, seconds: float) -> None:
        """Changes `silence_seconds` from the next `Started` on. Raises `BadConfig`."""
        self._next_config = replace(self._next_config, silence_seconds=seconds)

    def _window(self, end: int) -> list[DetectorEvent]:
        """Judge the window that ends at `end` by `_speaking`."""
        begin, self._judged = self._judged, end
        events: list[DetectorEvent] = []
        if self._speaking:
            if self._state is _State.SILENCE:
                events += self._skip(begin - self._pre_roll)
                self._state, self._voiced = _State.CANDIDATE, 0
            self._voiced += end - begin
            self._voice_end = end
        long = end - self._decided_until > self._longest
        quiet = end - self._voice_end >= self._silence
        if self._state is _State.CANDIDATE:
            # At the length limit there is no more waiting, and even a little voice is not dropped.
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

    def _open(self) -> list[DetectorEvent]:
        """Start an utterance where the last decided range ended."""
        self._apply(self._next_config)
        self._state = _State.SPEECH
        self._utterance += 1
        self._passed_on = self._decided_until
        return [Started(self._utterance, self._decided_until)]

    def _close(self, end: int, reason: Literal["silence", "length", "finish"]) -> list[DetectorEvent]:
        """End the open utterance at `end`."""
        events = self._pass_on(end)
        events.append(Ended(self._utterance, self._decided_until, end, reason))
        self._state, self._decided_until = _State.SILENCE, end
        return events

    def _cut(self) -> list[DetectorEvent]:
        """End the utterance at the quietest point before the length limit. What follows it starts the next."""
        limit = self._decided_until + self._longest
        cut = self._decided_until + cut_point(self._buffer[limit - self._cut_span : limit], self._longest)
        if self._voice_end <= cut:  # only silence follows the cut, which is no utterance
            return self._close(min(limit, self._voice_end + self._hang_over), "length")
        return [*self._close(cut, "length"), *self._open()]

    def _pass_on(self, end: int) -> list[DetectorEvent]:
        """Pass on the open utterance up to `end`, without silence that may end it, and at most the longest length."""
        end = min(end, self._voice_end + self._hang_over, self._decided_until + self._longest)
        if end <= self._passed_on:
            return []
        begin, self._passed_on = self._passed_on, end
        return [Speech(self._utterance, self._buffer[begin:end])]

    def _skip(self, end: int) -> list[DetectorEvent]:
        """Report what lies before `end` as skipped."""
        if end <= self._decided_until:
            return []
        begin, self._decided_until = self._decided_until, end
        return [Skipped(begin, end)]

    def _drop_old(self) -> None:
        """Drop the samples that are not needed again: they were passed on, and no cut can come before them."""
        keep = self._decided_until
        if self._state is _State.SPEECH:
            keep = min(self._passed_on, self._decided_until + self._longest - self._cut_span)
        self._buffer.drop(keep)


class _SampleBuffer:
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

    def drop(self, before: int) -> None:
        self._samples = self._samples[before - self._begin :]
        self._begin = before


def cut_span(limit: int) -> int:
    """How many samples before a length limit of `limit` samples are searched for the cut.

    At most half of the utterance, so that each cut leaves a good part of it.
    """
    return min(_samples(CUT_SECONDS), limit // 2)


def cut_point(samples: NDArray[np.float32], limit: int) -> int:
    """Where to cut an utterance of more than `limit` samples: the middle of the quietest 0.2 s before the limit.

    `samples` are validated float32 mono 16 kHz that end at the limit: the whole utterance up to there, or at least its
    last `cut_span(limit)` samples. Returns the position of the cut in the utterance, above 0 and at most `limit`. Of
    several places that are equally quiet (digital silence) it is the middle of the last: the longest utterance, with
    room on both sides of the cut.
    """
    last = samples[len(samples) - cut_span(limit) :]
    return limit - len(last) + _quietest(last)


def _quietest(samples: NDArray[np.float32]) -> int:
    """The middle of the quietest 0.2 s of `samples` (n,): a position in 0..n, and n where they are shorter."""
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
