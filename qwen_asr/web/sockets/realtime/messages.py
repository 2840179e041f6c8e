"""The events of `/v1/realtime`, as docs/openai.md describes them: the client's are checked, the server's are made.

A server event here has no `event_id` yet; it gets one as it is put on its way (`numbered`).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import Any

from qwen_asr.errors import BadField, BadInput, QwenASRError
from qwen_asr.web.error_response import envelope
from qwen_asr.web.sockets.realtime.settings import OLD_UPDATE, UPDATE, Settings, shown

Event = dict[str, Any]

APPEND, COMMIT, CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"
KINDS = (UPDATE, OLD_UPDATE, APPEND, COMMIT, CLEAR)
LEAST_COMMIT_MS = 100.0
"""What a commit needs at least, as OpenAI has it."""
_LONGEST_ID = 512
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass(frozen=True)
class ClientEvent:
    """An event of one of `KINDS`. `event_id`: the client's own name for it; `audio`: the bytes of an append."""

    kind: str
    body: Event
    event_id: str | None = None
    audio: bytes = b""


def read(message: str) -> Event:
    """The JSON object in a client's text message. Raises BadField where there is none."""
    try:
        given = json.loads(message)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadField("type", f"A message is {shown(message)}; expected an event, a JSON object with a type.")
    return given


def event_id_of(given: Event) -> str | None:
    """The client's own name for its event. Raises BadField for one that cannot be told back."""
    value = given.get("event_id")
    if value is None:
        return None
    fits = isinstance(value, str) and len(value) <= _LONGEST_ID
    if not fits or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadField("event_id", f"event_id was given {shown(value)}; expected at most {_LONGEST_ID} characters.")
    return str(value)


def parse(given: Event) -> ClientEvent:
    """An object that a client sent. Raises BadField for anything but a known event."""
    kind = given.get("type")
    if kind not in KINDS:
        raise BadField("type", f"The event has the type {shown(kind)}; expected one of {', '.join(KINDS)}.")
    return ClientEvent(kind, given, event_id_of(given), _audio(given) if kind == APPEND else b"")


def _audio(given: Event) -> bytes:
    try:
        return base64.b64decode(given["audio"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        said = f"audio was given {shown(given.get('audio'))}; expected the samples' bytes in base64."
        raise BadField("audio", said) from None


# --- the server's


def numbered(event: Event) -> Event:
    """The event with an id of its own, as it is sent."""
    return {"type": event["type"], "event_id": new_id("event"), **event}


def new_id(kind: str) -> str:
    """An id that nobody else has."""
    return f"{kind}_{secrets.token_hex(11)}"


@dataclass(frozen=True)
class SessionInfo:
    """A session as its events tell of it. `expires_at`: Unix time in seconds at which it will be ended."""

    session_id: str
    model: str
    expires_at: int

    def session(self, verb: str, settings: Settings, old: bool = False) -> Event:
        """`session.created` or `session.updated`, by `verb`; `old`: in the shape that the API had before."""
        body = settings.as_old_session(self.model) if old else settings.as_session(self.model)
        return {
            "type": f"{'transcription_session' if old else 'session'}.{verb}",
            "session": {"id": self.session_id, **body, "include": None, "expires_at": self.expires_at},
        }


def speech_started(item_id: str, milliseconds: int) -> Event:
    """Voice was found; `milliseconds` of audio lie before the turn."""
    return {"type": "input_audio_buffer.speech_started", "audio_start_ms": milliseconds, "item_id": item_id}


def speech_stopped(item_id: str, milliseconds: int) -> Event:
    """The turn ended there."""
    return {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": milliseconds, "item_id": item_id}


def committed(item_id: str, previous: str | None) -> Event:
    """The turn is complete and has become an item."""
    return {"type": "input_audio_buffer.committed", "previous_item_id": previous, "item_id": item_id}


def item_events(item_id: str, previous: str | None, old: bool) -> list[Event]:
    """What tells of the new item itself. Its transcript is not known yet."""
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    verbs = ("created",) if old else ("added", "done")
    return [{"type": f"conversation.item.{verb}", "previous_item_id": previous, "item": item} for verb in verbs]


def queued(position: int) -> Event:
    """What a client is told that waits for a place; 1 is the next to come in. Not one of OpenAI's events."""
    return {"type": "session.queued", "position": position}


def cleared() -> Event:
    """What was not committed is gone."""
    return {"type": "input_audio_buffer.cleared"}


def delta(item_id: str, text: str) -> Event:
    """More of the item's text has settled."""
    return {"type": f"{_TRANSCRIPTION}.delta", "item_id": item_id, "content_index": 0, "delta": text}


def completed(item_id: str, text: str, seconds: float) -> Event:
    """The item's whole text; `seconds` is the length of its audio."""
    usage = {"type": "duration", "seconds": seconds}
    return {
        "type": f"{_TRANSCRIPTION}.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": text,
        "usage": usage,
    }


def failed(item_id: str, error: QwenASRError) -> Event:
    """The item has no text; the session goes on."""
    told = envelope(error)["error"]
    return {"type": f"{_TRANSCRIPTION}.failed", "item_id": item_id, "content_index": 0, "error": told}


def problem(error: QwenASRError, event_id: str | None = None, code: str | None = None) -> Event:
    """The `error` event. `event_id`: that of the client's event which is to blame; `code` replaces the error's own."""
    told = envelope(error)["error"]
    if isinstance(error, BadField):
        told["code"] = "invalid_value"  # OpenAI's name for it
    return {"type": "error", "error": {**told, "code": code or told["code"], "event_id": event_id}}


def too_little(milliseconds: float, event_id: str | None) -> Event:
    """What a commit of less than `LEAST_COMMIT_MS` is answered with, in OpenAI's words."""
    said = (
        "Error committing input audio buffer: buffer too small. Expected at least "
        f"{LEAST_COMMIT_MS:g}ms of audio, but buffer only has {milliseconds:.2f}ms of audio."
    )
    return problem(BadInput(said), event_id, "input_audio_buffer_commit_empty")
