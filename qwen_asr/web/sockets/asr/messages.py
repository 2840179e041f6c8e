"""The messages of `/ws/asr` as pydantic models: checks the client's, builds the server's. See docs/protocol.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.validation import HIGHEST_RATE, LOWEST_RATE
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.engine.words import Word
from qwen_asr.errors import BadConfig, BadInput, QwenASRError
from qwen_asr.live.events import Aligned, Failed, Partial, TextEvent
from qwen_asr.web.sockets.messages import ClientModel, ServerMessage, ServerModel, read_object
from qwen_asr.web.validation import SHOWN_CHARACTERS, expects, first_error, shown

_CHUNK = next(field.metadata for field in dataclasses.fields(Config) if field.name == "chunk_size_sec")

MAX_OFFSET = 2**53
"""The largest `offset`. Many programs read JSON numbers as floats, which are not exact above it."""

MAX_MODEL_NAME = 256
"""Characters of a model's name that a client may send."""

# --- the client's


def _as_whole(value: Any) -> Any:
    """JSON has one type of number, so 48000.0 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


ChunkSeconds = Annotated[
    Annotated[float, Field(ge=_CHUNK["low"], le=_CHUNK["high"])] | Literal["auto"],
    expects(f'a number from {_CHUNK["low"]:g} to {_CHUNK["high"]:g}, or "auto"'),
]
SampleRate = Annotated[
    int,
    Field(ge=LOWEST_RATE, le=HIGHEST_RATE),
    BeforeValidator(_as_whole),
    expects(f"a whole number from {LOWEST_RATE} to {HIGHEST_RATE}, for example 16000 or 48000"),
]
Offset = Annotated[
    int,
    Field(ge=0, le=MAX_OFFSET),
    BeforeValidator(_as_whole),
    expects(f"a whole number of samples from 0 to {MAX_OFFSET}"),
]
Language = Annotated[str, Field(max_length=SHOWN_CHARACTERS), expects("a name or a code such as German or de")]
ModelName = Annotated[str, Field(max_length=MAX_MODEL_NAME), expects(f"a text of at most {MAX_MODEL_NAME} characters")]
Encoding = Annotated[Literal["f32le", "s16le"], BeforeValidator(lambda value: value or "f32le")]


class AsrConfig(ClientModel):
    """The client's first message. What it leaves out has the server's default; null counts as left out.

    `resume` is the id of the session to go on with, and `offset` the sample of the client's stream at which the last
    final that it has ended. `model_fields_set` holds the keys that it gave a value.
    """

    type: Literal["config"]
    context: str = ""
    prompt: str = ""
    language: Language = ""
    chunk_size_sec: ChunkSeconds | None = None
    sample_rate: SampleRate = SAMPLE_RATE
    encoding: Encoding = "f32le"
    words: bool = False
    model: ModelName = ""
    resume: str = ""
    offset: Offset = 0

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _check_offset(self) -> Self:
        if "offset" in self.model_fields_set and not self.resume:
            raise ValueError(
                "offset was given without resume; expected the session_id of the session to go on with as well."
            )
        return self


def parse_config(text: str) -> AsrConfig:
    """Parse the first message.

    Raises `BadConfig` for anything but a config, and for a value of the wrong type or out of its range;
    `UnknownLanguage` for a language that the model does not know.
    """
    given = _read(text)
    if (kind := given.get("type")) != "config":
        raise BadConfig(f'The first message has the type {shown(kind)}; expected {{"type": "config"}} with settings.')
    try:
        config = AsrConfig.model_validate(given)
    except ValidationError as error:
        raise BadConfig(first_error(error)[1]) from None
    resolve_language(config.language or None)
    return config


_KEEPALIVES = ("keepalive", "ping")
"""The types by which other services' clients say that they are alive, such as `KeepAlive`; read without case."""


def parse_control(text: str) -> Literal["finalize", "keepalive"] | WarningMessage:
    """What a text message after the first means; a warning for a type that the protocol does not have.

    Raises `BadInput` for a second config, and `BadConfig` for anything but a JSON object.
    """
    kind = _read(text, 'a JSON object such as {"type": "finalize"}, or audio in binary messages').get("type")
    if kind == "config":
        raise BadInput("A second config came; a session has one: open another connection for other settings.")
    if kind == "finalize":
        return "finalize"
    if isinstance(kind, str) and kind.lower().replace("_", "") in _KEEPALIVES:
        return "keepalive"
    return unknown_message(kind)


def unknown_message(kind: Any) -> WarningMessage:
    """The warning about a text message of a type that the protocol does not have."""
    return WarningMessage(
        code="UnknownMessage",
        message=f'A text message has the type {shown(kind)} and was ignored; expected {{"type": "finalize"}}, '
        '{"type": "keepalive"}, or audio in binary messages.',
    )


def check_resume(given: AsrConfig, session: AsrConfig) -> str | None:
    """Compare the config of a client that resumes with that of its session.

    Returns a warning if settings differ that cannot be changed any more, else None. Raises `BadConfig` where the audio
    would be decoded wrongly.
    """
    settings = [key for key in AsrConfig.model_fields if key not in ("type", "resume", "offset")]
    differing = [
        key for key in settings if key in given.model_fields_set and _meaning(given, key) != _meaning(session, key)
    ]
    for key in ("sample_rate", "encoding"):
        if key in differing:
            new, old = shown(getattr(given, key)), shown(getattr(session, key))
            raise BadConfig(f"{key} was given {new}, but the session to resume has {old}: give that.")
    if not differing:
        return None
    return (
        f"resume: {', '.join(differing)} differ from the session's, which stay: open a new session for other settings."
    )


def _meaning(config: AsrConfig, key: str) -> Any:
    """The value of a setting; "de" and "German" are one, and so are "Small" and "small"."""
    value = getattr(config, key)
    if key == "model":
        return value.casefold()
    return resolve_language(value) if key == "language" else value


def _read(text: str, expected: str = 'a JSON object such as {"type": "config"}') -> dict[str, Any]:
    """The JSON object in a text message. Raises `BadConfig`, which says what was expected."""
    try:
        return read_object(text, expected)
    except ValueError as error:
        raise BadConfig(str(error)) from None


# --- the server's


@dataclass(frozen=True)
class ClientTimeline:
    """Converts positions in a session (samples at 16 kHz) to positions in the client's stream.

    The stream has `rate` samples a second, of which the first `base` went to an earlier session.
    """

    rate: int = SAMPLE_RATE
    base: int = 0

    def seconds(self, position: int) -> float:
        """Seconds since the beginning of the client's stream."""
        return (self.base * SAMPLE_RATE / self.rate + position) / SAMPLE_RATE

    def sample(self, position: int) -> int:
        """Samples since the beginning of the client's stream, at its own rate, rounded down."""
        return self.base + position * self.rate // SAMPLE_RATE


class AsrMessage(ServerMessage):
    """A message of the server. A key whose value is None is left out."""

    def as_dict(self) -> dict[str, Any]:
        """See `ServerMessage`."""
        return self.model_dump(exclude_none=True)


class SessionCreated(AsrMessage):
    """The config was accepted.

    `model`: the one that answers, if the client has named one. `received_samples`: set where the client wanted to
    resume a session that this server does not know. It sends its audio from this sample on.
    """

    type: Literal["session_created"] = "session_created"
    session_id: str
    model: str | None = None
    received_samples: int | None = None


class SessionResumed(AsrMessage):
    """The session goes on: the client sends its audio from sample `received_samples` of its stream on."""

    type: Literal["session_resumed"] = "session_resumed"
    session_id: str
    received_samples: int
    warning: str | None = None


class Queued(AsrMessage):
    """The client waits for a slot. Position 1 is the next to get one."""

    type: Literal["queued"] = "queued"
    position: int


class Loading(AsrMessage):
    """The model that the client has named is being loaded. `message` is the progress, for people."""

    type: Literal["loading"] = "loading"
    message: str


class ErrorMessage(AsrMessage):
    """What ended a session, or kept it from beginning."""

    type: Literal["error"] = "error"
    message: str
    code: str


class WarningMessage(AsrMessage):
    """Something is wrong, mostly with what the client sends; the session goes on."""

    type: Literal["warning"] = "warning"
    message: str
    code: str

    def replaces(self, waiting: ServerMessage) -> bool:
        """See `ServerMessage`: a client that does not read does not fill the memory with warnings of one kind."""
        return isinstance(waiting, WarningMessage) and waiting.code == self.code


class PartialMessage(AsrMessage):
    """The text so far of the utterance that is being spoken. Positions are seconds in the client's stream."""

    type: Literal["partial"] = "partial"
    language: str
    text: str
    timestamp: float
    stable: int
    utterance: int
    start: float
    end: float
    lag: float
    received_samples: int
    warning: str | None = None

    def replaces(self, waiting: ServerMessage) -> bool:
        """See `ServerMessage`: the newest partial of an utterance is enough."""
        return isinstance(waiting, PartialMessage) and waiting.utterance == self.utterance


class WordTimes(ServerModel):
    """A word, with the punctuation that touches it. Times are seconds in the client's stream, to the millisecond."""

    word: str
    start: float
    end: float


class FinalMessage(AsrMessage):
    """The text of a whole utterance. `end_sample`: where it ends in the client's stream, in samples at its own rate.

    `words`: None where the client does not want them; empty where they are not known, or not yet.
    """

    type: Literal["final"] = "final"
    language: str
    text: str
    timestamp: float
    is_speech_final: Literal[True] = True
    stable: int
    utterance: int
    start: float
    end: float
    lag: float
    received_samples: int
    end_sample: int
    words: tuple[WordTimes, ...] | None = None
    warning: str | None = None
    repeated: Literal[True] | None = None


class WordsMessage(AsrMessage):
    """The words of an utterance whose final was sent without them, because finding their times takes long."""

    type: Literal["words"] = "words"
    utterance: int
    words: tuple[WordTimes, ...]
    repeated: Literal[True] | None = None


class UtteranceErrorMessage(ErrorMessage):
    """One utterance has no text; the session goes on. It takes the place of that utterance's final."""

    code: Literal["StepFailed"] = "StepFailed"
    utterance: int
    start: float
    end: float
    lag: float
    received_samples: int
    end_sample: int
    repeated: Literal[True] | None = None


def event_message(
    event: TextEvent, received: int, now: float, timeline: ClientTimeline | None = None, *, with_words: bool = False
) -> PartialMessage | FinalMessage | UtteranceErrorMessage:
    """The message for an event of the session.

    `received` is the sample of the client's stream up to which audio was received; `now` is the Unix time in seconds,
    which clients of the protocol's first server show as the time of day. `with_words`: whether the client wants them.
    """
    timeline = timeline or ClientTimeline()
    position: dict[str, Any] = {
        "utterance": event.utterance,
        "start": timeline.seconds(event.start),
        "end": timeline.seconds(event.end),
        "lag": round(event.lag, 3),
        "received_samples": received,
    }
    if not isinstance(event, Partial):
        # The end may be rounded up to 16 kHz. A client that resumes must not leave out samples not received yet.
        position["end_sample"] = min(timeline.sample(event.end), received)
    if isinstance(event, Failed):
        return UtteranceErrorMessage(message=event.message, **position)
    text: dict[str, Any] = {"language": event.language or "", "text": event.text, "timestamp": now}
    warning = "\n".join(event.warnings) or None
    if isinstance(event, Partial):
        return PartialMessage(**text, stable=event.stable, **position, warning=warning)
    words = word_times(event.words, timeline) if with_words else None
    return FinalMessage(**text, stable=len(event.text), **position, words=words, warning=warning)


def words_message(aligned: Aligned, timeline: ClientTimeline | None = None) -> WordsMessage:
    """The message for words that come after their final."""
    return WordsMessage(utterance=aligned.utterance, words=word_times(aligned.words, timeline or ClientTimeline()))


def word_times(words: Iterable[Word], timeline: ClientTimeline) -> tuple[WordTimes, ...]:
    """The words with times in the client's stream."""
    return tuple(
        WordTimes(
            word=word.text, start=round(timeline.seconds(word.start), 3), end=round(timeline.seconds(word.end), 3)
        )
        for word in words
    )


def no_words(reason: str) -> WarningMessage:
    """The warning to a client that wants words, about why text has none."""
    return WarningMessage(code="NoWords", message=f"words: {reason}")


def empty_final(
    samples: int, received: int, now: float, timeline: ClientTimeline | None = None, *, with_words: bool = False
) -> FinalMessage:
    """The final of a session of `samples` at 16 kHz in which nothing was said: clients wait for one."""
    timeline = timeline or ClientTimeline()
    end, end_sample = timeline.seconds(samples), min(timeline.sample(samples), received)
    return FinalMessage(
        language="", text="", timestamp=now, stable=0, utterance=0, start=end, end=end, lag=0.0,
        received_samples=received, end_sample=end_sample, words=() if with_words else None,
    )  # fmt: skip


def error_message(error: QwenASRError) -> ErrorMessage:
    """The message for what ended a session, or kept it from beginning."""
    return ErrorMessage(message=str(error), code=type(error).__name__)
