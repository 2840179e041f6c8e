"""`Session`: the state machine of one speaker. Audio in, engine steps and events out. No threads or I/O.

The caller (`runner.Runner`, `runner.run_session` or a test) does three things: it calls `feed` with audio, runs each
`next_step()` on the engine, and reports the result with `completed` or `failed`, which return the events. At most one
step runs at a time. Audio that arrives meanwhile is buffered, and the next step covers all of it. So a slow device runs
longer steps instead of a growing queue of them, and no audio is dropped. A caller whose steps wait for the device also
reports when one begins, with `began`: it then covers the audio that arrived while it waited. It may also begin a step
again that has become `urgent`, because its utterance has ended: then that one gives the final text.

If the options ask for `words`, the caller also has each `next_alignment()` done, and reports it with `aligned` or
`not_aligned`. Any number of them may be under way beside the step.

    received audio ──detector──▶ skipped
                        └─▶ utterance (open) ─▶ ended ─▶ final step ─▶ [alignment] ─▶ Final | Failed [─▶ Aligned]
                                    └─ partial step at each chunk (`pacing`) ─▶ Partial

While a step runs, the session does not change its engine utterance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Ended, Skipped, Speech, Started, cut_span
from qwen_asr.audio.validation import ArrayReader
from qwen_asr.live import guards
from qwen_asr.live.alignment import Alignment, Alignments
from qwen_asr.live.events import Aligned, Event, Failed, Final, Partial, TextEvent
from qwen_asr.live.pacing import Pacing
from qwen_asr.live.pending_utterance import PendingUtterance, SpokenLanguage
from qwen_asr.live.text_tokens import text_tokens
from qwen_asr.live.transcript import Transcript

if TYPE_CHECKING:  # the engine imports torch, which this module does not need
    from qwen_asr.audio.endpointing import Detector
    from qwen_asr.engine.hypothesis import Hypothesis
    from qwen_asr.engine.interface import EngineUtterance, NewUtterance
    from qwen_asr.engine.words import Aligner, Word
    from qwen_asr.live.session_options import SessionOptions

Detected = Started | Speech | Ended | Skipped


@dataclass(eq=False)
class Step:
    """One decoding of the audio in `utterance`.

    `number` is the number of the utterance. `final`: it had ended when the step became due. `begun`: whether the device
    has begun it. `urgent`: whether the device should begin it now, or begin it again, to give the final text. Any
    thread may read that.
    """

    utterance: EngineUtterance
    number: int
    final: bool
    begun: bool = False
    urgent: bool = False


class Session:
    """The state machine of one speaker. Not thread-safe: `Runner` adds the locks."""

    def __init__(
        self,
        new_utterance: NewUtterance,
        detector: Detector,
        options: SessionOptions,
        aligner: Aligner | None = None,
    ) -> None:
        """`detector` must be new. `aligner` finds the words, if the options ask for them; the session only asks it
        questions.

        Raises what `new_utterance` raises, such as `BadInput` for a context that contains a control token. The first
        engine utterance is created here, so that invalid options are reported when the session is opened.
        """
        self.transcript = Transcript()
        self._new_utterance = new_utterance
        self._detector = detector
        self._reader = ArrayReader()
        self._pacing = Pacing(options.chunk_seconds)
        longest = round(detector.config.longest_seconds * SAMPLE_RATE)
        # An utterance may be cut after this length. Words after the cut belong to the next, so they must not settle.
        self._cut_from = longest - cut_span(longest)
        self._context = options.system_prompt
        self._language = SpokenLanguage(options.language)
        self._max_new_tokens = options.max_new_tokens
        self._silence_seconds = options.endpoints.silence_seconds
        self._spare: EngineUtterance | None = new_utterance(
            context=self._context, language=self._language.given, max_new_tokens=self._max_new_tokens
        )
        self._begun = 0  # utterances that have begun
        self._recalled: deque[Final] = deque()  # of an earlier session with the same audio
        self._alignments = Alignments(aligner if options.words else None, options.background)
        self._queue: deque[PendingUtterance] = deque()  # in order; only the last can still be open
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
        """Samples that belong to no utterance."""
        return self._skipped

    @property
    def lag(self) -> float:
        """Seconds of received speech that no hypothesis covers yet: how far the text is behind the speaker.

        Audio that the detector holds back (pre-roll, sound that is still too short to be speech, silence after a word)
        does not count, because it waits for more audio, not for the recognizer. So lag is 0 in silence, rises to one
        chunk between two steps of an idle device, and rises further only if the device is slower than the speaker.
        It is 0 once all audio is covered, skipped or failed. A hypothesis that a guard rejected covers nothing, and
        that of a final that waits for its words no more than the last partial.
        """
        return sum(pending.uncovered for pending in self._queue) / SAMPLE_RATE

    @property
    def busy(self) -> bool:
        """Whether a step is running, or a final waits for its words. If not, only more audio can reduce the lag."""
        return self._outstanding is not None or (self._alignments.pending and self._alignments.holds)

    @property
    def aligning(self) -> bool:
        """Whether words are still to come."""
        return self._alignments.pending

    @property
    def gathering(self) -> float:
        """Seconds of audio that may gather before they are fed: 0 unless a step is under way (`Pacing.gathering`)."""
        return self._pacing.gathering / SAMPLE_RATE if self._outstanding is not None else 0.0

    @property
    def done(self) -> bool:
        """Whether `finish` was called and every utterance has its `Final` or `Failed`, and its words."""
        return self._finished and not self._queue and self._outstanding is None and not self.aligning

    def recall(self, finals: Iterable[Final]) -> None:
        """Takes the first finals of an earlier session with the same audio and options, before the first audio.

        An utterance that they have gets its final from them, without a step; it is aligned if it needs words and has
        none. From the first on that begins or ends elsewhere, all are decoded. In a session without partials the events
        are, but for `lag`, those of one that decodes everything.
        """
        self._recalled.extend(finals)

    def change(self, options: SessionOptions) -> int:
        """Uses the language, context, prompt and `silence_seconds` of `options` for the utterances that have not begun.

        Everything else stays as it is. Returns the number of the first utterance with these options. Raises what
        `__init__` raises, and `BadConfig`; the session is then unchanged. It changes the detector, as `listen` does.
        """
        spare = self._engine_utterance(options.system_prompt, options.language)
        if options.endpoints.silence_seconds != self._silence_seconds:
            self._detector.set_silence(options.endpoints.silence_seconds)
        self._silence_seconds = options.endpoints.silence_seconds
        if self._spare is not None:
            self._spare.close()
        self._spare, self._context = spare, options.system_prompt
        if options.language != self._language.given:
            self._language = SpokenLanguage(options.language)
        self._recalled.clear()  # they are for other options
        return self._begun

    def feed(self, samples: NDArray[np.float32]) -> list[TextEvent]:
        """Processes the next samples (16 kHz, any number, as `ArrayReader` reads them).

        Runs voice detection, but no decoding.

        Raises `AudioError` if `samples` are not audio, and `RuntimeError` after `finish`. The state is then unchanged.
        """
        return self.take(self.listen(self._reader.read(samples)))

    def listen(self, samples: NDArray[np.float32]) -> Sequence[Detected]:
        """The first half of `feed`, and the expensive one: voice detection. It changes only the detector.

        `samples` are float32 mono at 16 kHz that an edge has validated (`audio.validation.to_mono`).
        """
        if self._finished:
            raise RuntimeError("The session is finished: feed() after finish().")
        self._received += len(samples)
        return self._detector.feed(samples)

    def take(self, detected: Iterable[Detected]) -> list[TextEvent]:
        """The second half of `feed`: processes what `listen` returned, in order."""
        events: list[TextEvent] = []
        for event in detected:
            if isinstance(event, Started):
                self._queue.append(self._begin(event))
            elif isinstance(event, Speech):
                self._queue[-1].buffered.append(event.samples)
                self._queue[-1].length += len(event.samples)
            elif isinstance(event, Ended):
                # After a cut at the length limit, this is less than was received. The rest starts the next utterance.
                self._queue[-1].length = event.end - event.start
                self._queue[-1].ended = True
                self._hurry(self._queue[-1])
                events += self._recall(self._queue[-1])
            else:
                self._skipped += event.end - event.start
        return events

    def finish(self) -> list[TextEvent]:
        """Ends the audio, and with it the open utterance: its final step becomes due. A second call does nothing."""
        if self._finished:
            return []
        self._finished = True
        return self.take(self._detector.finish())

    def drop(self) -> None:
        """Discards all utterances that have no `Final` or `Failed` yet, and all alignments. It is then done."""
        self._finished = True
        self._alignments.clear()
        for pending in self._queue:
            pending.engine.close()
        self._queue.clear()
        if self._outstanding is not None:
            self._outstanding.urgent = False  # it need not begin, or begin again
        self._outstanding = None

    def next_step(self) -> Step | None:
        """The step to run now, or None if one is running or none is due.

        Ended utterances come first, in order, and are due at once. `Pacing` decides when the open one is due.
        """
        if self._outstanding is not None or not self._queue:
            return None
        pending = self._queue[0]
        if pending.final is not None:
            return None
        if not (pending.ended or self._pacing.is_due(pending.length - pending.submitted, self._received)):
            return None
        self._hand_over(pending)
        self._pacing.submitted(self._received)
        self._outstanding = Step(pending.engine, pending.number, pending.ended, urgent=pending.ended)
        return self._outstanding

    def began(self, step: Step) -> None:
        """Reports that the device begins a step, or begins it again: it covers all that was received until now.

        Does nothing if the step was dropped or has failed meanwhile.
        """
        if step is self._outstanding:
            step.begun, step.urgent = True, False
            self._hand_over(self._queue[0])
            self._pacing.began(self._received)

    def completed(self, step: Step, hypothesis: Hypothesis) -> list[TextEvent]:
        """Reports the hypothesis of a step. Returns the resulting events."""
        pending = self._release(step)
        pending.covered = hypothesis.samples
        # A partial step that covered the whole utterance serves as its final step: the same samples give the same text.
        if step.final or (pending.ended and hypothesis.samples == pending.length):
            return self._conclude(pending, hypothesis)
        if pending.ended and hypothesis.samples > pending.length:
            return []  # the utterance was cut during the step, so part of this text belongs to the next one
        return [self._partial(pending, hypothesis)]

    def failed(self, step: Step, message: str) -> list[TextEvent]:
        """Reports that a step failed. `message` is one sentence for the user. Returns the resulting events.

        If a final step fails, so does its utterance. If a partial step fails, only that partial is lost: the utterance
        keeps its audio and continues with a new engine utterance. If the retry of a guard fails, the first hypothesis
        is used.
        """
        pending = self._release(step)
        if pending.retry is not None and pending.first is not None:
            pending.warnings.append(f"{pending.retry.reason}: the text is doubtful, and decoding it again failed.")
            first, pending.first, pending.retry = pending.first, None, None
            return self._conclude(pending, first)
        if step.final:
            self._queue.popleft()
            pending.engine.close()
            return [Failed(pending.number, pending.start, pending.end, message, self.lag)]
        pending.warnings.append(f"step: {message}")
        pending.restart(self._engine_utterance(pending.context, pending.language.given))
        return []

    def _recall(self, ended: PendingUtterance) -> list[TextEvent]:
        """The recalled final of an utterance that has just ended, if there is one."""
        if not self._recalled:
            return []
        final = self._recalled.popleft()
        same = (final.utterance, final.start, final.end) == (ended.number, ended.start, ended.end)
        before = self._queue[0]  # an earlier one may still wait for its words
        if not same or not (ended is before or before.final is not None) or self._outstanding is not None:
            self._recalled.clear()
            return []
        ended.final = final
        return self._conclude_with(ended, final) if ended is before else []

    def next_alignment(self) -> Alignment | None:
        """The alignment to begin now, or None. It takes no turn of a step."""
        return self._alignments.next()

    def aligned(self, alignment: Alignment, words: Sequence[Word]) -> list[Event]:
        """Reports the words of an alignment's clip, with times from its first sample. Returns the resulting events."""
        return self._end_alignment(alignment, self._alignments.end(alignment, words))

    def not_aligned(self, alignment: Alignment, message: str) -> list[Event]:
        """Reports that an alignment failed, with a sentence for the user. The final then has no words."""
        self._alignments.end(alignment)
        return self._end_alignment(alignment, (), f"words: {message}")

    def _end_alignment(self, alignment: Alignment, words: tuple[Word, ...], *warnings: str) -> list[Event]:
        if not self._alignments.holds:
            aligned = Aligned(alignment.final.utterance, words)
            self.transcript.align(aligned)
            return [aligned] if words else []
        pending = self._queue[0]
        pending.covered = pending.length
        final = replace(alignment.final, words=words, warnings=(*alignment.final.warnings, *warnings), lag=self.lag)
        events: list[Event] = [self._emit(pending, final)]
        # Recalled finals have waited behind it. The loop ends at the first that waits for words of its own.
        while self._queue and not self.aligning and (recalled := self._queue[0].final) is not None:
            events += self._conclude_with(self._queue[0], recalled)
        return events

    def _begin(self, started: Started) -> PendingUtterance:
        engine, self._spare = self._spare, None
        if engine is None:
            engine = self._engine_utterance(self._context, self._language.given)
        self._begun = started.utterance + 1
        return PendingUtterance(started.utterance, started.start, engine, self._context, self._language)

    def _engine_utterance(self, context: str, language: str | None) -> EngineUtterance:
        return self._new_utterance(context=context, language=language, max_new_tokens=self._max_new_tokens)

    def _hurry(self, ended: PendingUtterance) -> None:
        """Makes the step of an utterance that has ended urgent. One that has begun may cover exactly the utterance."""
        step = self._outstanding
        if step is not None and ended is self._queue[0] and not (step.begun and ended.submitted == ended.length):
            step.urgent = True

    def _hand_over(self, pending: PendingUtterance) -> None:
        """Lets a step that begins now cover everything received so far."""
        pending.hand_over()
        pending.submitted = pending.length
        pending.engine.max_new_tokens = guards.token_limit(pending.length, self._max_new_tokens)

    def _release(self, step: Step) -> PendingUtterance:
        if step is not self._outstanding:
            raise ValueError(f"The step of utterance {step.number} is not the one that is running.")
        self._outstanding = None
        self._pacing.ended(self._received)
        return self._queue[0]

    def _partial(self, pending: PendingUtterance, hypothesis: Hypothesis) -> Partial:
        covered = pending.engine.samples[: hypothesis.samples]
        pending.audible = pending.audible or not guards.is_silent(covered)
        text, warnings = guards.clean_text(hypothesis, not pending.audible, self._max_new_tokens)
        echo = guards.echoes_context(text, pending.context)
        if echo:
            warnings.append("context: this may be an echo of the context; it stays tentative.")
        if echo or hypothesis.samples > self._cut_from:
            shown, stable = pending.settling.view(text)
        else:
            shown, stable = pending.settling.update(text, hypothesis.samples)
        warnings = self._take_warnings(pending) + warnings
        pending.shown = hypothesis.samples
        end = pending.start + hypothesis.samples
        return Partial(
            pending.number, pending.start, end, hypothesis.language, shown, stable, self.lag, tuple(warnings)
        )

    def _conclude(self, pending: PendingUtterance, hypothesis: Hypothesis) -> list[TextEvent]:
        """Returns the final, or nothing if a guard requests a retry: then the utterance is decoded again first."""
        if pending.retry is not None and pending.first is not None:
            use_second, warning = guards.replaces_first(pending.retry, pending.first, hypothesis)
            hypothesis = hypothesis if use_second else pending.first
            if use_second:
                pending.context = pending.retry.context
            pending.warnings.extend([warning] if warning else [])
            pending.first = pending.retry = None
        retry = self._find_retry(pending, hypothesis)
        if retry is not None:
            pending.retried.add(retry.reason)
            pending.retry, pending.first = retry, hypothesis
            pending.covered = 0
            pending.restart(self._engine_utterance(retry.context, retry.language))
            return []
        return self._final(pending, hypothesis)

    def _find_retry(self, pending: PendingUtterance, hypothesis: Hypothesis) -> guards.Retry | None:
        if "context" not in pending.retried and guards.echoes_context(hypothesis.text, pending.context):
            return guards.Retry("context", "", pending.language.given)
        established = None if pending.language.given else pending.language.established
        switched = guards.switches_language(hypothesis, established)
        if switched and "language" not in pending.retried:
            return guards.Retry("language", pending.context, established)
        return None

    def _final(self, pending: PendingUtterance, hypothesis: Hypothesis) -> list[TextEvent]:
        silent = guards.is_silent(pending.engine.samples[: pending.length])
        text, warnings = guards.clean_text(hypothesis, silent, self._max_new_tokens)
        final = Final(
            utterance=pending.number,
            start=pending.start,
            end=pending.end,
            language=hypothesis.language if text else None,
            text=text,
            lag=self.lag,
            corrected=pending.settling.corrects(text),
            warnings=tuple(self._take_warnings(pending) + warnings),
            tokens=text_tokens(hypothesis, text),
            prompt_tokens=hypothesis.prompt_tokens,
            written_tokens=len(hypothesis.tokens),
        )
        return self._conclude_with(pending, final)

    def _conclude_with(self, pending: PendingUtterance, final: Final) -> list[TextEvent]:
        """The final of the first utterance of the queue; nothing yet if it waits for its words."""
        if final.language and pending.length > guards.SHORT_SAMPLES:
            pending.language.established = final.language
        if self._alignments.wants(final):
            pending.hand_over()  # of a recalled utterance, the engine has no audio yet
            self._alignments.add(final, pending.engine.samples[: pending.length])
            if self._alignments.holds:
                pending.final, pending.covered = final, pending.shown
                return []
        return [self._emit(pending, final)]

    def _emit(self, pending: PendingUtterance, final: Final) -> Final:
        """Removes the first utterance of the queue, of which `final` is the final."""
        self._queue.popleft()
        pending.engine.close()
        self.transcript.add(final)
        return final

    @staticmethod
    def _take_warnings(pending: PendingUtterance) -> list[str]:
        warnings, pending.warnings = pending.warnings, []
        return warnings
