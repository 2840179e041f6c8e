"""The fields of a transcription request: which there are, and how a received form is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema

from qwen_asr.errors import BadField
from qwen_asr.web.validation import expects, first_error

Fields = Mapping[str, Sequence[str]]
"""A received form: name → the values in the order in which they came."""
ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
STREAMED_FORMATS = ("json", "text")


def _check_granularity(value: Any) -> Any:
    if value == "word":
        raise ValueError(
            "Word timestamps are not available from this server yet; expected timestamp_granularities=segment."
        )
    return value


def _check_include(values: list[str]) -> list[str]:
    if values:
        raise ValueError(f"include {values[0]!r} is not available from this server; leave it out.")
    return values


class TranscriptionRequest(BaseModel):
    """The form without its file.

    Fields of OpenAI's API that this model cannot use and that change no answer (`chunking_strategy`, `keywords` …) are
    ignored. A field that asks for something the answer would lack is an error. Whether `language` is known is checked
    when the session is opened.
    """

    model_config = ConfigDict(frozen=True, loc_by_alias=False)

    model: str = Field(default="", description="Any name. The loaded checkpoint always answers.")
    language: str = Field(
        default="", description="A name or code, such as German or de. Without it the language is detected."
    )
    prompt: str = Field(default="", description="Names and terms that occur in the audio.")
    track: str = Field(
        default="",
        description="The audio track: its number, from 1, or its language. Without it the first one that speaks.",
    )
    channel: str = Field(
        default="",
        description="The channel of the track: a number, from 1, left, right, center, or FFmpeg's name. Without it all "
        "channels are mixed.",
    )
    stream: bool = Field(
        default=False,
        description="With json or text: server-sent events, one for each utterance as soon as it is final.",
    )
    response_format: ResponseFormat = "json"
    # OpenAI's own range. The value is not used: decoding is greedy.
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), expects("a number from 0 to 1")] = Field(
        default=0.0, description="Accepted for compatibility; ignored. Decoding is greedy."
    )
    timestamp_granularities: list[Annotated[Literal["segment"], BeforeValidator(_check_granularity)]] = Field(
        default=[], alias="timestamp_granularities[]", description="Segments are always part of verbose_json."
    )
    include: SkipJsonSchema[Annotated[list[str], AfterValidator(_check_include)]] = []

    @field_validator("response_format")
    @classmethod
    def _check_streamable(cls, value: ResponseFormat, info: ValidationInfo) -> ResponseFormat:
        if info.data.get("stream") and value not in STREAMED_FORMATS:
            raise ValueError(
                f"response_format {value!r} cannot be streamed; with stream=true expected one of "
                f"{', '.join(STREAMED_FORMATS)}."
            )
        return value


def parse_request(fields: Fields) -> TranscriptionRequest:
    """Checks the fields of a form. Raises BadField with the name of the first wrong one.

    Empty values count as absent. Of a field that occurs several times the last value counts, except for lists.
    """
    values: dict[str, Any] = {}
    for name, given in fields.items():
        if value := given[-1].strip():
            values[name] = value
    for name, alias in (("timestamp_granularities", "timestamp_granularities[]"), ("include", "include")):
        values[alias] = _list(fields, name)
    try:
        return TranscriptionRequest.model_validate(values)
    except ValidationError as error:
        path, sentence = first_error(error)
        raise BadField(path.partition("[")[0], sentence) from None


def form_schema(file_description: str) -> dict[str, Any]:
    """The JSON schema of the whole form, the file included."""
    schema = TranscriptionRequest.model_json_schema()
    file = {"type": "string", "format": "binary", "description": file_description}
    return {"type": "object", "required": ["file"], "properties": {"file": file, **schema["properties"]}}


def _list(fields: Fields, name: str) -> list[str]:
    """The values of a list field. Clients write its name with brackets or without."""
    return [value.strip() for value in (*fields.get(f"{name}[]", ()), *fields.get(name, ())) if value.strip()]
