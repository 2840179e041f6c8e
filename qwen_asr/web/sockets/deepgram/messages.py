"""The messages of live `/v1/listen`: reads the client's, builds the server's. See docs/deepgram.md."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, Literal, Self

import qwen_asr
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.languages import language_code
from qwen_asr.errors import AudioError, BadInput, QwenASRError, TimedOut
from qwen_asr.live.events import Final, Partial
from qwen_asr.live.transcript import rounded_seconds
from qwen_asr.web.sockets.messages import ServerMessage, ServerModel, close_reason, read_object
from qwen_asr.web.spoken_words import spoken_words
from qwen_asr.web.validation import shown

KEEP_ALIVE, FINALIZE, CLOSE_STREAM = "KeepAlive", "Finalize", "CloseStream"
TYPES = (KEEP_ALIVE, FINALIZE, CLOSE_STREAM)
_EXPECTED = f'{{"type": …}} with one of {", ".join(TYPES)}'

# --- the client's


def message_type(text: str) -> str:
    """The type of a client's message: one of `TYPES`. Raises BadInput."""
    try:
        kind = read_object(text, _EXPECTED).get("type")
    except ValueError as error:
        raise BadInput(str(error)) from None
    if kind not in TYPES:
        raise BadInput(f"A message has the type {shown(kind)}; expected {_EXPECTED}.")
    return str(kind)


# --- the server's


class ModelInfo(ServerModel):
    """The checkpoint that answers."""

    name: str
    version: str = qwen_asr.__version__
    arch: str = "qwen3-asr"


class ResultsMetadata(ServerModel):
    """What all results of a connection have in common."""

    request_id: str
    model_info: ModelInfo
    model_uuid: str

    @classmethod
    def of(cls, name: str) -> ResultsMetadata:
        """For a new request to the model of that name."""
        return cls(
            request_id=str(uuid.uuid4()),
            model_info=ModelInfo(name=name),
            model_uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        )


class Word(ServerModel):
    """A word, with times in seconds: `word` in lower case without punctuation, `punctuated_word` as in the text."""

    word: str
    start: float
    end: float
    confidence: float
    punctuated_word: str


class Alternative(ServerModel):
    """A text. There are no `words` where their times are not known."""

    transcript: str = ""
    confidence: float = 0.0
    languages: list[str] | None = None
    words: tuple[Word, ...] = ()


class Channel(ServerModel):
    """The text of the one channel."""

    alternatives: list[Alternative]


class Results(ServerMessage):
    """A text: of an utterance so far, or, with `is_final`, of a whole one. Times are in seconds."""

    type: Literal["Results"] = "Results"
    channel_index: tuple[int, int] = (0, 1)
    duration: float
    start: float
    is_final: bool
    speech_final: bool = False
    channel: Channel
    metadata: ResultsMetadata
    from_finalize: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Without the keys that have no value."""
        return self.model_dump(exclude_none=True)

    def replaces(self, waiting: ServerMessage) -> bool:
        """The next text of an utterance replaces an interim one."""
        return isinstance(waiting, Results) and not waiting.is_final and waiting.start == self.start


class SpeechStarted(ServerMessage):
    """Speech has begun. `timestamp`: where, in seconds."""

    type: Literal["SpeechStarted"] = "SpeechStarted"
    channel: tuple[int] = (0,)
    timestamp: float


class UtteranceEnd(ServerMessage):
    """It has been quiet for as long as `utterance_end_ms` says. `last_word_end`: since when, in seconds."""

    type: Literal["UtteranceEnd"] = "UtteranceEnd"
    channel: tuple[int, int] = (0, 1)
    last_word_end: float


class RequestInfo(ServerModel):
    """About a whole request: a file, or a connection. `sha256`: of the audio as it came; `duration`: in seconds."""

    transaction_key: str = "deprecated"
    request_id: str
    sha256: str
    created: str
    duration: float
    channels: int = 1
    models: list[str]
    model_info: dict[str, ModelInfo]

    @classmethod
    def of(cls, metadata: ResultsMetadata, created: datetime, sha256: str, seconds: float) -> Self:
        """For the request of these results."""
        return cls(
            request_id=metadata.request_id,
            sha256=sha256,
            created=created.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            duration=seconds,
            models=[metadata.model_uuid],
            model_info={metadata.model_uuid: metadata.model_info},
        )


class Metadata(RequestInfo, ServerMessage):
    """The last message."""

    type: Literal["Metadata"] = "Metadata"


class Error(ServerMessage):
    """Something went wrong. The connection goes on, unless a close follows."""

    type: Literal["Error"] = "Error"
    variant: str
    description: str

    @classmethod
    def of(cls, error: QwenASRError, variant: str = "") -> Error:
        """`variant` is Deepgram's name for the kind of error; without one it is ours."""
        return cls(variant=variant or _CODES.get(type(error), (type(error).__name__, 0))[0], description=str(error))


_CODES: dict[type[QwenASRError], tuple[str, int]] = {AudioError: ("DATA-0000", 1008), TimedOut: ("NET-0001", 1011)}
"""Errors for which Deepgram has a code and a close code of its own."""


def close_frame(error: QwenASRError) -> tuple[int, str]:
    """The code and the reason of the close for an error, as at Deepgram where it has the same one."""
    if type(error) not in _CODES:
        return error.close_code, close_reason(error)
    name, code = _CODES[type(error)]
    return code, close_reason(QwenASRError(f"{name}: {error}"))


def confidence(finals: Sequence[Final]) -> float:
    """The geometric mean of the probabilities of the tokens of all texts; 0.0 without tokens."""
    scores = [token.log_probability for final in finals for token in final.tokens]
    return math.exp(fmean(scores)) if scores else 0.0


def alternative(event: Partial | Final, with_language: bool, begin: int = 0) -> Alternative:
    """The text of an event. A partial has no confidence yet: 0.0, and no words.

    `begin`: samples at 16 kHz before the session. The times of words count from before them.
    """
    code = language_code(event.language) if with_language else None
    return Alternative(
        transcript=event.text,
        confidence=confidence([event]) if isinstance(event, Final) else 0.0,
        languages=[code] if code else None,
        words=words(event, begin) if isinstance(event, Final) else (),
    )


def words(final: Final, begin: int = 0) -> tuple[Word, ...]:
    """The words of a text. `punctuated_word` of all, with the blanks between them, are the text. `begin` as above."""
    return tuple(
        Word(
            word=word.bare.lower(),
            start=rounded_seconds(begin + word.start),
            end=rounded_seconds(begin + word.end),
            confidence=word.confidence,
            punctuated_word=word.text,
        )
        for word in spoken_words(final)
    )


def seconds(samples: int) -> float:
    """Samples at 16 kHz as seconds."""
    return samples / SAMPLE_RATE
