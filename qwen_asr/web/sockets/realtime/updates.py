"""What a client may set: the session object of its updates as pydantic models, in all shapes that clients send.

OpenAI's API has had two shapes, and DashScope's is a third. They differ in where a setting stands, and mix freely: the
nested one, ``audio.input.format|transcription|turn_detection``, and the flat one, ``input_audio_format``,
``input_audio_transcription``, ``sample_rate`` and ``turn_detection`` side by side. What this server has no use for,
such as ``voice`` or ``noise_reduction``, is ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from qwen_asr.audio import g711
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import UnknownLanguage
from qwen_asr.web.sockets.messages import ClientModel
from qwen_asr.web.validation import SHOWN_CHARACTERS, Expectation, expects

RATES = (24_000, 48_000, 16_000, 8_000)
"""The rates of PCM, in Hz. The first is the default, as at OpenAI."""
MAX_PADDING_MS = 3_000.0
"""The longest `prefix_padding_ms`: half of the shortest `--max-utterance-seconds`."""
LOGPROBS = "item.input_audio_transcription.logprobs"
"""What a client can ask for with `include`."""
DASHSCOPE_FORMAT = "pcm"
"""DashScope's name for 16-bit PCM, which OpenAI calls `pcm16` or `audio/pcm`."""
DASHSCOPE_CONTEXT = "dashscope"
"""Key of the validation context: whether the client speaks DashScope's dialect."""
_OPTIONS = {option.name: option.metadata for option in dataclasses.fields(Config)}
_VAD, _SILENCE = _OPTIONS["vad_threshold"], _OPTIONS["silence_threshold"]
SILENCE_MS = (_SILENCE["low"] * 1000, _SILENCE["high"] * 1000)
"""The least and the most `silence_duration_ms`."""
_KEYWORD_NAMES = ("text", "keyword", "term", "phrase")


def _known_language(name: str) -> str:
    if len(name) > SHOWN_CHARACTERS:
        raise Expectation("a code or a name such as de or German")
    try:
        resolve_language(name)
    except UnknownLanguage as error:
        raise ValueError(str(error)) from None
    return name


def _known_single_language(names: list[str]) -> list[str]:
    """Only a single language is used, so only that one has to be known."""
    return [_known_language(names[0])] if len(names) == 1 else names


def _keyword(value: Any) -> Any:
    """The text of a keyword, which may be an object with more about it, such as a weight."""
    if isinstance(value, dict):
        return next((value[name] for name in _KEYWORD_NAMES if name in value), None)
    return value


Language = Annotated[str, AfterValidator(_known_language)]
Languages = Annotated[list[str], AfterValidator(_known_single_language)]
Keyword = Annotated[str, BeforeValidator(_keyword), expects("a string, or an object with a text")]
Padding = Annotated[float, Field(ge=0, le=MAX_PADDING_MS), expects(f"a number from 0 to {MAX_PADDING_MS:g}")]
Silence = Annotated[
    float,
    Field(ge=SILENCE_MS[0], le=SILENCE_MS[1]),
    expects(f"a number from {SILENCE_MS[0]:g} to {SILENCE_MS[1]:g}"),
]


def _rate(value: Any, rates: tuple[int, ...], kind: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or value not in rates:
        raise Expectation(f"{'one of ' if len(rates) > 1 else ''}{', '.join(map(str, rates))} for {kind}")
    return int(value)


class FormatUpdate(ClientModel):
    """The encoding of the client's audio, and its sampling rate in Hz, for which DashScope has another name."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma", "pcm"] = "audio/pcm"
    rate: int | None = None
    sample_rate: int | None = None

    @field_validator("rate", "sample_rate", mode="before")
    @classmethod
    def _known_rate(cls, rate: Any, info: ValidationInfo) -> int | None:
        kind = info.data.get("type", "audio/pcm")
        return _rate(rate, (g711.RATE,) if kind in ("audio/pcmu", "audio/pcma") else RATES, kind)


class CorpusUpdate(ClientModel):
    """DashScope's place for names and terms."""

    text: str | None = None


class TranscriptionUpdate(ClientModel):
    """What is known about the speech. `model` may have any value: see `RealtimeSettings.with_model`."""

    model: str | None = None
    language: Language | None = None
    languages: Languages | None = None
    prompt: str | None = None
    keywords: list[Keyword] | None = None
    corpus: CorpusUpdate | None = None


class TurnDetectionUpdate(ClientModel):
    """How turns are found by voice. See docs/openai.md for the units."""

    type: Annotated[
        Literal["server_vad", "semantic_vad"], expects("server_vad or semantic_vad, or null in place of turn_detection")
    ] = "server_vad"
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    threshold: float | None = None
    prefix_padding_ms: Padding | None = None
    silence_duration_ms: Silence | None = None

    @field_validator("threshold", mode="before")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        is_dashscopes = bool((info.context or {}).get(DASHSCOPE_CONTEXT))
        low, high = (-1, 1) if is_dashscopes else (_VAD["low"], _VAD["high"])
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            return None
        if not is_number or not low <= value <= high:
            raise Expectation(f"a number from {low:g} to {high:g}")
        # DashScope's scale has the neutral value in the middle, too, but from -1 to 1.
        return min(max((value + 1) / 2, _VAD["low"]), _VAD["high"]) if is_dashscopes else value


class InputUpdate(ClientModel):
    """The settings in the nested shape. Fields that are not set keep their values."""

    format: FormatUpdate | None = None
    transcription: TranscriptionUpdate | None = None
    turn_detection: TurnDetectionUpdate | None = None


class AudioUpdate(ClientModel):
    """The `audio` object of the nested shape."""

    input: InputUpdate | None = None


class SessionBody(ClientModel):
    """The session object of an update. Where both shapes give a setting, the nested one counts."""

    model: Any = None
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw", "pcm"] | None = None
    sample_rate: int | None = None
    input_audio_transcription: TranscriptionUpdate | None = None
    turn_detection: TurnDetectionUpdate | None = None
    audio: AudioUpdate | None = None
    include: Any = None

    @field_validator("sample_rate", mode="before")
    @classmethod
    def _known_rate(cls, rate: Any, info: ValidationInfo) -> int | None:
        kind = info.data.get("input_audio_format") or "pcm16"
        return _rate(rate, (g711.RATE,) if kind.startswith("g711") else RATES, kind)

    @property
    def includes_logprobs(self) -> bool:
        """Whether the client wants the probabilities of tokens; of what else it wants nothing exists here."""
        return isinstance(self.include, list) and LOGPROBS in self.include

    @property
    def input(self) -> InputUpdate:
        """The nested settings."""
        return (self.audio and self.audio.input) or InputUpdate()


def is_dashscope(session: Any) -> bool:
    """Whether a session object has what only DashScope's clients send: their names of formats, or a corpus."""
    if not isinstance(session, Mapping):
        return False
    transcription, inputs = session.get("input_audio_transcription"), session.get("audio")
    inputs = inputs.get("input") if isinstance(inputs, Mapping) else None
    audio_format = inputs.get("format") if isinstance(inputs, Mapping) else None
    return (
        session.get("input_audio_format") in (DASHSCOPE_FORMAT, "opus")
        or (isinstance(transcription, Mapping) and "corpus" in transcription)
        or (isinstance(audio_format, Mapping) and audio_format.get("type") == DASHSCOPE_FORMAT)
    )


def context_path(session: SessionBody) -> str:
    """Where an update has what becomes the model's context, for an error about it."""
    nested, path = session.input.transcription, "session.audio.input.transcription"
    if nested is None:
        nested, path = session.input_audio_transcription, "session.input_audio_transcription"
    given = nested.model_fields_set if nested is not None else set()
    name = next((name for name in ("prompt", "corpus", "keywords") if name in given), "prompt")
    return f"{path}.{name}"
