"""Audio under one set of settings, as the items that it becomes: one for each turn.

`VoiceTurns` finds the turns by voice, any number of them; `CommittedTurn` is one turn, which the client ends. Both are
one session on the shared recognizer, driven by one thread at a time, while what is recognized comes on the scheduler's.
What they tell goes out through a `ItemLog`, in the order in which OpenAI's API has it: the deltas of an item may come
before it is committed, its `completed` or `failed` never does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Detector, Ended, EndpointConfig, Started, UtteranceDetector
from qwen_asr.audio.endpointing import DetectorEvent as Detected
from qwen_asr.audio.manual_turns import ManualTurnDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.errors import QwenASRError, StepFailed
from qwen_asr.live.events import Event, Failed, Partial
from qwen_asr.live.transcript import join_texts
from qwen_asr.service.admission import Borrowed
from qwen_asr.web.sockets.realtime import messages

if TYPE_CHECKING:
    from qwen_asr.live.runner import Runner
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.realtime.settings import ServerVad, Settings

log = logging.getLogger(__name__)


class ItemLog:
    """The items of a conversation, in order. `put` sends an event on its way; it is called from any thread."""

    def __init__(self, put: Callable[[messages.Event], None]) -> None:
        self.put = put
        self.name = ""  # of its session, for the log
        self.old = False  # whether the client speaks the API as it was before
        self._last: str | None = None

    def commit(self, item_id: str) -> None:
        """Tell that there is a new item, behind the last one."""
        previous, self._last = self._last, item_id
        self.put(messages.committed(item_id, previous))
        for event in messages.item_events(item_id, previous, self.old):
            self.put(event)


class Item:
    """One turn's text on its way: deltas while it settles, then `completed` or `failed`, once.

    The deltas put together are what had settled. They take nothing back: where a final corrects what had settled, the
    deltas stay behind it, and `completed` has the exact text.
    """

    def __init__(self, put: Callable[[messages.Event], None]) -> None:
        self.id = messages.new_id("item")
        self.dropped = False  # nobody is to hear of it any more
        self.samples = 0  # its length, as far as it is known
        self._put = put
        self._told = ""
        self._before = ""  # what was told of the utterances before the one that is heard now
        self._finals: list[str] = []
        self._error: QwenASRError | None = None

    def settled(self, text: str) -> None:
        """So much of the utterance that is heard now has settled."""
        whole = join_texts([self._before, text])
        if self.dropped or not whole.startswith(self._told) or whole == self._told:
            return
        self._put(messages.delta(self.id, whole[len(self._told) :]))
        self._told = whole

    def final(self, text: str) -> None:
        """An utterance has ended, with this text."""
        self.settled(text)
        self._before = self._told
        self._finals.append(text)

    def fail(self, error: QwenASRError) -> None:
        """One of its utterances has no text, so that the item has none either."""
        self._error = self._error or error

    def complete(self) -> None:
        """All its utterances have ended, and it was committed."""
        if self.dropped:
            return
        if self._error is None:
            self._put(messages.completed(self.id, join_texts(self._finals), self.samples / SAMPLE_RATE))
        else:
            self._put(messages.failed(self.id, self._error))


class TurnStream:
    """What both kinds have in common. `open` it before anything else, on a worker thread: that takes milliseconds."""

    _runner: Runner

    def __init__(self, settings: Settings, item_log: ItemLog, begin: int) -> None:
        """`begin`: samples at 16 kHz in the conversation before these."""
        self.settings = settings
        self._item_log = item_log
        self._begin = begin
        self._finished: Future[None] | None = None

    def open(self, service: Service) -> None:
        """Opens the session. Raises as `Service.open_session` does."""
        settings, item_log = self.settings, self._item_log
        options = service.session_options(
            context=settings.prompt, language=settings.language or "auto", detector=self._detector
        )
        self._runner = service.open_session(options, self._hear, kind="realtime", name=item_log.name, slot=Borrowed())

    @property
    def end(self) -> int:
        """Where its audio ends, in samples since the conversation began."""
        return self._begin + self._runner.received

    @property
    def quiet(self) -> bool:
        """Whether no turn is under way, so that other settings may take over."""
        raise NotImplementedError

    @property
    def uncommitted(self) -> int:
        """Samples since the last item ended."""
        raise NotImplementedError

    @property
    def ahead(self) -> float:
        """Seconds of speech that wait for a text that is being worked on."""
        # Without a step under way nothing would make the lag smaller but more audio: never wait for that.
        return self._runner.lag if self._runner.busy else 0.0

    @property
    def done(self) -> bool:
        """Whether everything was told."""
        return self._finished is not None and self._finished.done()

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples."""
        self._runner.feed(samples)

    def finish(self) -> Future[None]:
        """No more audio comes. The future is resolved once the last event was told."""
        self._finished = self._runner.finish()
        return self._finished

    def commit(self) -> Future[None]:
        """The turn ends here, because the client says so. As `finish`."""
        raise NotImplementedError

    def clear(self) -> Future[None]:
        """What is uncommitted never was. As `finish`."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget everything: nobody listens any more."""
        self._runner.close()

    def _detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        raise NotImplementedError

    def _hear(self, events: list[Event]) -> None:
        """On the recognizer's thread: hand over and return."""
        for event in events:
            item = self._item(event.utterance)
            if isinstance(event, Partial):
                item.settled(event.text[: event.stable])
            elif isinstance(event, Failed):
                item.fail(StepFailed(event.message))
            else:
                item.final(event.text)
            if not isinstance(event, Partial):
                self._ended(event.utterance)

    def _item(self, utterance: int) -> Item:
        raise NotImplementedError

    def _ended(self, utterance: int) -> None:
        """The text of that utterance, or that it has none, was told to its item."""


class TappedDetector:
    """The detector of voice, with somebody who hears what it finds, before the session does."""

    def __init__(self, detector: UtteranceDetector, tell: Callable[[Sequence[Detected]], None]) -> None:
        self.config = detector.config
        self._detector = detector
        self._tell = tell

    @property
    def quiet(self) -> bool:
        return self._detector.quiet

    def feed(self, samples: NDArray[np.float32], /) -> Sequence[Detected]:
        found = self._detector.feed(samples)
        self._tell(found)
        return found

    def finish(self) -> Sequence[Detected]:
        found = self._detector.finish()
        self._tell(found)
        return found


class VoiceTurns(TurnStream):
    """Turns that are found by voice; each utterance is an item."""

    def __init__(self, settings: Settings, vad: ServerVad, item_log: ItemLog, begin: int) -> None:
        """As `TurnStream`; `vad` is how the turns are found."""
        self._vad = vad
        self._items: dict[int, Item] = {}  # those whose text is not known yet
        self._last_end = begin  # of the last item
        self._ending = ""  # how the client ends it, if the client does
        super().__init__(settings, item_log, begin)

    @property
    def quiet(self) -> bool:
        """Whether nobody speaks."""
        return self._overheard.quiet

    @property
    def uncommitted(self) -> int:
        """Samples since the last item ended."""
        return self.end - self._last_end

    def commit(self) -> Future[None]:
        """End the turn here. Where nobody spoke the item is empty, but it is there: who commits waits for it."""
        before, self._ending = self._last_end, "commit"
        length = self.uncommitted
        finished = self.finish()
        if self._last_end == before:
            item = Item(self._item_log.put)
            item.samples = length
            self._item_log.commit(item.id)
            item.complete()
        return finished

    def clear(self) -> Future[None]:
        """Drop the open turn; the texts of those before it still come."""
        self._ending = "clear"
        return self.finish()

    def _detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        detector = UtteranceDetector(self._vad.endpoints(endpoints), VoiceActivity(silero))
        self._overheard = TappedDetector(detector, self._found)
        return self._overheard

    def _found(self, events: Sequence[Detected]) -> None:
        """On the thread that feeds, before the session takes the same events."""
        for event in events:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, Ended):
                self._end(event)

    def _start(self, event: Started) -> None:
        item = self._items[event.utterance] = Item(self._item_log.put)
        if self._ending != "clear":
            self._item_log.put(messages.speech_started(item.id, _milliseconds(self._begin + event.start)))

    def _end(self, event: Ended) -> None:
        item = self._items[event.utterance]
        item.samples = event.end - event.start
        if self._ending == "clear":
            item.dropped = True
            return
        self._last_end = self._begin + event.end
        if not self._ending:
            self._item_log.put(messages.speech_stopped(item.id, _milliseconds(self._last_end)))
        self._item_log.commit(item.id)

    def _item(self, utterance: int) -> Item:
        return self._items[utterance]

    def _ended(self, utterance: int) -> None:
        self._items.pop(utterance).complete()


class CommittedTurn(TurnStream):
    """One turn, from the first sample to the client's commit: one item, of as many utterances as its length needs."""

    def __init__(self, settings: Settings, item_log: ItemLog, begin: int) -> None:
        """As `TurnStream`."""
        self._whole = Item(item_log.put)
        super().__init__(settings, item_log, begin)

    @property
    def quiet(self) -> bool:
        """Whether it has not begun."""
        return self.uncommitted == 0

    @property
    def uncommitted(self) -> int:
        """All its samples: with the commit it is over."""
        return self._runner.received

    def commit(self) -> Future[None]:
        """The item is there at once, its text as soon as it is known."""
        self._whole.samples = self.uncommitted
        self._item_log.commit(self._whole.id)
        finished = self.finish()
        finished.add_done_callback(self._complete)
        return finished

    def clear(self) -> Future[None]:
        """Drop it all."""
        self._whole.dropped = True
        self.close()
        return self.finish()

    def _detector(self, _: Silero, endpoints: EndpointConfig) -> Detector:
        return ManualTurnDetector(endpoints)

    def _item(self, utterance: int) -> Item:
        return self._whole

    def _complete(self, finished: Future[None]) -> None:
        if finished.cancelled():  # the client is gone
            return
        if finished.exception() is not None:  # it is in the log
            self._whole.fail(QwenASRError("The server failed on this item; its log says why."))
        self._whole.complete()


def open_turn_stream(service: Service, settings: Settings, item_log: ItemLog, begin: int) -> TurnStream:
    """What the settings ask for. Raises as `Service.open_session` does."""
    turns: TurnStream
    if settings.turns is None:
        turns = CommittedTurn(settings, item_log, begin)
    else:
        turns = VoiceTurns(settings, settings.turns, item_log, begin)
    turns.open(service)
    return turns


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE
