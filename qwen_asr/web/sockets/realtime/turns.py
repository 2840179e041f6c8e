"""Turns of a realtime session: audio under one set of settings, and the items that its turns become.

`VoiceTurns` finds any number of turns by voice; `ClientTurn` is one turn, which the client ends. Each is one session
on the shared recognizer. One thread at a time feeds it, while results come on the scheduler's threads. Its events have
the order of OpenAI's API: deltas of an item may come before it is committed, its `completed` or `failed` never does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Detector, DetectorEvent, Ended, EndpointConfig, Started, UtteranceDetector
from qwen_asr.audio.manual_turns import ManualTurnDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.engine.languages import language_code
from qwen_asr.errors import QwenASRError, StepFailed
from qwen_asr.live.events import Aligned, Event, Failed, Final, Partial
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.rest.answers import logprobs
from qwen_asr.web.sockets.observed_detector import ObservedDetector
from qwen_asr.web.sockets.realtime.dialects import OPENAI, Dialect, ItemText, Span
from qwen_asr.web.sockets.realtime.messages import (
    Committed,
    ServerEvent,
    SpeechStarted,
    SpeechStopped,
    failed,
    new_id,
)

if TYPE_CHECKING:
    from qwen_asr.live.runner import Runner
    from qwen_asr.web.sockets.realtime.settings import RealtimeSettings, ServerVad


class ItemLog:
    """The items of a conversation, in order. `put` sends an event to the client, from any thread."""

    def __init__(self, put: Callable[[ServerEvent], None], dialect: Dialect = OPENAI) -> None:
        """`dialect`: that of the client, until one of its events shows another."""
        self.put = put
        self.dialect = dialect
        self.count = 0
        self._last: str | None = None

    def commit(self, item_id: str) -> None:
        """Announce a new item after the last one."""
        previous, self._last = self._last, item_id
        self.count += 1
        self.put(Committed(previous_item_id=previous, item_id=item_id))
        for event in self.dialect.announce(item_id, previous):
            self.put(event)


class Item:
    """The text of one turn: what is known while it settles, then `completed` or `failed`, once.

    The deltas together are the settled text. They take nothing back: if a final corrects settled text, no more deltas
    follow for it, and `completed` has the exact text.
    """

    def __init__(self, item_log: ItemLog, scored: bool) -> None:
        """`scored`: its finals have the probabilities of their tokens."""
        self.id = new_id("item")
        self.dropped = False  # the client gets no more events about it
        self.start = 0  # its first sample, in the session of its turns
        self.samples = 0  # its length, as far as it is known
        self._log = item_log
        self._scored = scored
        self._sent = ""  # all deltas together
        self._earlier_text = ""  # the part of it that belongs to utterances before the current one
        self._finals: list[Final] = []
        self._error: QwenASRError | None = None

    def add_partial(self, text: str, stable: int, language: str | None) -> None:
        """The current utterance has this text so far, of which `text[:stable]` has settled."""
        settled = join_texts([self._earlier_text, text[:stable]])
        if self.dropped or not settled.startswith(self._sent):
            return
        tentative = join_texts([self._earlier_text, text])[len(settled) :]
        event = self._log.dialect.progress(self.id, self._sent, settled, tentative, language_code(language))
        if event is not None:
            self._log.put(event)
        self._sent = settled

    def add_final(self, final: Final) -> None:
        """The current utterance has ended, with this text."""
        self.add_partial(final.text, len(final.text), final.language)
        self._earlier_text = self._sent
        self._finals.append(final)

    def fail(self, error: QwenASRError) -> None:
        """One of its utterances has no text, so the item has none either."""
        self._error = self._error or error

    def complete(self) -> None:
        """It is committed, and all its utterances have ended."""
        if self.dropped:
            return
        if self._error is not None:
            self._log.put(failed(self.id, self._error))
            return
        finals = [final for final in self._finals if final.text]
        languages = dict.fromkeys(code for final in finals if (code := language_code(final.language)))
        whole = ItemText(
            transcript=join_texts(final.text for final in finals),
            seconds=self.samples / SAMPLE_RATE,
            languages=tuple(languages),
            recognized=tuple(self._span(final) for final in self._finals),
            logprobs=tuple(logprobs(finals)) if self._scored else None,
        )
        self._log.put(self._log.dialect.completed(self.id, whole))

    def _span(self, final: Final) -> Span:
        begin, end = _milliseconds(final.start - self.start), _milliseconds(final.end - self.start)
        return Span(start_ms=begin, end_ms=end)


class TurnStream:
    """What both kinds have in common. Set `runner`, its session, before anything else."""

    runner: Runner

    def __init__(self, settings: RealtimeSettings, item_log: ItemLog, begin: int) -> None:
        """`begin`: samples at 16 kHz in the conversation before these."""
        self.settings = settings
        self._item_log = item_log
        self._begin = begin
        self._finished: Future[None] | None = None

    @property
    def end(self) -> int:
        """Where its audio ends, in samples at 16 kHz since the conversation began."""
        return self._begin + self.runner.received

    @property
    def quiet(self) -> bool:
        """Whether no turn is under way, so that other settings may take effect."""
        raise NotImplementedError

    @property
    def uncommitted_samples(self) -> int:
        """Samples since the last item ended."""
        raise NotImplementedError

    @property
    def backlog(self) -> float:
        """See `Runner.backlog`."""
        return self.runner.backlog

    @property
    def done(self) -> bool:
        """Whether it is finished and all its events are in the outbox."""
        return self._finished is not None and self._finished.done()

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, float32 mono at 16 kHz."""
        self.runner.feed(samples)

    def finish(self) -> Future[None]:
        """No more audio comes. The future is resolved after the last event."""
        self._finished = self.runner.finish()
        return self._finished

    def commit(self) -> Future[None]:
        """The client ends the turn here. Returns as `finish` does."""
        raise NotImplementedError

    def clear(self) -> Future[None]:
        """Drop what is not committed. Returns as `finish` does."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop everything: no more events."""
        self.runner.close()

    def detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        """What finds the utterances in the session's audio: `SessionOptions.detector`."""
        raise NotImplementedError

    def on_events(self, events: list[Event]) -> None:
        """Runs on the thread that produced the events, often the recognizer's: hand them over and return."""
        for event in events:
            if isinstance(event, Aligned):
                continue
            item = self._item(event.utterance)
            if isinstance(event, Partial):
                item.add_partial(event.text, event.stable, event.language)
                continue
            if isinstance(event, Failed):
                item.fail(StepFailed(event.message))
            else:
                item.add_final(event)
            self._utterance_ended(event.utterance)

    def _item(self, utterance: int) -> Item:
        raise NotImplementedError

    def _utterance_ended(self, utterance: int) -> None:
        """The item of that utterance has its text, or the error for it."""


class VoiceTurns(TurnStream):
    """Turns that are found by voice. Each utterance is an item."""

    def __init__(self, settings: RealtimeSettings, vad: ServerVad, item_log: ItemLog, begin: int) -> None:
        """As `TurnStream`; `vad` says how turns are found."""
        self._vad = vad
        self._items: dict[int, Item] = {}  # those without a text so far
        self._last_end = begin  # of the last item
        self._ended_by = ""  # "commit" or "clear", once the client has ended it
        super().__init__(settings, item_log, begin)

    @property
    def quiet(self) -> bool:
        """Whether there is no speech."""
        return self._observed.quiet

    @property
    def uncommitted_samples(self) -> int:
        """Samples since the last item ended."""
        return self.end - self._last_end

    def commit(self) -> Future[None]:
        """End the turn here. Without speech the item is empty, but it exists: the client waits for it."""
        before, self._ended_by = self._last_end, "commit"
        length = self.uncommitted_samples
        finished = self.finish()
        if self._last_end == before:
            item = Item(self._item_log, self.settings.logprobs)
            item.samples = length
            self._item_log.commit(item.id)
            item.complete()
        return finished

    def clear(self) -> Future[None]:
        """Drop the open turn; the texts of those before it still come."""
        self._ended_by = "clear"
        return self.finish()

    def detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        detector = UtteranceDetector(self._vad.endpoints(endpoints), VoiceActivity(silero))
        self._observed = ObservedDetector(detector, self._on_detected)
        return self._observed

    def _on_detected(self, events: Sequence[DetectorEvent]) -> None:
        """Runs on the thread that feeds, before the session takes the same events."""
        for event in events:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, Ended):
                self._end(event)

    def _start(self, event: Started) -> None:
        item = self._items[event.utterance] = Item(self._item_log, self.settings.logprobs)
        item.start = event.start
        if self._ended_by != "clear":
            started = _milliseconds(self._begin + event.start)
            self._item_log.put(SpeechStarted(audio_start_ms=started, item_id=item.id))

    def _end(self, event: Ended) -> None:
        item = self._items[event.utterance]
        item.samples = event.end - event.start
        if self._ended_by == "clear":
            item.dropped = True
            return
        self._last_end = self._begin + event.end
        if not self._ended_by:
            self._item_log.put(SpeechStopped(audio_end_ms=_milliseconds(self._last_end), item_id=item.id))
        self._item_log.commit(item.id)

    def _item(self, utterance: int) -> Item:
        return self._items[utterance]

    def _utterance_ended(self, utterance: int) -> None:
        self._items.pop(utterance).complete()


class ClientTurn(TurnStream):
    """One turn, until the client commits it: one item, of as many utterances as its length and its pauses need."""

    def __init__(self, settings: RealtimeSettings, item_log: ItemLog, begin: int) -> None:
        """As `TurnStream`."""
        self._whole = Item(item_log, settings.logprobs)
        super().__init__(settings, item_log, begin)

    @property
    def quiet(self) -> bool:
        """Whether it has no audio yet."""
        return self.uncommitted_samples == 0

    @property
    def uncommitted_samples(self) -> int:
        """All its samples: the commit ends it."""
        return self.runner.received

    def commit(self) -> Future[None]:
        """The item exists at once; its text comes as soon as it is known."""
        self._whole.samples = self.uncommitted_samples
        self._item_log.commit(self._whole.id)
        finished = self.finish()
        finished.add_done_callback(self._complete)
        return finished

    def clear(self) -> Future[None]:
        """Drop it all."""
        self._whole.dropped = True
        self.close()
        return self.finish()

    def detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        return ManualTurnDetector(endpoints, VoiceActivity(silero))

    def _item(self, utterance: int) -> Item:
        return self._whole

    def _complete(self, finished: Future[None]) -> None:
        if finished.cancelled():  # the client is gone
            return
        if finished.exception() is not None:  # it is in the log
            self._whole.fail(QwenASRError("The server failed on this item; its log says why."))
        self._whole.complete()


def new_turn_stream(settings: RealtimeSettings, item_log: ItemLog, begin: int) -> TurnStream:
    """The turns that the settings ask for, still without a session."""
    if settings.vad is None:
        return ClientTurn(settings, item_log, begin)
    return VoiceTurns(settings, settings.vad, item_log, begin)


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE
