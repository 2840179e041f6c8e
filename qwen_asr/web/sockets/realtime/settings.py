"""The settings of a realtime session, the updates that change them, and the events that report them.

OpenAI's API has had two shapes. The current one: ``session.update`` with ``audio.input.format|transcription|
turn_detection`` inside of ``session``. The older one: ``transcription_session.update`` with ``input_audio_format``,
``input_audio_transcription`` and ``turn_detection`` side by side. In both, fields that are left out keep their values,
and null restores the default, except for ``turn_detection``: null means that the client commits its turns itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from qwen_asr.audio import g711
from qwen_asr.config.config import Config
from qwen_asr.web.sockets.realtime.messages import (
    OLD_UPDATE,
    RATES,
    AudioSettings,
    FormatUpdate,
    G711Format,
    Input,
    InputUpdate,
    OldSessionBody,
    OldSessionEvent,
    OldSessionObject,
    OldSessionUpdate,
    PcmFormat,
    SessionEvent,
    SessionObject,
    SessionUpdate,
    Transcription,
    TranscriptionUpdate,
    TurnDetection,
    TurnDetectionUpdate,
)

if TYPE_CHECKING:
    from qwen_asr.audio.endpointing import EndpointConfig

DEFAULT_PADDING_MS = 300.0  # OpenAI's

_ENCODINGS = {"audio/pcm": "s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_OLD_ENCODINGS = {"pcm16": "s16le", "g711_ulaw": "mulaw", "g711_alaw": "alaw"}
_G711_TYPES: dict[str, tuple[Literal["audio/pcmu", "audio/pcma"], Literal["g711_ulaw", "g711_alaw"]]] = {
    "mulaw": ("audio/pcmu", "g711_ulaw"),
    "alaw": ("audio/pcma", "g711_alaw"),
}


@dataclass(frozen=True)
class AudioFormat:
    """How samples are encoded: one of `PcmStream`'s encodings, and the sampling rate in Hz."""

    encoding: str = "s16le"
    rate: int = RATES[0]

    @classmethod
    def of(cls, encoding: str, rate: int | None = None) -> AudioFormat:
        """With the default rate of the encoding where none is given."""
        return cls(encoding, rate or (RATES[0] if encoding == "s16le" else g711.RATE))


@dataclass(frozen=True)
class ServerVad:
    """Turns are found by voice. `threshold` as in `EndpointConfig`, times in milliseconds."""

    threshold: float
    prefix_padding_ms: float
    silence_duration_ms: float

    @classmethod
    def of(cls, config: Config) -> ServerVad:
        """The server's defaults."""
        return cls(config.vad_threshold, DEFAULT_PADDING_MS, config.silence_threshold * 1000)

    def endpoints(self, server: EndpointConfig) -> EndpointConfig:
        """The server's endpointing with these values."""
        return replace(
            server,
            threshold=self.threshold,
            pre_roll_seconds=self.prefix_padding_ms / 1000,
            silence_seconds=self.silence_duration_ms / 1000,
        )

    def updated(self, update: TurnDetectionUpdate) -> ServerVad:
        """With the values that the update gives."""
        return replace(self, **update.model_dump(include=set(vars(self)), exclude_none=True))

    def as_message(self) -> TurnDetection:
        """As the events report it: milliseconds are whole numbers."""
        return TurnDetection(
            threshold=self.threshold,
            prefix_padding_ms=round(self.prefix_padding_ms),
            silence_duration_ms=round(self.silence_duration_ms),
        )


@dataclass(frozen=True)
class RealtimeSettings:
    """Everything that a client can set. `vad` is None if the client commits its turns itself."""

    vad: ServerVad | None
    format: AudioFormat = field(default_factory=AudioFormat)
    language: str | None = None
    prompt: str = ""

    @classmethod
    def of(cls, config: Config) -> RealtimeSettings:
        """The server's defaults."""
        return cls(ServerVad.of(config), language=config.default_language)

    def same_turns(self, other: RealtimeSettings) -> bool:
        """Whether a turn that began with these can go on with the others: only the format of the audio may differ."""
        return replace(self, format=other.format) == other

    def updated(self, update: SessionUpdate | OldSessionUpdate, config: Config) -> RealtimeSettings:
        """With the values that the update gives. Null restores the defaults of `config`."""
        changed = self
        if isinstance(update.session, OldSessionBody):
            given, old = update.session, update.session.model_fields_set
            if "input_audio_format" in old:
                encoding = _OLD_ENCODINGS[given.input_audio_format or "pcm16"]
                changed = replace(changed, format=AudioFormat.of(encoding))
            if "input_audio_transcription" in old:
                changed = changed._with_transcription(given.input_audio_transcription, config)
            if "turn_detection" in old:
                changed = changed._with_turn_detection(given.turn_detection, config)
            return changed
        inputs = (update.session.audio and update.session.audio.input) or InputUpdate()
        if "format" in inputs.model_fields_set:
            audio = inputs.format or FormatUpdate()
            changed = replace(changed, format=AudioFormat.of(_ENCODINGS[audio.type], audio.rate))
        if "transcription" in inputs.model_fields_set:
            changed = changed._with_transcription(inputs.transcription, config)
        if "turn_detection" in inputs.model_fields_set:
            changed = changed._with_turn_detection(inputs.turn_detection, config)
        return changed

    def _with_transcription(self, update: TranscriptionUpdate | None, config: Config) -> RealtimeSettings:
        changed = self
        if update is None or "language" in update.model_fields_set:
            changed = replace(changed, language=(update and update.language) or config.default_language)
        if update is None or "prompt" in update.model_fields_set:
            changed = replace(changed, prompt=(update and update.prompt) or "")
        return changed

    def _with_turn_detection(self, update: TurnDetectionUpdate | None, config: Config) -> RealtimeSettings:
        vad = None if update is None else (self.vad or ServerVad.of(config)).updated(update)
        return replace(self, vad=vad)


@dataclass(frozen=True)
class SessionInfo:
    """A session as its events report it. `expires_at`: the Unix time, in seconds, at which it will be ended."""

    id: str
    model: str
    expires_at: int

    @classmethod
    def starting_now(cls, session_id: str, model: str, seconds: float) -> SessionInfo:
        """A session that may last so many seconds."""
        return cls(session_id, model, int(time.time() + seconds))

    def event(
        self, settings: RealtimeSettings, old_api: bool = False, created: bool = False
    ) -> SessionEvent | OldSessionEvent:
        """`session.updated`, or `session.created`; `old_api`: in the older shape of the API."""
        transcription = Transcription(model=self.model, language=settings.language, prompt=settings.prompt)
        detection = settings.vad.as_message() if settings.vad else None
        g711_types = _G711_TYPES.get(settings.format.encoding)
        if old_api:
            return OldSessionEvent(
                type="transcription_session.created" if created else "transcription_session.updated",
                session=OldSessionObject(
                    id=self.id,
                    input_audio_format=g711_types[1] if g711_types else "pcm16",
                    input_audio_transcription=transcription,
                    turn_detection=detection,
                    expires_at=self.expires_at,
                ),
            )
        audio = G711Format(type=g711_types[0]) if g711_types else PcmFormat(rate=settings.format.rate)
        inputs = Input(format=audio, transcription=transcription, turn_detection=detection)
        return SessionEvent(
            type="session.created" if created else "session.updated",
            session=SessionObject(id=self.id, audio=AudioSettings(input=inputs), expires_at=self.expires_at),
        )


def prompt_path(kind: str) -> str:
    """Where an update of that type has the prompt."""
    within = "input_audio_transcription" if kind == OLD_UPDATE else "audio.input.transcription"
    return f"session.{within}.prompt"
