"""An engine double for sessions, audio whose voice activity is its loudness, and a checker of events.

The double is deterministic: its text is a function of the samples. `tests/live/test_real_engine.py` uses the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.audio.vad import WINDOW
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.words import Clip, Word
from qwen_asr.live.events import Aligned, Event, Failed, Final, Partial
from qwen_asr.live.session import Session, Step
from qwen_asr.live.session_options import SessionOptions

if TYPE_CHECKING:
    from qwen_asr.engine.streaming import Utterance

Samples = NDArray[np.float32]
Transcribe = Callable[[Samples, str, "str | None"], Hypothesis]  # (samples, context, language) → hypothesis

# Short utterances, so that a few seconds of audio contain many endpoints and cuts.
QUICK = EndpointConfig(
    silence_seconds=0.2,
    min_speech_seconds=0.1,
    longest_seconds=1.5,
    pre_roll_seconds=0.1,
    hang_over_seconds=0.1,
)


class Loudness:
    """A voice activity that treats loud windows as speech, so that a test knows exactly where speech is."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def feed(self, samples: Samples) -> Samples:
        joined = np.concatenate((self._rest, samples))
        whole = len(joined) // 512 * 512
        self._rest = joined[whole:]
        return (np.abs(joined[:whole]).reshape(-1, 512).mean(axis=1) > 0.02).astype(np.float32)


class ScriptedVoiceActivity:
    """A voice activity with given probabilities, one for each window. The last one repeats."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._probabilities, self._samples, self._windows = list(probabilities), 0, 0

    def feed(self, samples: Samples) -> Samples:
        self._samples += len(samples)
        begin, self._windows = self._windows, self._samples // WINDOW
        last = len(self._probabilities) - 1
        return np.array([self._probabilities[min(i, last)] for i in range(begin, self._windows)], np.float32)


def make_audio(segments: Sequence[tuple[bool, int]], seed: int = 0) -> Samples:
    """Noise at random levels for loud segments (loud, samples), and near-silence for the others."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.uniform(-1, 1, count) * (rng.uniform(0.1, 0.9) if loud else 0.001) for loud, count in segments if count
    ]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def text_of(samples: Samples) -> str:
    """The text of the double: a word for each full 0.1 s, computed from its samples, and a last word that changes."""
    tenths = samples[: len(samples) // 1600 * 1600].reshape(-1, 1600)
    words = [f"w{index}{chr(97 + int(np.abs(tenth).sum()) % 26)}" for index, tenth in enumerate(tenths)]
    return " ".join([*words, f"open{len(samples) // 4000 % 3}."])


def transcribe_exactly(samples: Samples, context: str, language: str | None) -> Hypothesis:
    """A model without faults: the text is `text_of` the samples."""
    return Hypothesis((1,), "raw", language or "English", text_of(samples), len(samples))


class UtteranceDouble:
    """A double of an engine utterance. The test sets `busy` during a step, when the utterance must not be used."""

    def __init__(self, transcribe: Transcribe, context: str, language: str | None, max_new_tokens: int) -> None:
        self._transcribe, self._context, self._language = transcribe, context, language
        self.max_new_tokens = max_new_tokens
        self.busy = False
        self.closed = False
        self._samples = np.zeros(0, np.float32)
        self.hypothesis = Hypothesis()

    @property
    def length(self) -> int:
        return len(self._samples)

    @property
    def samples(self) -> Samples:
        assert not self.busy
        return self._samples

    def close(self) -> None:
        self.closed = True

    def append(self, samples: Samples) -> None:
        assert not self.busy
        assert not self.closed
        self._samples = np.concatenate((self._samples, samples))

    def truncate(self, length: int) -> None:
        assert not self.busy
        assert length <= self.length
        self._samples = self._samples[:length]

    def feed(self, samples: Samples) -> Hypothesis:
        self.append(samples)
        self.hypothesis = self._transcribe(self._samples, self._context, self._language)
        return self.hypothesis

    def finish(self) -> Hypothesis:
        return self.feed(np.zeros(0, np.float32))


def words_of(text: str, start: int, end: int) -> tuple[Word, ...]:
    """The words of the aligner's double: they share the samples from `start` to `end` evenly."""
    words = text.split()
    bounds = [start + (end - start) * index // len(words) for index in range(len(words) + 1)] if words else []
    return tuple(Word(*word) for word in zip(words, bounds, bounds[1:], strict=False))


class AlignerDouble:
    """A double of an aligner. It fails on each batch with a text that holds `poison`, and knows no Thai."""

    name = "double"

    def __init__(self, *, is_quick: bool, poison: str | None = None) -> None:
        self.is_quick = is_quick
        self.poison = poison
        self.batches: list[list[Clip]] = []

    def why_not(self, language: str | None) -> str | None:
        return "The double does not know Thai." if language == "Thai" else None

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        self.batches.append(list(clips))
        if self.poison is not None and any(self.poison in clip.text for clip in clips):
            raise RuntimeError("poisoned")
        return [words_of(clip.text, 0, len(clip.samples)) for clip in clips]


def new_session(
    transcribe: Transcribe = transcribe_exactly,
    endpoints: EndpointConfig = QUICK,
    *,
    aligner: AlignerDouble | None = None,
    **options: Any,
) -> Session:
    """A session on doubles that transcribe with `transcribe`, with loudness as the voice activity."""
    new_utterance: Any = partial(UtteranceDouble, transcribe)
    return Session(new_utterance, UtteranceDetector(endpoints, Loudness()), SessionOptions(**options), aligner)


class EventChecker:
    """Collects the events of a session and checks the order, the settled text and the lag of each."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.words: dict[int, tuple[Word, ...]] = {}  # those that came after their finals
        self._settled = ""
        self._current = 0  # the utterance being reported; all earlier ones are closed

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, Aligned):
                self._align(event)
                continue
            assert event.utterance == self._current
            assert event.lag >= 0
            assert event.start <= event.end
            if isinstance(event, Partial):
                assert event.text.startswith(self._settled)
                assert event.stable >= len(self._settled)
                self._settled = event.text[: event.stable]
                continue
            if isinstance(event, Final):
                assert event.corrected == (not event.text.startswith(self._settled))
            self._settled = ""
            self._current += 1

    def _align(self, event: Aligned) -> None:
        [final] = [final for final in self.finals if final.utterance == event.utterance]
        assert event.utterance not in self.words
        assert event.words
        assert not final.words
        self.words[event.utterance] = event.words

    @property
    def closed(self) -> list[Final | Failed]:
        return [event for event in self.events if isinstance(event, Final | Failed)]

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final)]

    def check_complete(self, session: Session) -> None:
        """Check that everything was reported once and that every sample is accounted for."""
        assert session.done
        assert session.lag == 0
        assert sum(event.end - event.start for event in self.closed) + session.skipped == session.received
        assert all(one.end <= other.start for one, other in zip(self.closed, self.closed[1:], strict=False))
        assert list(session.transcript.finals) == [
            replace(final, words=self.words.get(final.utterance, final.words)) for final in self.finals
        ]


def hypothesis_of(step: Step) -> Hypothesis:
    """What the step's utterance gives for all its samples: the double's, or that of the engine in this process."""
    return cast("Utterance", step.utterance).finish()
