"""The events of `/v1/realtime` as pydantic models: checks the client's, builds the server's. See docs/openai.md."""

from __future__ import annotations

import base64
import dataclasses
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from qwen_asr.audio import g711
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadField, BadInput, QwenASRError, UnknownLanguage
from qwen_asr.web.error_response import envelope
from qwen_asr.web.sockets.messages import ClientModel, ServerMessage, ServerModel, read_object
from qwen_asr.web.validation import SHOWN_CHARACTERS, Expectation, expects, first_error, shown

UPDATE, OLD_UPDATE = "session.update", "transcription_session.update"
APPEND, COMMIT, CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"
RATES = (24_000, 16_000, 8_000)
"""The rates of PCM, in Hz. The first is the default, as at OpenAI."""
MAX_PADDING_MS = 3_000.0
"""The longest `prefix_padding_ms`: half of the shortest `--max-utterance-seconds`."""
MIN_COMMIT_MS = 100.0
"""The least audio that can be committed, as at OpenAI."""
MAX_EVENT_ID_CHARACTERS = 512
_OPTIONS = {option.name: option.metadata for option in dataclasses.fields(Config)}
M = TypeVar("M", bound=ClientModel)

# --- the client's


def _known_language(name: str) -> str:
    if len(name) > SHOWN_CHARACTERS:
        raise Expectation("a code or a name such as de or German")
    try:
        resolve_language(name)
    except UnknownLanguage as error:
        raise ValueError(str(error)) from None
    return name


def _nothing_included(value: Any) -> None:
    if value:
        raise ValueError(f"session.include {shown(value)} is not available; leave it out.")


def _decode_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError
    return base64.b64decode(value, validate=True)


_VAD, _SILENCE = _OPTIONS["vad_threshold"], _OPTIONS["silence_threshold"]
EventId = Annotated[
    str, Field(max_length=MAX_EVENT_ID_CHARACTERS), expects(f"at most {MAX_EVENT_ID_CHARACTERS} characters of Unicode")
]
Audio = Annotated[bytes, BeforeValidator(_decode_base64), expects("the bytes of the samples in base64")]
Include = Annotated[Any, AfterValidator(_nothing_included)]
Language = Annotated[str, AfterValidator(_known_language)]
Threshold = Annotated[
    float,
    Field(ge=_VAD["low"], le=_VAD["high"]),
    expects(f"a number from {_VAD['low']:g} to {_VAD['high']:g}"),
]
Padding = Annotated[float, Field(ge=0, le=MAX_PADDING_MS), expects(f"a number from 0 to {MAX_PADDING_MS:g}")]
Silence = Annotated[
    float,
    Field(ge=_SILENCE["low"] * 1000, le=_SILENCE["high"] * 1000),
    expects(f"a number from {_SILENCE['low'] * 1000:g} to {_SILENCE['high'] * 1000:g}"),
]


class ClientEvent(ClientModel):
    """Any event of a client. `event_id` is the client's own name for it."""

    type: str
    event_id: EventId | None = None


class FormatUpdate(ClientModel):
    """The encoding of the client's audio, and its sampling rate in Hz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = None

    @field_validator("rate", mode="before")
    @classmethod
    def _known_rate(cls, rate: Any, info: ValidationInfo) -> int | None:
        kind = info.data.get("type", "audio/pcm")
        rates = RATES if kind == "audio/pcm" else (g711.RATE,)
        if rate is None:
            return None
        if isinstance(rate, bool) or rate not in rates:
            expected = ", ".join(map(str, rates))
            raise Expectation(f"{'one of ' if len(rates) > 1 else ''}{expected} for {kind}")
        return int(rate)


class TranscriptionUpdate(ClientModel):
    """What is known about the speech. `model` may have any value: the loaded checkpoint answers."""

    model: str | None = None
    language: Language | None = None
    prompt: str | None = None


class TurnDetectionUpdate(ClientModel):
    """How turns are found by voice. See docs/openai.md for the units."""

    type: Annotated[Literal["server_vad"], expects("server_vad, or null in place of turn_detection")] = "server_vad"
    threshold: Threshold | None = None
    prefix_padding_ms: Padding | None = None
    silence_duration_ms: Silence | None = None


class InputUpdate(ClientModel):
    """The settings of a session in the current shape of the API. Fields that are not set keep their values."""

    format: FormatUpdate | None = None
    transcription: TranscriptionUpdate | None = None
    turn_detection: TurnDetectionUpdate | None = None


class AudioUpdate(ClientModel):
    """The `audio` object of a `session.update` in the current shape of the API."""

    input: InputUpdate | None = None


class SessionBody(ClientModel):
    """The session object of a `session.update`."""

    include: Include = None
    type: Annotated[Literal["transcription"], expects("transcription, the only type of this server")] = "transcription"
    audio: AudioUpdate | None = None


class OldSessionBody(ClientModel):
    """The session object of a `transcription_session.update`, the older shape of the API."""

    include: Include = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_transcription: TranscriptionUpdate | None = None
    turn_detection: TurnDetectionUpdate | None = None


class SessionUpdate(ClientEvent):
    """Changes the settings."""

    type: Literal["session.update"]
    session: SessionBody


class OldSessionUpdate(ClientEvent):
    """Changes the settings, in the older shape of the API."""

    type: Literal["transcription_session.update"]
    session: OldSessionBody


class AudioAppend(ClientEvent):
    """More audio, in base64."""

    type: Literal["input_audio_buffer.append"]
    audio: Audio


class AudioCommit(ClientEvent):
    """Ends the turn."""

    type: Literal["input_audio_buffer.commit"]


class AudioClear(ClientEvent):
    """Drops the audio that was not committed."""

    type: Literal["input_audio_buffer.clear"]


_CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    UPDATE: SessionUpdate,
    OLD_UPDATE: OldSessionUpdate,
    APPEND: AudioAppend,
    COMMIT: AudioCommit,
    CLEAR: AudioClear,
}
KINDS = tuple(_CLIENT_EVENTS)
"""The types of a client's events."""


class _Identified(ClientModel):
    event_id: EventId | None = None


def read(text: str) -> dict[str, Any]:
    """The JSON object in a client's text message. Raises BadField if there is none."""
    try:
        return read_object(text, "an event, a JSON object with a type")
    except ValueError as error:
        raise BadField("type", str(error)) from None


def event_id_of(given: Mapping[str, Any]) -> str | None:
    """The client's own name for its event. Raises BadField for one that cannot be sent back."""
    return _validate(_Identified, given).event_id


def parse(given: Mapping[str, Any]) -> ClientEvent:
    """Parse an object that a client sent. Raises BadField for anything but a known event."""
    kind = given.get("type")
    model = _CLIENT_EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise BadField("type", f"The event has the type {shown(kind)}; expected one of {', '.join(KINDS)}.")
    return _validate(model, given)


def _validate(model: type[M], given: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise BadField(*first_error(error)) from None


# --- the server's


def new_id(kind: str) -> str:
    """A unique id."""
    return f"{kind}_{secrets.token_hex(11)}"


class ServerEvent(ServerMessage):
    """Any event of the server."""

    event_id: str = Field(default_factory=lambda: new_id("event"))


class PcmFormat(ServerModel):
    """16-bit PCM at `rate` Hz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: int


class G711Format(ServerModel):
    """The telephone's µ-law (`audio/pcmu`) or A-law."""

    type: Literal["audio/pcmu", "audio/pcma"]


class Transcription(ServerModel):
    """What the session was told about the speech."""

    model: str
    language: str | None
    prompt: str


class TurnDetection(ServerModel):
    """How turns are found by voice."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int


class Input(ServerModel):
    """The settings in the current shape. `turn_detection` is None if the client commits its turns itself."""

    format: PcmFormat | G711Format
    noise_reduction: None = None
    transcription: Transcription
    turn_detection: TurnDetection | None


class AudioSettings(ServerModel):
    """The `audio` object of a session in the current shape of the API."""

    input: Input


class SessionObject(ServerModel):
    """A session. `expires_at`: the Unix time, in seconds, at which it will be ended."""

    id: str
    object: Literal["realtime.transcription_session"] = "realtime.transcription_session"
    type: Literal["transcription"] = "transcription"
    audio: AudioSettings
    include: None = None
    expires_at: int


class OldSessionObject(ServerModel):
    """A session in the older shape, which has no name for other rates of PCM than 24000."""

    id: str
    object: Literal["realtime.transcription_session"] = "realtime.transcription_session"
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"]
    input_audio_noise_reduction: None = None
    input_audio_transcription: Transcription
    turn_detection: TurnDetection | None
    include: None = None
    expires_at: int


class SessionEvent(ServerEvent):
    """The settings of the session as they are now."""

    type: Literal["session.created", "session.updated"]
    session: SessionObject


class OldSessionEvent(ServerEvent):
    """The same in the older shape."""

    type: Literal["transcription_session.created", "transcription_session.updated"]
    session: OldSessionObject


class Queued(ServerEvent):
    """The client waits for a slot. Position 1 is the next to get one. Not one of OpenAI's events."""

    type: Literal["session.queued"] = "session.queued"
    position: int


class SpeechStarted(ServerEvent):
    """A turn was found; `audio_start_ms` of audio lie before it."""

    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    """The turn has ended there."""

    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class Committed(ServerEvent):
    """The turn is complete and has become an item."""

    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    previous_item_id: str | None
    item_id: str


class Cleared(ServerEvent):
    """The audio that was not committed is dropped."""

    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class Content(ServerModel):
    """The content of an item. The transcript is not known yet when the item is announced."""

    type: Literal["input_audio"] = "input_audio"
    transcript: None = None


class ItemObject(ServerModel):
    """An item of the conversation."""

    id: str
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["message"] = "message"
    status: Literal["completed"] = "completed"
    role: Literal["user"] = "user"
    content: tuple[Content, ...] = (Content(),)


class ItemEvent(ServerEvent):
    """There is a new item. `created` is the older shape's event."""

    type: Literal["conversation.item.added", "conversation.item.done", "conversation.item.created"]
    previous_item_id: str | None
    item: ItemObject


class TranscriptionDelta(ServerEvent):
    """More of the item's text has settled."""

    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str


class Usage(ServerModel):
    """The length of the item's audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class Span(ServerModel):
    """A part of an item's audio, in milliseconds since its beginning."""

    start_ms: int
    end_ms: int


class TranscriptionCompleted(ServerEvent):
    """The item's whole text. `recognized`: the parts of its audio that the model heard, in order; not of OpenAI."""

    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    usage: Usage
    recognized: tuple[Span, ...] = ()


class ErrorObject(ServerModel):
    """An error as all of OpenAI's API writes it. `param`: the path of what is wrong."""

    message: str
    type: str
    param: str | None
    code: str


class TranscriptionFailed(ServerEvent):
    """The item has no text; the session goes on."""

    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    item_id: str
    content_index: int = 0
    error: ErrorObject


class EventErrorObject(ErrorObject):
    """`event_id`: that of the client's event that caused the error."""

    event_id: str | None


class ErrorEvent(ServerEvent):
    """An event of the client's that could not be used, or what ends the session."""

    type: Literal["error"] = "error"
    error: EventErrorObject


def announce_item(item_id: str, previous: str | None, old_api: bool) -> list[ItemEvent]:
    """The events that announce a new item, in the current or the older shape."""
    item = ItemObject(id=item_id)
    if old_api:
        return [ItemEvent(type="conversation.item.created", previous_item_id=previous, item=item)]
    return [
        ItemEvent(type="conversation.item.added", previous_item_id=previous, item=item),
        ItemEvent(type="conversation.item.done", previous_item_id=previous, item=item),
    ]


def failed(item_id: str, error: QwenASRError) -> TranscriptionFailed:
    """The event for an item that has no text."""
    return TranscriptionFailed(item_id=item_id, error=ErrorObject(**envelope(error)["error"]))


def error_event(error: QwenASRError, event_id: str | None = None, code: str | None = None) -> ErrorEvent:
    """The event for an error. `event_id`: of the client's event that caused it; `code` replaces the error's own."""
    body = envelope(error)["error"]
    if isinstance(error, BadField):
        body["code"] = "invalid_value"  # OpenAI's name for it
    if code is not None:
        body["code"] = code
    return ErrorEvent(error=EventErrorObject(**body, event_id=event_id))


def too_little_audio(milliseconds: float, event_id: str | None) -> ErrorEvent:
    """The event for a commit of less than `MIN_COMMIT_MS`, in OpenAI's words."""
    sentence = (
        "Error committing input audio buffer: buffer too small. Expected at least "
        f"{MIN_COMMIT_MS:g}ms of audio, but buffer only has {milliseconds:.2f}ms of audio."
    )
    return error_event(BadInput(sentence), event_id, "input_audio_buffer_commit_empty")
