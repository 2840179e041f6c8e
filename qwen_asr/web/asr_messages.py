"""The messages of `/ws/asr`, as docs/protocol.md describes them: the client's are checked, the server's are made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import ENCODINGS
from qwen_asr.audio.resample import HIGHEST_RATE, LOWEST_RATE
from qwen_asr.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadConfig, BadInput, QwenASRError
from qwen_asr.live.events import Event, Failed, Final, Partial
from qwen_asr.web.speaker import Wishes

_CHUNK = next(field.metadata for field in dataclasses.fields(Config) if field.name == "chunk_size_sec")
_SHOWN = 80
"""How much of what a client sent an error repeats, in characters."""


@dataclass(frozen=True)
class Settings:
    """What a client's first message asked for. `encoding` is one of `pcm.ENCODINGS`."""

    wishes: Wishes
    encoding: str


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
    wishes = Wishes(
        rate=_rate(given),
        context=_text(given, "context"),
        language=language,
        prompt=_text(given, "prompt"),
        chunk_seconds=_chunk_seconds(given),
    )
    return Settings(wishes, _encoding(given))


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


def session_created(session_id: str) -> dict[str, Any]:
    """The answer to a config that was accepted."""
    return {"type": "session_created", "session_id": session_id}


def queued(position: int) -> dict[str, Any]:
    """What a client is told that waits for a place; 1 is the next to come in."""
    return {"type": "queued", "position": position}


def of_event(event: Event, received: int, now: float) -> dict[str, Any]:
    """What the client is told of an event.

    `received` counts the samples taken so far, at the client's rate; `now` is the Unix time in seconds, which clients
    of the protocol's first server show as the time of day.
    """
    if isinstance(event, Failed):
        return {"type": "error", "message": event.message, "code": "StepFailed", **_place(event, received)}
    told = {
        "type": "partial" if isinstance(event, Partial) else "final",
        "language": event.language or "",
        "text": event.text,
        "timestamp": now,
        "stable": event.stable if isinstance(event, Partial) else len(event.text),
        **_place(event, received),
    }
    if isinstance(event, Final):
        told["is_speech_final"] = True
    if event.warnings:
        told["warning"] = "\n".join(event.warnings)
    return told


def nothing_said(samples: int, received: int, now: float) -> dict[str, Any]:
    """The final of a session of `samples` at 16 kHz in which no utterance was found: clients wait for one."""
    return of_event(Final(utterance=0, start=samples, end=samples, language=None, text="", lag=0.0), received, now)


def of_error(error: QwenASRError) -> dict[str, Any]:
    """What ended a session, or kept it from beginning."""
    return {"type": "error", "message": str(error), "code": type(error).__name__}


def _place(event: Event, received: int) -> dict[str, Any]:
    return {
        "utterance": event.utterance,
        "start": event.start / SAMPLE_RATE,
        "end": event.end / SAMPLE_RATE,
        "lag": round(event.lag, 3),
        "received_samples": received,
    }


def encode(message: dict[str, Any]) -> str:
    """A message as it is sent."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False)
