"""What a realtime session is set to, and the updates that change it, in both shapes that OpenAI's API has had.

Today's: ``session.update`` with ``audio.input.format|transcription|turn_detection`` inside of ``session``. The older:
``transcription_session.update`` with ``input_audio_format``, ``input_audio_transcription`` and ``turn_detection`` side
by side. What an update leaves out stays as it was, null is the default, except for ``turn_detection``, whose null
means that the client commits its turns itself. What this server has no use for (noise reduction, keywords …) is passed
over, as the transcription route does it; what would be missing from the answers is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qwen_asr.audio import g711
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadField, UnknownLanguage

if TYPE_CHECKING:
    from qwen_asr.audio.endpointing import EndpointConfig

UPDATE, OLD_UPDATE = "session.update", "transcription_session.update"
RATES = (24_000, 16_000, 8_000)
"""The rates of PCM, in Hz; the first is OpenAI's own, and the default."""
MOST_PADDING_MS = 3_000.0
"""At most half of the shortest `--max-utterance-seconds` may lie before the voice."""
SHOWN = 80
"""How much of what a client sent an error repeats, in characters."""
_OPTIONS = {option.name: option.metadata for option in dataclasses.fields(Config)}


@dataclass(frozen=True)
class AudioFormat:
    """How samples come. `encoding` is `PcmStream`'s name."""

    encoding: str = "s16le"
    rate: int = RATES[0]


_LAWS = {"mulaw": ("audio/pcmu", "g711_ulaw"), "alaw": ("audio/pcma", "g711_alaw")}
_NEW = {"audio/pcm": "s16le", **{new: law for law, (new, _) in _LAWS.items()}}
_OLD = {"pcm16": "s16le", **{old: law for law, (_, old) in _LAWS.items()}}


@dataclass(frozen=True)
class ServerVad:
    """Turns are found by voice. Thresholds as in `EndpointConfig`, times in milliseconds."""

    threshold: float
    prefix_padding_ms: float
    silence_duration_ms: float

    @classmethod
    def of(cls, config: Config) -> ServerVad:
        """As the server's options say."""
        return cls(config.vad_threshold, 300.0, config.silence_threshold * 1000)

    def endpoints(self, server: EndpointConfig) -> EndpointConfig:
        """The server's endpoints, changed to these."""
        return replace(
            server,
            threshold=self.threshold,
            pre_roll_seconds=self.prefix_padding_ms / 1000,
            silence_seconds=self.silence_duration_ms / 1000,
        )

    def updated(self, given: Mapping[str, Any], path: str) -> ServerVad:
        """With what a client gave under `path`. Raises BadField."""
        silence = _OPTIONS["silence_threshold"]
        ranges = {
            "threshold": (_OPTIONS["vad_threshold"]["low"], _OPTIONS["vad_threshold"]["high"]),
            "prefix_padding_ms": (0.0, MOST_PADDING_MS),
            "silence_duration_ms": (silence["low"] * 1000, silence["high"] * 1000),
        }
        numbers = {
            name: _number(given[name], f"{path}.{name}", *bounds)
            for name, bounds in ranges.items()
            if given.get(name) is not None
        }
        return replace(self, **numbers)

    def shown(self) -> dict[str, Any]:
        """As the API writes it: milliseconds are whole numbers."""
        return {
            "type": "server_vad",
            "threshold": self.threshold,
            "prefix_padding_ms": round(self.prefix_padding_ms),
            "silence_duration_ms": round(self.silence_duration_ms),
        }


@dataclass(frozen=True)
class Settings:
    """Everything that a client can set. `turns` is None where the client commits its turns itself."""

    turns: ServerVad | None
    format: AudioFormat = field(default_factory=AudioFormat)
    language: str | None = None
    prompt: str = ""

    def hears_as(self, other: Settings) -> bool:
        """Whether a turn that began under the others can go on: all but the format of the audio is the same."""
        return replace(self, format=other.format) == other

    def updated(self, event: Mapping[str, Any], config: Config) -> Settings:
        """With what an update in either shape says. Raises BadField, whose `param` is the path of what is wrong."""
        old = event.get("type") == OLD_UPDATE
        session = _object(event, "session", "session", required=True)
        _check_include(session)
        if old:
            audio, path = session, "session"
            names = ("input_audio_format", "input_audio_transcription")
        else:
            if session.get("type", "transcription") != "transcription":
                raise BadField(
                    "session.type", f"session.type is {shown(session['type'])}; this server has only 'transcription'."
                )
            outer = _object(session, "audio", "session.audio")
            audio, path = _object(outer, "input", "session.audio.input"), "session.audio.input"
            names = ("format", "transcription")
        changed = self
        if names[0] in audio:
            where = f"{path}.{names[0]}"
            changed = replace(changed, format=_old_format(audio[names[0]], where) if old else _format(audio, where))
        if names[1] in audio:
            given = _object(audio, names[1], f"{path}.{names[1]}")
            changed = changed._transcription(given, audio[names[1]] is None, f"{path}.{names[1]}", config)
        if "turn_detection" in audio:
            changed = replace(changed, turns=self._turns(audio, f"{path}.turn_detection", config))
        return changed

    def _transcription(self, given: Mapping[str, Any], none: bool, path: str, config: Config) -> Settings:
        _text(given, "model", f"{path}.model")  # whatever its name: the loaded checkpoint answers
        language, prompt = self.language, self.prompt
        if none or "language" in given:
            language = _language(_text(given, "language", f"{path}.language"), f"{path}.language")
            language = language or config.default_language
        if none or "prompt" in given:
            prompt = _text(given, "prompt", f"{path}.prompt")
        return replace(self, language=language, prompt=prompt)

    def _turns(self, audio: Mapping[str, Any], path: str, config: Config) -> ServerVad | None:
        if audio["turn_detection"] is None:
            return None
        given = _object(audio, "turn_detection", path)
        if given.get("type", "server_vad") != "server_vad":
            raise BadField(
                f"{path}.type", f"{path}.type is {shown(given['type'])}; expected 'server_vad', or null for {path}."
            )
        return (self.turns or ServerVad.of(config)).updated(given, path)

    def as_session(self, model: str) -> dict[str, Any]:
        """The session object's settings, in today's shape."""
        law = _LAWS.get(self.format.encoding)
        described = {"type": law[0]} if law else {"type": "audio/pcm", "rate": self.format.rate}
        inputs = {
            "format": described,
            "noise_reduction": None,
            "transcription": self._shown_transcription(model),
            "turn_detection": self.turns.shown() if self.turns else None,
        }
        return {"object": "realtime.transcription_session", "type": "transcription", "audio": {"input": inputs}}

    def as_old_session(self, model: str) -> dict[str, Any]:
        """The same in the older shape, which has no word for other rates of PCM."""
        law = _LAWS.get(self.format.encoding)
        return {
            "object": "realtime.transcription_session",
            "input_audio_format": law[1] if law else "pcm16",
            "input_audio_noise_reduction": None,
            "input_audio_transcription": self._shown_transcription(model),
            "turn_detection": self.turns.shown() if self.turns else None,
        }

    def _shown_transcription(self, model: str) -> dict[str, Any]:
        return {"model": model, "language": self.language, "prompt": self.prompt}


def prompt_path(kind: str) -> str:
    """Where an update of that type has the prompt."""
    within = "input_audio_transcription" if kind == OLD_UPDATE else "audio.input.transcription"
    return f"session.{within}.prompt"


def shown(value: Any) -> str:
    """A value as the client wrote it, shortened, in ASCII so that anything can be sent back."""
    try:
        written = json.dumps(value)
    except RecursionError:  # it was read a few calls higher up, where there was still room for its depth
        return "too deep a value"
    return written if len(written) <= SHOWN else written[:SHOWN] + "…"


def _check_include(session: Mapping[str, Any]) -> None:
    if included := session.get("include"):
        raise BadField("session.include", f"session.include {shown(included)} is not available; leave it out.")


def _object(given: Mapping[str, Any], key: str, path: str, required: bool = False) -> dict[str, Any]:
    """The object under `key`; an empty one for null or nothing, unless it is `required`."""
    value = given.get(key)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        raise BadField(path, f"{path} was given {shown(value)}; expected an object.")
    return value


def _text(given: Mapping[str, Any], key: str, path: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadField(path, f"{path} was given {shown(value)}; expected a text.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadField(path, f"{path} holds half of a surrogate pair; expected Unicode text.")
    return value


def _number(value: Any, path: str, low: float, high: float) -> float:
    # Written so that NaN, which compares false with everything, is refused too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadField(path, f"{path} was given {shown(value)}; expected a number from {low:g} to {high:g}.")
    return float(value)


def _language(value: str, path: str) -> str | None:
    if len(value) > SHOWN:
        raise BadField(path, f"{path} was given {shown(value)}; expected a code or a name such as de or German.")
    try:
        resolve_language(value)
    except UnknownLanguage as error:
        raise BadField(path, str(error)) from error
    return value or None


def _format(audio: Mapping[str, Any], path: str) -> AudioFormat:
    given = _object(audio, "format", path)
    kind, rate = given.get("type", "audio/pcm"), given.get("rate")
    encoding = _NEW.get(kind) if isinstance(kind, str) else None
    if encoding is None:
        raise BadField(f"{path}.type", f"{path}.type is {shown(kind)}; expected one of {', '.join(_NEW)}.")
    rates = RATES if encoding == "s16le" else (g711.RATE,)
    if rate is None:
        return AudioFormat(encoding, rates[0])
    if isinstance(rate, bool) or rate not in rates:
        raise BadField(
            f"{path}.rate", f"{path}.rate is {shown(rate)}; expected one of {', '.join(map(str, rates))} for {kind}."
        )
    return AudioFormat(encoding, int(rate))


def _old_format(value: Any, path: str) -> AudioFormat:
    name = "pcm16" if value is None else value
    encoding = _OLD.get(name) if isinstance(name, str) else None
    if encoding is None:
        raise BadField(path, f"{path} is {shown(value)}; expected one of {', '.join(_OLD)}.")
    return AudioFormat(encoding, RATES[0] if encoding == "s16le" else g711.RATE)
