"""The events of `/v1/realtime` as pydantic models: checks the client's, builds the server's. See docs/openai.md.

What clients may set is in `updates`, and the server's events that differ between the dialects are in `dialects`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from qwen_asr.errors import AudioError, BadField, BadInput, QwenASRError
from qwen_asr.web.error_response import envelope
from qwen_asr.web.sockets.messages import ClientModel, ServerMessage, ServerModel, read_object
from qwen_asr.web.sockets.realtime.updates import DASHSCOPE_CONTEXT, SessionBody, is_dashscope
from qwen_asr.web.validation import expects, first_error, shown

UPDATE, OLD_UPDATE = "session.update", "transcription_session.update"
APPEND, COMMIT, CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"
FINISH = "session.finish"
MIN_COMMIT_MS = 100.0
"""The least audio that can be committed, as at OpenAI."""
MAX_EVENT_ID_CHARACTERS = 512
_CONVERSATION = ("response.", "conversation.", "output_audio_buffer.", "input_image_buffer.")
"""Prefixes of what clients send to a model that answers."""
M = TypeVar("M", bound=ClientModel)

# --- the client's


def _decode_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError
    return base64.b64decode(value, validate=True)


EventId = Annotated[
    str, Field(max_length=MAX_EVENT_ID_CHARACTERS), expects(f"at most {MAX_EVENT_ID_CHARACTERS} characters of Unicode")
]
Audio = Annotated[bytes, BeforeValidator(_decode_base64), expects("the bytes of the samples in base64")]


class ClientEvent(ClientModel):
    """Any event of a client. `event_id` is the client's own name for it."""

    type: str
    event_id: EventId | None = None


class SessionUpdate(ClientEvent):
    """Changes the settings. Both types have the same settings; the answer has the shape of the type."""

    type: Literal["session.update", "transcription_session.update"]
    session: SessionBody


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


class SessionFinish(ClientEvent):
    """No more audio comes: DashScope's way to end a session."""

    type: Literal["session.finish"]


_CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    UPDATE: SessionUpdate,
    OLD_UPDATE: SessionUpdate,
    APPEND: AudioAppend,
    COMMIT: AudioCommit,
    CLEAR: AudioClear,
    FINISH: SessionFinish,
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
    return validate(_Identified, given).event_id


def shows_dashscope(given: Mapping[str, Any]) -> bool:
    """Whether only clients that speak DashScope's dialect send such an event."""
    kind = given.get("type")
    return kind == FINISH or (kind in (UPDATE, OLD_UPDATE) and is_dashscope(given.get("session")))


def parse(given: Mapping[str, Any], dashscope: bool = False) -> ClientEvent:
    """Parse an object that a client sent, in DashScope's dialect or not. Raises BadField if it is no known event."""
    kind = given.get("type")
    model = _CLIENT_EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        expected = f"expected one of {', '.join(KINDS)}."
        if isinstance(kind, str) and kind.startswith(_CONVERSATION):
            raise BadField(
                "type", f"The event has the type {shown(kind)}, but this server only transcribes; {expected}"
            )
        raise BadField("type", f"The event has the type {shown(kind)}; {expected}")
    return validate(model, given, dashscope)


def validate(model: type[M], given: Mapping[str, Any], dashscope: bool = False) -> M:
    """The object as that model, in DashScope's dialect or not. Raises BadField."""
    try:
        return model.model_validate(given, context={DASHSCOPE_CONTEXT: dashscope})
    except ValidationError as error:
        raise BadField(*first_error(error)) from None


# --- the server's


def new_id(kind: str) -> str:
    """A unique id."""
    return f"{kind}_{secrets.token_hex(11)}"


class ServerEvent(ServerMessage):
    """Any event of the server."""

    event_id: str = Field(default_factory=lambda: new_id("event"))


class Queued(ServerEvent):
    """The client waits for a slot. Position 1 is the next to get one. Not one of OpenAI's events."""

    type: Literal["session.queued"] = "session.queued"
    position: int


class Loading(ServerEvent):
    """The model that the client has chosen is being loaded; `message` is the progress. Not one of OpenAI's events."""

    type: Literal["session.loading"] = "session.loading"
    message: str


class SessionWarning(ServerEvent):
    """Something is wrong, mostly with the audio. The session goes on. Not one of OpenAI's events: clients ignore it."""

    type: Literal["session.warning"] = "session.warning"
    code: str
    message: str


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


def failed(item_id: str, error: QwenASRError) -> TranscriptionFailed:
    """The event for an item that has no text."""
    return TranscriptionFailed(item_id=item_id, error=ErrorObject(**envelope(error)["error"]))


def error_event(error: QwenASRError, event_id: str | None = None, code: str | None = None) -> ErrorEvent:
    """The event for an error. `event_id`: of the client's event that caused it; `code` replaces the error's own."""
    body = envelope(error)["error"]
    if isinstance(error, BadField):
        body["code"] = "invalid_value"  # OpenAI's name for it
    if isinstance(error, AudioError):
        body["param"] = "audio"
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
