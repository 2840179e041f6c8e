"""The settings of a realtime session, and the updates that change them.

Fields that an update leaves out keep their values, and null restores the default, except for ``turn_detection``: null
means that the client commits its turns itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qwen_asr.audio import SAMPLE_RATE, g711
from qwen_asr.config.config import Config
from qwen_asr.config.model_paths import model_named
from qwen_asr.errors import BadField, BadInput
from qwen_asr.web.sockets.realtime.updates import (
    RATES,
    SILENCE_MS,
    FormatUpdate,
    SessionBody,
    TranscriptionUpdate,
    TurnDetectionUpdate,
    context_path,
)

if TYPE_CHECKING:
    from qwen_asr.audio.endpointing import EndpointConfig
    from qwen_asr.live.session_options import DetectorFactory, SessionOptions
    from qwen_asr.service.service import Service

DEFAULT_PADDING_MS = 300.0  # OpenAI's
EAGERNESS = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.5}
"""What `semantic_vad` means here: silence that ends a turn, in units of the server's own."""

_ENCODINGS = {
    "audio/pcm": "s16le",
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
    "pcm16": "s16le",
    "pcm": "s16le",
    "g711_ulaw": "mulaw",
    "g711_alaw": "alaw",
}


@dataclass(frozen=True)
class AudioFormat:
    """How samples are encoded: one of `PcmStream`'s encodings, and the sampling rate in Hz."""

    encoding: str = "s16le"
    rate: int = RATES[0]


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

    def updated(self, update: TurnDetectionUpdate, config: Config) -> ServerVad:
        """With the values that the update gives. `semantic_vad` has its own length of silence, and no other values."""
        if update.type == "semantic_vad":
            low, high = SILENCE_MS
            silence = EAGERNESS[update.eagerness or "auto"] * config.silence_threshold * 1000
            return replace(ServerVad.of(config), silence_duration_ms=min(max(silence, low), high))
        return replace(self, **update.model_dump(include=set(vars(self)), exclude_none=True))


@dataclass(frozen=True)
class RealtimeSettings:
    """Everything that a client can set. `vad` is None if the client commits its turns itself.

    `language` is what the model is told. `languages` and `keywords` are what the client gave, for the events.
    `logprobs`: the client wants the probabilities of tokens. `model`: the name of the one that it has chosen, or "".
    `turns_decided`: the client has said or shown who ends its turns. `pcm_rate`: the rate of PCM in Hz, where the
    client names none.
    """

    vad: ServerVad | None
    format: AudioFormat = field(default_factory=AudioFormat)
    language: str | None = None
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    logprobs: bool = False
    model: str = ""
    languages: tuple[str, ...] = field(default=(), compare=False)
    turns_decided: bool = field(default=False, compare=False)
    pcm_rate: int = field(default=RATES[0], compare=False)

    @classmethod
    def of(cls, config: Config) -> RealtimeSettings:
        """The server's defaults."""
        return cls(ServerVad.of(config), language=config.default_language)

    @property
    def context(self) -> str:
        """What the model is told before the audio: the prompt, and a line with the keywords."""
        return "\n".join(part for part in (self.prompt, ", ".join(self.keywords)) if part)

    @property
    def for_model(self) -> tuple[str, str, str | None]:
        """The model, and what it is told."""
        return self.model, self.context, self.language

    def options(self, service: Service, detector: DetectorFactory | None = None) -> SessionOptions:
        """The options of a session on the recognizer."""
        options = service.session_options(
            context=self.context, language=self.language or "auto", detector=detector, model=self.model
        )
        return replace(options, scored=self.logprobs)

    def check(self, service: Service, given: SessionBody) -> None:
        """Raises BadField if the model cannot be given these settings, which `given` has made what they are."""
        try:
            service.check_options(self.options(service))
        except BadInput as error:
            raise BadField(context_path(given), str(error)) from error

    def same_turns(self, other: RealtimeSettings) -> bool:
        """Whether a turn that began with these can go on with the others: only the format of the audio may differ."""
        return replace(self, format=other.format) == other

    def of_dashscope(self) -> RealtimeSettings:
        """With the default of DashScope's dialect: PCM has 16 kHz."""
        audio = AudioFormat("s16le", SAMPLE_RATE) if self.format == AudioFormat() else self.format
        return replace(self, format=audio, pcm_rate=SAMPLE_RATE)

    def with_client_turns(self) -> RealtimeSettings:
        """The client commits its turns itself from now on."""
        return replace(self, vad=None, turns_decided=True)

    def with_model(self, name: object, config: Config) -> RealtimeSettings:
        """With the model of that name. A name that is none of the server's, such as whisper-1, chooses nothing."""
        chosen = model_named(config.models, name) if isinstance(name, str) else None
        return self if chosen is None else replace(self, model=chosen.name)

    def updated(self, session: SessionBody, config: Config) -> RealtimeSettings:
        """With the values that the update gives. Null restores the defaults of `config`, but the model stays."""
        changed, inputs = self.with_model(session.model, config), session.input
        flat, nested = session.model_fields_set, inputs.model_fields_set
        if "format" in nested:
            audio = inputs.format or FormatUpdate()
            changed = changed._with_format(audio.type, audio.rate or audio.sample_rate)
        elif "input_audio_format" in flat:
            changed = changed._with_format(session.input_audio_format or "pcm16", session.sample_rate)
        elif "sample_rate" in flat:
            changed = changed._with_format("pcm16", session.sample_rate)
        if "transcription" in nested:
            changed = changed._with_transcription(inputs.transcription, config)
        elif "input_audio_transcription" in flat:
            changed = changed._with_transcription(session.input_audio_transcription, config)
        if "turn_detection" in nested:
            changed = changed._with_turn_detection(inputs.turn_detection, config)
        elif "turn_detection" in flat:
            changed = changed._with_turn_detection(session.turn_detection, config)
        if "include" in flat:
            changed = replace(changed, logprobs=session.includes_logprobs)
        return changed

    def _with_format(self, name: str, rate: int | None) -> RealtimeSettings:
        encoding = _ENCODINGS[name]
        default = self.pcm_rate if encoding == "s16le" else g711.RATE
        return replace(self, format=AudioFormat(encoding, rate or default))

    def _with_transcription(self, update: TranscriptionUpdate | None, config: Config) -> RealtimeSettings:
        changed, update = self, update or TranscriptionUpdate(language=None, prompt=None, keywords=None)
        given = update.model_fields_set
        if {"language", "languages"} & given:
            languages = tuple(update.languages or ())
            # Several are no restriction that the model could be given.
            listed = "auto" if len(languages) > 1 else "".join(languages)
            language = update.language or listed or config.default_language
            changed = replace(changed, language=language, languages=languages)
        if "prompt" in given:
            changed = replace(changed, prompt=update.prompt or "")
        elif "corpus" in given:
            changed = replace(changed, prompt=(update.corpus and update.corpus.text) or "")
        if "keywords" in given:
            changed = replace(changed, keywords=tuple(filter(None, update.keywords or ())))
        return changed.with_model(update.model, config)

    def _with_turn_detection(self, update: TurnDetectionUpdate | None, config: Config) -> RealtimeSettings:
        vad = None if update is None else (self.vad or ServerVad.of(config)).updated(update, config)
        return replace(self, vad=vad, turns_decided=True)


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
