"""One speaker: audio in, steps for the engine out, events for people. A state machine without thread, clock or model.

Whoever drives it (`runner.Runner`, `runner.run_session`, a test) does three things: `feed` audio; carry out each
`next_step()` on the engine; report it with `completed` or `failed` and deliver the events that come back. There is
never more than one step under way. Audio that comes meanwhile waits here, in no queue of steps: the next step simply
covers all of it. So a slow device makes longer steps, and nothing is dropped.

    received audio ──detector──▶ skipped
                        └─▶ utterance (open) ─▶ ended ─▶ final step ─▶ Final | Failed
                                    └─ partial step at each chunk ─▶ Partial

While a step is under way its engine utterance belongs to the device: the session neither appends to it nor truncates
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import CUT_SECONDS, Ended, Skipped, Speech, Started
from qwen_asr.audio.samples import to_mono
from qwen_asr.live import guards
from qwen_asr.live.events import Event, Failed, Final, Partial
from qwen_asr.live.transcript import Settling, Transcript

if TYPE_CHECKING:  # the engine needs torch, this state machine does not
    from qwen_asr.audio.endpointing import Detector
    from qwen_asr.engine.streaming import Hypothesis, Utterance
    from qwen_asr.live.session_options import SessionOptions

Detected = Started | Speech | Ended | Skipped


class NewUtterance(Protocol):
    """Makes an engine utterance: `Utterance` with its recognizer already given."""

    def __call__(self, *, context: str, language: str | None, max_new_tokens: int) -> Utterance: ...


@dataclass(frozen=True, eq=False)
class Step:
    """One decoding of everything appended to `utterance` so far. `number` is the utterance's, `final`: it has ended."""

    utterance: Utterance
    number: int
    final: bool


@dataclass(eq=False)
class _Speaking:
    """An utterance from its start to its final. Lengths are in samples since `start`."""

    number: int
    start: int
    engine: Utterance
    context: str
    length: int = 0  # handed on by the detector; once ended, the utterance's true length
    ended: bool = False
    waiting: deque[NDArray[np.float32]] = field(default_factory=deque)  # not yet appended to the engine's utterance
    submitted: int = 0  # length at the last step
    covered: int = 0  # length of the last hypothesis
    audible: bool = False
    settling: Settling = field(default_factory=Settling)
    notes: list[str] = field(default_factory=list)  # warnings for the next event
    retry: guards.Retry | None = None  # under way: decoding again …
    first: Hypothesis | None = None  # … what this one said
    doubted: set[str] = field(default_factory=set)  # reasons for which it was decoded again: once each

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def uncovered(self) -> int:
        return self.length - min(self.covered, self.length)

    def hand_over(self) -> None:
        """Give the engine's utterance what waited here; forget what lies behind a cut."""
        while self.waiting:
            self.engine.append(self.waiting[0])
            self.waiting.popleft()
        if self.ended and self.engine.length > self.length:
            self.engine.truncate(self.length)

    def begin_again(self, fresh: Utterance) -> None:
        """Go on with a new engine utterance over the same samples."""
        fresh.append(self.engine.samples)
        self.engine = fresh


class Session:
    """The state machine of one speaker. Not thread-safe: `Runner` adds the locks."""

    def __init__(self, new_utterance: NewUtterance, detector: Detector, options: SessionOptions) -> None:
        """`detector` must be unused.

        Raises what `new_utterance` raises, such as BadInput for a context that breaks the prompt: the first utterance
        is made here, so that a session that was opened can also be used.
        """
        self.transcript = Transcript()
        self._new_utterance = new_utterance
        self._detector = detector
        self._chunk = max(1, round(options.chunk_seconds * SAMPLE_RATE))
        longest = detector.config.longest_seconds
        # Behind this length an utterance may be cut, and the words behind the cut go to the next: none of them settles.
        self._cut_from = round((longest - min(CUT_SECONDS, longest / 2)) * SAMPLE_RATE)
        self._context = options.system_prompt
        self._language = options.language
        self._max_new_tokens = options.max_new_tokens
        self._spare: Utterance | None = new_utterance(
            context=self._context, language=self._language, max_new_tokens=self._max_new_tokens
        )
        self._established: str | None = None  # the language of the last utterance long enough to trust
        self._queue: deque[_Speaking] = deque()  # in order; only the last may be open
        self._outstanding: Step | None = None
        self._finished = False
        self._received = 0
        self._skipped = 0

    @property
    def received(self) -> int:
        """Samples fed so far."""
        return self._received

    @property
    def skipped(self) -> int:
        """Samples that the detector gave to no utterance."""
        return self._skipped

    @property
    def lag(self) -> float:
        """Seconds of speech that were received and are in no hypothesis yet: how far the text is behind the voice.

        What counts is what the detector has handed on. What it still holds (pre-roll, a candidate not yet long enough
        to be speech, silence behind a word) waits for the next audio, not for the recognizer. So lag is 0 in silence,
        rises to one chunk between two steps of an idle device, and goes on rising only where the device is slower than
        the speaker. It is 0 when everything is covered, skipped or failed. A hypothesis that a guard rejected covers
        nothing.
        """
        return sum(speaking.uncovered for speaking in self._queue) / SAMPLE_RATE

    @property
    def busy(self) -> bool:
        """Whether a step is under way. Where none is, only more audio, or `finish`, makes the lag smaller."""
        return self._outstanding is not None

    @property
    def done(self) -> bool:
        """Whether `finish` was called and every utterance has been reported."""
        return self._finished and not self._queue and self._outstanding is None

    def feed(self, samples: NDArray[np.float32]) -> list[Event]:
        """Take the next samples (float32 mono 16 kHz, any count). Runs the detector; decoding is left to steps.

        Raises AudioError, before anything has changed, for what is not one row of finite numbers.
        """
        return self.take(self.listen(samples))

    def listen(self, samples: NDArray[np.float32]) -> Sequence[Detected]:
        """The first, dear half of `feed`: voice detection. It touches the detector alone, no other state."""
        if self._finished:
            raise RuntimeError("The session is finished: feed() after finish().")
        block = to_mono(samples)
        self._received += len(block)
        return self._detector.feed(block)

    def take(self, detected: Iterable[Detected]) -> list[Event]:
        """The second half of `feed`: what `listen` returned, in order."""
        for event in detected:
            if isinstance(event, Started):
                self._queue.append(self._begin(event))
            elif isinstance(event, Speech):
                self._queue[-1].waiting.append(event.samples)
                self._queue[-1].length += len(event.samples)
            elif isinstance(event, Ended):
                # After a cut at the length limit this is less than was handed on; the rest begins the next utterance.
                self._queue[-1].length = event.end - event.start
                self._queue[-1].ended = True
            else:
                self._skipped += event.end - event.start
        return []

    def finish(self) -> None:
        """No more audio comes: the open utterance ends here. Its final step is now due. A second call does nothing."""
        if not self._finished:
            self._finished = True
            self.take(self._detector.finish())

    def drop(self) -> None:
        """Forget everything that was not reported yet; the session is then done."""
        self._finished = True
        self._queue.clear()
        self._outstanding = None

    def next_step(self) -> Step | None:
        """The step to carry out now; None while one is under way or none is due.

        Ended utterances come first, in order; the open one is due when a chunk came since its last step.
        """
        if self._outstanding is not None or not self._queue:
            return None
        speaking = self._queue[0]
        if not speaking.ended and speaking.length - speaking.submitted < self._chunk:
            return None
        speaking.hand_over()
        speaking.submitted = speaking.length
        speaking.engine.max_new_tokens = guards.token_limit(speaking.length, self._max_new_tokens)
        self._outstanding = Step(speaking.engine, speaking.number, speaking.ended)
        return self._outstanding

    def completed(self, step: Step, hypothesis: Hypothesis) -> list[Event]:
        """The step gave this hypothesis. Returns the events that follow from it."""
        speaking = self._release(step)
        speaking.covered = hypothesis.samples
        # A partial step that turns out to have covered the whole utterance is its final step: same samples, same text.
        if step.final or (speaking.ended and hypothesis.samples == speaking.length):
            return self._conclude(speaking, hypothesis)
        if speaking.ended and hypothesis.samples > speaking.length:
            return []  # the utterance was cut meanwhile; part of this text belongs to the next one
        return [self._partial(speaking, hypothesis)]

    def failed(self, step: Step, message: str) -> list[Event]:
        """The step failed. `message` is one sentence for people.

        A final step fails its utterance. A partial one costs only that partial: all audio is still here, so the
        utterance begins again on a fresh engine utterance. Where a guard wanted a second decoding, the first stands.
        """
        speaking = self._release(step)
        if speaking.retry is not None and speaking.first is not None:
            speaking.notes.append(f"{speaking.retry.reason}: the text is doubtful, and decoding it again failed.")
            first, speaking.first, speaking.retry = speaking.first, None, None
            return self._conclude(speaking, first)
        if step.final:
            self._queue.popleft()
            return [Failed(speaking.number, speaking.start, speaking.end, message, self.lag)]
        speaking.notes.append(f"step: {message}")
        speaking.begin_again(self._engine_utterance(speaking.context, self._language))
        return []

    def _begin(self, started: Started) -> _Speaking:
        engine, self._spare = self._spare, None
        if engine is None:
            engine = self._engine_utterance(self._context, self._language)
        return _Speaking(started.utterance, started.start, engine, self._context)

    def _engine_utterance(self, context: str, language: str | None) -> Utterance:
        return self._new_utterance(context=context, language=language, max_new_tokens=self._max_new_tokens)

    def _release(self, step: Step) -> _Speaking:
        if step is not self._outstanding:
            raise ValueError(f"Step of utterance {step.number} is not the one under way.")
        self._outstanding = None
        return self._queue[0]

    def _partial(self, speaking: _Speaking, hypothesis: Hypothesis) -> Partial:
        heard = speaking.engine.samples[: hypothesis.samples]
        speaking.audible = speaking.audible or not guards.is_silent(heard)
        text, warnings = guards.cleaned(hypothesis, not speaking.audible, self._max_new_tokens)
        echo = guards.echoes(text, speaking.context)
        if echo:
            warnings.append("context: this may be the context read back; it stays tentative.")
        if echo or hypothesis.samples > self._cut_from:
            shown, stable = speaking.settling.view(text)
        else:
            shown, stable = speaking.settling.update(text)
        warnings = self._with_notes(speaking, warnings)
        end = speaking.start + hypothesis.samples
        return Partial(
            speaking.number, speaking.start, end, hypothesis.language, shown, stable, self.lag, tuple(warnings)
        )

    def _conclude(self, speaking: _Speaking, hypothesis: Hypothesis) -> list[Event]:
        """The utterance's text is known, unless it is doubted: then decode again and return nothing yet."""
        if speaking.retry is not None and speaking.first is not None:
            take_second, warning = guards.better(speaking.retry, speaking.first, hypothesis)
            hypothesis = hypothesis if take_second else speaking.first
            if take_second:
                speaking.context = speaking.retry.context
            speaking.notes.extend([warning] if warning else [])
            speaking.first = speaking.retry = None
        retry = self._doubt(speaking, hypothesis)
        if retry is not None:
            speaking.doubted.add(retry.reason)
            speaking.retry, speaking.first = retry, hypothesis
            speaking.covered = 0
            speaking.begin_again(self._engine_utterance(retry.context, retry.language))
            return []
        return [self._final(speaking, hypothesis)]

    def _doubt(self, speaking: _Speaking, hypothesis: Hypothesis) -> guards.Retry | None:
        if "context" not in speaking.doubted and guards.echoes(hypothesis.text, speaking.context):
            return guards.Retry("context", "", self._language)
        doubtful = self._language is None and guards.flips(hypothesis, self._established)
        if doubtful and "language" not in speaking.doubted:
            return guards.Retry("language", speaking.context, self._established)
        return None

    def _final(self, speaking: _Speaking, hypothesis: Hypothesis) -> Final:
        silent = guards.is_silent(speaking.engine.samples[: speaking.length])
        text, warnings = guards.cleaned(hypothesis, silent, self._max_new_tokens)
        if text and hypothesis.language and speaking.length > guards.SHORT_SAMPLES:
            self._established = hypothesis.language
        self._queue.popleft()
        final = Final(
            utterance=speaking.number,
            start=speaking.start,
            end=speaking.end,
            language=hypothesis.language if text else None,
            text=text,
            lag=self.lag,
            corrected=speaking.settling.corrects(text),
            warnings=tuple(self._with_notes(speaking, warnings)),
        )
        self.transcript.add(final)
        return final

    @staticmethod
    def _with_notes(speaking: _Speaking, warnings: list[str]) -> list[str]:
        notes, speaking.notes = speaking.notes, []
        return notes + warnings
