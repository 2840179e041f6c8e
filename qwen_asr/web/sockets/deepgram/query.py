"""The query of a request to `/v1/listen`: what this server uses of Deepgram's parameters, checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from qwen_asr.audio import SAMPLE_RATE, g711
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadField, UnknownLanguage
from qwen_asr.web.validation import expects, first_error

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from qwen_asr.audio.endpointing import EndpointConfig

ENCODINGS = {"linear16": "s16le", "linear32": "f32le", "mulaw": "mulaw", "alaw": "alaw"}
"""Deepgram's names of raw encodings → those of `PcmStream`."""
MIN_ENDPOINTING_MS = 300
"""The shortest pause that ends an utterance. Deepgram's default is 10 ms, but it hears what follows together with what
was said before. Here each utterance is transcribed for itself, and shorter pauses lie within sentences."""
MAX_PAUSE_MS = 60_000
_MAX_ENDPOINTING_MS = round(1000 * Config.__dataclass_fields__["silence_threshold"].metadata["high"])


class ListenQuery(BaseModel):
    """What a file and a live stream have in common.

    Parameters that this server does not know or that change no words, such as `smart_format`, are ignored.
    Those without which the answer would be wrong are refused.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)

    model: str = ""
    language: str = ""
    detect_language: str = "false"
    keyterm: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    callback: str = ""
    redact: str = "false"
    multichannel: bool = False

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        """The checked query. Raises BadField with the name of the first wrong parameter."""
        values: dict[str, Any] = dict(params)
        values |= {name: params.getlist(name) for name in ("keyterm", "keywords")}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadField(*first_error(error)) from None

    @field_validator("language")
    @classmethod
    def _check_language(cls, value: str) -> str:
        if value != "multi":
            try:
                resolve_language(value)
            except UnknownLanguage as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("callback", "redact", "multichannel")
    @classmethod
    def _check_absent(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in ("", "false", False):
            raise ValueError(f"{info.field_name} is not available from this server: {_INSTEAD[str(info.field_name)]}.")
        return value

    @property
    def language_option(self) -> str:
        """The language for `Service.session_options`: "" for the server's default, "auto" to detect it."""
        return "auto" if self.detect_language != "false" or self.language == "multi" else self.language

    @property
    def context(self) -> str:
        """The terms that may occur: `keyterm` as they are, `keywords` without their boost (`word:2`)."""
        words = [word.rpartition(":")[0] if ":" in word else word for word in self.keywords]
        return ", ".join(term for term in (*self.keyterm, *words) if term)


_INSTEAD = {
    "callback": "results go to the client only, so leave it out",
    "redact": "leave it out, and redact the text yourself",
    "multichannel": "send each channel in a request or connection of its own",
}


def _known_encoding(value: Any) -> Any:
    if value is None:
        raise ValueError(
            "The query has no encoding; expected one of "
            f"{', '.join(ENCODINGS)}, with sample_rate. Live audio in a container, such as webm or ogg, is not decoded."
        )
    return value


def _milliseconds_or_off(value: Any) -> Any:
    return {"true": None, "false": 0}.get(value, value) if isinstance(value, str) else value


class LiveQuery(ListenQuery):
    """The query of a live stream.

    `endpointing` is in milliseconds; 0 if it is off, None if the server's default applies.
    """

    encoding: Annotated[Literal["linear16", "linear32", "mulaw", "alaw"] | None, BeforeValidator(_known_encoding)] = (
        None
    )
    sample_rate: int | None = None
    channels: Annotated[Literal["1"], expects("1: mix the channels, or open a connection for each")] = "1"
    interim_results: bool = False
    vad_events: bool = False
    endpointing: Annotated[
        Annotated[int, Field(ge=0, le=_MAX_ENDPOINTING_MS)] | None,
        BeforeValidator(_milliseconds_or_off),
        expects(f"false, or milliseconds from 0 to {_MAX_ENDPOINTING_MS}"),
    ] = None
    utterance_end_ms: Annotated[
        Annotated[int, Field(ge=1, le=MAX_PAUSE_MS)] | None, expects(f"milliseconds from 1 to {MAX_PAUSE_MS}")
    ] = None

    @field_validator("sample_rate")
    @classmethod
    def _check_rate(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and str(info.data.get("encoding")).startswith("linear"):
            raise ValueError("The query has no sample_rate; expected the rate of the samples in Hz, such as 16000.")
        return value

    @property
    def pcm_encoding(self) -> str:
        """The encoding for `PcmStream`."""
        return ENCODINGS[str(self.encoding)]

    @property
    def rate(self) -> int:
        """The rate of the client's samples, in Hz."""
        return self.sample_rate or g711.RATE

    def endpoints(self, server: EndpointConfig) -> EndpointConfig:
        """The server's endpointing with this query's pause."""
        if not self.endpointing:
            return server
        return replace(server, silence_seconds=max(self.endpointing, MIN_ENDPOINTING_MS) / 1000)

    @property
    def announces_endpoints(self) -> bool:
        """Whether results say `speech_final`."""
        return self.endpointing != 0

    @property
    def pause_samples(self) -> int | None:
        """After how many quiet samples at 16 kHz `UtteranceEnd` comes, or None."""
        return None if self.utterance_end_ms is None else self.utterance_end_ms * SAMPLE_RATE // 1000
