"""The messages of `/ws/asr`, as docs/protocol.md describes them: the client's are checked, the server's are made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import ENCODINGS
from qwen_asr.audio.samples import HIGHEST_RATE, LOWEST_RATE
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadConfig, BadInput, QwenASRError
from qwen_asr.live.events import Event, Failed, Final, Partial

_CHUNK = next(field.metadata for field in dataclasses.fields(Config) if field.name == "chunk_size_sec")
_SHOWN = 80
"""How much of what a client sent an error repeats, in characters."""


MOST_SAMPLES = 2**53
"""The largest offset: from there on the numbers of JSON, which many read as floats, are not whole any more."""


@dataclass(frozen=True)
class Settings:
    """What a client's first message asked for. `encoding` is one of `pcm.ENCODINGS`.

    `resume` is the session that it comes back to, `offset` the sample at which its last final ended. `named` are the
    keys that it gave a value.
    """

    rate: int
    encoding: str
    language: str | None = None
    context: str = ""
    prompt: str = ""
    chunk_seconds: float | None = None
    resume: str = ""
    offset: int = 0
    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stream:
    """The client's own audio: its `rate`, and how many of its samples (`base`) went to an earlier session."""

    rate: int = SAMPLE_RATE
    base: int = 0

    def seconds(self, position: int) -> float:
        """Where a position in the session (samples at 16 kHz) is in the client's stream."""
        return (self.base * SAMPLE_RATE / self.rate + position) / SAMPLE_RATE

    def sample(self, position: int) -> int:
        """The same as a sample of the client's: the last one that lies not behind the position."""
        return self.base + position * self.rate // SAMPLE_RATE


def parse_config(message: str) -> Settings:
    """The first message. Unknown keys are ignored, null is as good as absent.

    Raises `BadConfig` for anything but a config, and for a value of the wrong type or out of its range;
    `UnknownLanguage` for a language of no model.
    """
    given = _object(message)
    kind = given.get("type")
    if kind != "config":
        raise BadConfig(f'The first message has the type {_shown(kind)}; expected {{"type": "config"}} and settings.')
    language = _text(given, "language") or None
    resolve_language(language)
    settings = Settings(
        rate=_rate(given),
        encoding=_encoding(given),
        language=language,
        context=_text(given, "context"),
        prompt=_text(given, "prompt"),
        chunk_seconds=_chunk_seconds(given),
    )
    resume, offset = _text(given, "resume"), _offset(given)
    if offset is not None and not resume:
        raise BadConfig("offset was given without resume; expected the session_id of the session to go on with.")
    named = frozenset(key for key, value in given.items() if value is not None)
    return dataclasses.replace(settings, resume=resume, offset=offset or 0, named=named)


def check_resume(asked: Settings, session: Settings) -> str | None:
    """The settings that a client comes back with, beside those of its session; a warning where some have no effect.

    Raises `BadConfig` where the audio would be read as what it is not.
    """
    for key, new, old in (
        ("sample_rate", asked.rate, session.rate),
        ("encoding", asked.encoding, session.encoding),
    ):
        if key in asked.named and new != old:
            raise BadConfig(f"{key} was given {_shown(new)}, but the session to resume has {_shown(old)}: give that.")
    options = {"context": "context", "prompt": "prompt", "language": "language", "chunk_size_sec": "chunk_seconds"}
    other = [
        key for key, name in options.items() if key in asked.named and getattr(asked, name) != getattr(session, name)
    ]
    if not other:
        return None
    return f"resume: {', '.join(other)} differ from the session's, which stay: open a new session for other settings."


def check_finalize(message: str) -> None:
    """A text message after the first. Raises `BadInput` unless it is the finalize."""
    kind = _object(message).get("type")
    if kind == "config":
        raise BadInput("A second config came; a session has one: open another connection for other settings.")
    if kind != "finalize":
        raise BadInput(
            f'A text message has the type {_shown(kind)}; expected {{"type": "finalize"}}, or audio in binary messages.'
        )


def _object(message: str) -> dict[str, Any]:
    """The JSON object in a message. Raises `BadConfig`."""
    try:
        given = json.loads(message)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadConfig(f'A text message is {_shown(message)}; expected a JSON object such as {{"type": "config"}}.')
    return given


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadConfig(f"{key} was given {_shown(value)}; expected a text.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadConfig(f"{key} holds half of a surrogate pair; expected Unicode text.")
    if key == "language" and len(value) > _SHOWN:
        raise BadConfig(f"language was given {_shown(value)}; expected a name or a code such as German or de.")
    return value


def _number(given: dict[str, Any], key: str, low: float, high: float) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    # Written so that NaN, which compares false with everything, is refused too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadConfig(f"{key} was given {_shown(value)}; expected a number from {low:g} to {high:g}.")
    return value


def _chunk_seconds(given: dict[str, Any]) -> float | None:
    return _number(given, "chunk_size_sec", _CHUNK["low"], _CHUNK["high"])


def _rate(given: dict[str, Any]) -> int:
    rate = _number(given, "sample_rate", LOWEST_RATE, HIGHEST_RATE)
    if rate is not None and not float(rate).is_integer():
        raise BadConfig(f"sample_rate was given {_shown(rate)}; expected a whole number, for example 16000 or 48000.")
    return SAMPLE_RATE if rate is None else int(rate)


def _offset(given: dict[str, Any]) -> int | None:
    offset = _number(given, "offset", 0, MOST_SAMPLES)
    if offset is not None and not float(offset).is_integer():
        raise BadConfig(f"offset was given {_shown(offset)}; expected a whole number of samples.")
    return None if offset is None else int(offset)


def _encoding(given: dict[str, Any]) -> str:
    encoding = _text(given, "encoding") or "f32le"
    if encoding not in ENCODINGS:
        raise BadConfig(f"encoding was given {_shown(encoding)}; expected one of {', '.join(ENCODINGS)}.")
    return encoding


def _shown(value: Any) -> str:
    """A value as the client wrote it, shortened, in ASCII so that anything can be sent back."""
    written = json.dumps(value)
    return written if len(written) <= _SHOWN else written[:_SHOWN] + "…"


# --- the server's


def session_created(session_id: str, received: int | None = None) -> dict[str, Any]:
    """The answer to a config that was accepted.

    `received`: the client wanted to resume a session that is not known here; it sends its audio from this sample on.
    """
    told: dict[str, Any] = {"type": "session_created", "session_id": session_id}
    return told if received is None else told | {"received_samples": received}


def queued(position: int) -> dict[str, Any]:
    """What a client is told that waits for a place; 1 is the next to come in."""
    return {"type": "queued", "position": position}


def session_resumed(session_id: str, received: int, warning: str | None = None) -> dict[str, Any]:
    """The answer to a config that resumes a session: the client goes on with sample `received` of its stream."""
    told: dict[str, Any] = {"type": "session_resumed", "session_id": session_id, "received_samples": received}
    return told if warning is None else told | {"warning": warning}


def of_event(event: Event, received: int, now: float, stream: Stream | None = None) -> dict[str, Any]:
    """What the client is told of an event.

    `received` is the sample of the client's `stream` up to which all was taken; `now` is the Unix time in seconds,
    which clients of the protocol's first server show as the time of day.
    """
    slot = _place(event, received, stream or Stream())
    if isinstance(event, Failed):
        return {"type": "error", "message": event.message, "code": "StepFailed", **slot}
    told = {
        "type": "partial" if isinstance(event, Partial) else "final",
        "language": event.language or "",
        "text": event.text,
        "timestamp": now,
        "stable": event.stable if isinstance(event, Partial) else len(event.text),
        **slot,
    }
    if isinstance(event, Final):
        told["is_speech_final"] = True
    if event.warnings:
        told["warning"] = "\n".join(event.warnings)
    return told


def nothing_said(samples: int, received: int, now: float, stream: Stream | None = None) -> dict[str, Any]:
    """The final of a session of `samples` at 16 kHz in which no utterance was found: clients wait for one."""
    final = Final(utterance=0, start=samples, end=samples, language=None, text="", lag=0.0)
    return of_event(final, received, now, stream)


def of_error(error: QwenASRError) -> dict[str, Any]:
    """What ended a session, or kept it from beginning."""
    return {"type": "error", "message": str(error), "code": type(error).__name__}


def _place(event: Event, received: int, stream: Stream) -> dict[str, Any]:
    slot = {
        "utterance": event.utterance,
        "start": stream.seconds(event.start),
        "end": stream.seconds(event.end),
        "lag": round(event.lag, 3),
        "received_samples": received,
    }
    if not isinstance(event, Partial):
        # The end may be rounded up to 16 kHz; what was not received yet must not be left out by who resumes.
        slot["end_sample"] = min(stream.sample(event.end), received)
    return slot
