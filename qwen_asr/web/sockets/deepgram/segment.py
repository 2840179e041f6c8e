"""The audio between two `Finalize` messages: one session on the shared recognizer, and the messages about it.

One thread at a time feeds it, while texts come on the scheduler's threads. Its results are in the order of its audio.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Detector, DetectorEvent, Ended, EndpointConfig, Started, UtteranceDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.errors import StepFailed
from qwen_asr.live.events import Aligned, Event, Failed, Partial, TextEvent
from qwen_asr.web.sockets.deepgram.messages import (
    Alternative,
    Channel,
    Error,
    Results,
    ResultsMetadata,
    SpeechStarted,
    UtteranceEnd,
    alternative,
    seconds,
)
from qwen_asr.web.sockets.messages import ServerMessage
from qwen_asr.web.sockets.observed_detector import ObservedDetector

if TYPE_CHECKING:
    from qwen_asr.live.runner import Runner
    from qwen_asr.web.sockets.deepgram.query import LiveQuery

Put = Callable[[ServerMessage], None]


class Pauses:
    """Announces a pause with `UtteranceEnd`: once its length and the text of what was said before it are known.

    Both become known in different threads. Positions are samples at 16 kHz since the connection began.
    """

    def __init__(self, length: int | None, put: Put) -> None:
        """`length`: of a pause, in samples; None for no announcements."""
        self._length = length
        self._put = put
        self._lock = threading.Lock()
        self._position = 0
        self._begin: int | None = None  # of the current pause; None while somebody speaks, and once it is announced
        self._untold = 0  # utterances without a text so far

    def speech_started(self) -> None:
        """The pause is over."""
        with self._lock:
            self._begin = None
            self._untold += 1

    def speech_ended(self, position: int) -> None:
        """A pause begins."""
        with self._lock:
            self._begin = position

    def heard(self, position: int) -> None:
        """The audio up to here was searched for speech."""
        with self._lock:
            self._position = position
            self._announce()

    def told(self) -> None:
        """The text of an utterance was put."""
        with self._lock:
            self._untold -= 1
            self._announce()

    def _announce(self) -> None:
        begin, length = self._begin, self._length
        if begin is not None and length is not None and not self._untold and self._position - begin >= length:
            self._begin = None
            self._put(UtteranceEnd(last_word_end=seconds(begin)))


class Segment:
    """See the module. Set `runner`, its session, before anything else.

    `finalizing`: set before `runner.finish` if the client finalizes. The result of the utterance that it ends says so.
    """

    runner: Runner
    finalizing = False

    def __init__(self, query: LiveQuery, metadata: ResultsMetadata, put: Put, pauses: Pauses, begin: int) -> None:
        """`begin`: samples at 16 kHz in the connection before these."""
        self.begin = begin
        self._query = query
        self._metadata = metadata
        self._put = put
        self._pauses = pauses
        self._ended: dict[int, Ended] = {}  # utterances whose text is still to come
        self._confirmed = False

    @property
    def end(self) -> int:
        """Where its audio ends, in samples at 16 kHz since the connection began."""
        return self.begin + self.runner.received

    def confirm(self) -> None:
        """Call it after the last event of a segment that was finalized: if no result has said so, an empty one does."""
        if not self._confirmed:
            self._put(confirmation(self.end, self._metadata))

    def detector(self, silero: Silero, endpoints: EndpointConfig) -> Detector:
        """`SessionOptions.detector`."""
        detector = UtteranceDetector(self._query.endpoints(endpoints), VoiceActivity(silero))
        self._hang_over = round(min(detector.config.hang_over_seconds, detector.config.silence_seconds) * SAMPLE_RATE)
        return ObservedDetector(detector, self._on_detected)

    def _on_detected(self, events: Sequence[DetectorEvent]) -> None:
        """Runs on the thread that feeds, before the session takes the same events."""
        for event in events:
            if isinstance(event, Started):
                self._pauses.speech_started()
                if self._query.vad_events:
                    self._put(SpeechStarted(timestamp=seconds(self.begin + event.start)))
            elif isinstance(event, Ended):
                self._ended[event.utterance] = event
                quiet = event.end - (self._hang_over if event.reason == "silence" else 0)
                self._pauses.speech_ended(self.begin + quiet)

    def on_events(self, events: list[Event]) -> None:
        """Runs on the thread that produced the events, often the recognizer's: hand them over and return."""
        for event in events:
            if isinstance(event, Aligned):
                continue
            if isinstance(event, Partial):
                if self._query.interim_results:
                    self._put(self._results(event, alternative(event, self._detects_language)))
                continue
            ended = self._ended.pop(event.utterance)
            if isinstance(event, Failed):
                self._put(Error.of(StepFailed(event.message)))
                text = Alternative()
            else:
                text = alternative(event, self._detects_language, self.begin)
            self._put(self._results(event, text, ended))
            self._pauses.told()

    @property
    def _detects_language(self) -> bool:
        return self._query.language_option in ("", "auto")

    def _results(self, event: TextEvent, text: Alternative, ended: Ended | None = None) -> Results:
        """The message for a text; `ended` is how its utterance ended, if it did."""
        from_finalize = self.finalizing and ended is not None and ended.reason == "finish"
        self._confirmed = self._confirmed or from_finalize
        return Results(
            start=seconds(self.begin + event.start),
            duration=seconds(event.end - event.start),
            is_final=ended is not None,
            speech_final=ended is not None and ended.reason == "silence" and self._query.announces_endpoints,
            channel=Channel(alternatives=[text]),
            metadata=self._metadata,
            from_finalize=from_finalize,
        )


def confirmation(position: int, metadata: ResultsMetadata) -> Results:
    """The answer to `Finalize` where no text was left to come."""
    return Results(
        start=seconds(position),
        duration=0.0,
        is_final=True,
        channel=Channel(alternatives=[Alternative()]),
        metadata=metadata,
        from_finalize=True,
    )
