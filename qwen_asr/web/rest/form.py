"""The fields of a transcription request: which there are, and how a received form is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwen_asr.errors import BadField
from qwen_asr.web.validation import expects, first_error

MODEL = "One of the server's models, which /v1/models lists. With any other name the first of them answers."
"""The description of the field `model`."""
Fields = Mapping[str, Sequence[str]]
"""A received form: name → the values in the order in which they came; none for an empty list in JSON."""
ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
_SCORED_FORMATS = ("json", "text")  # text has them in the events of a stream


def _check_format(value: Any) -> Any:
    if value == "diarized_json":
        raise ValueError(
            "response_format 'diarized_json' is not available: this server does not tell speakers apart; expected "
            f"one of {', '.join(get_args(ResponseFormat))}."
        )
    return value


class TranscriptionRequest(BaseModel):
    """The form without its file.

    Fields of OpenAI's API that this model cannot use (`chunking_strategy` …) are ignored, unless the answer would then
    be wrong. Whether `language` is known is checked when the session is opened.
    """

    model_config = ConfigDict(frozen=True, loc_by_alias=False)

    model: str = Field(default="", description=MODEL)
    language: str = Field(
        default="", description="A name or code, such as German or de. Without it the language is detected."
    )
    languages: list[str] = Field(
        default=[],
        alias="languages[]",
        description="Where `language` is not given, one is the language; more are none.",
    )
    prompt: str = Field(default="", description="Names and terms that occur in the audio.")
    keywords: list[str] = Field(default=[], alias="keywords[]", description="More of them.")
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
        description="Server-sent events, one for each utterance as soon as it is final.",
    )
    response_format: Annotated[ResponseFormat, BeforeValidator(_check_format)] = "json"
    # OpenAI's own range. The value is not used: decoding is greedy.
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), expects("a number from 0 to 1")] = Field(
        default=0.0, description="Accepted for compatibility; ignored. Decoding is greedy."
    )
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        default=[],
        alias="timestamp_granularities[]",
        description="What verbose_json has: segments, words, or both; segments without this field. Where words are not "
        "known, `warnings` say why, and segments are there. Other formats and streams have no words.",
    )
    include: list[Literal["logprobs"]] = Field(
        default=[], alias="include[]", description="The probabilities of the tokens, in json and in events."
    )

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has the probabilities of the tokens."""
        return "logprobs" in self.include and self.response_format in _SCORED_FORMATS

    @property
    def words(self) -> bool:
        """Whether the answer has words."""
        is_verbose = self.response_format == "verbose_json" and not self.stream
        return is_verbose and "word" in self.timestamp_granularities

    @property
    def subtitles(self) -> bool:
        """Whether the answer is a file of subtitles, whose cues are better with the times of words."""
        return self.response_format in ("srt", "vtt")

    @property
    def segments(self) -> bool:
        """Whether the answer has segments even if it has all words."""
        return "segment" in self.timestamp_granularities

    @property
    def scored(self) -> bool:
        """Whether the probabilities have to be computed."""
        return self.with_logprobs or self.response_format == "verbose_json"

    @property
    def spoken_language(self) -> str | None:
        """The language that the client says is spoken, if it is one."""
        return self.language or (self.languages[0] if len(self.languages) == 1 else None)

    @property
    def context(self) -> str:
        """The names and terms, those of `keywords` in the last line."""
        return "\n".join(filter(None, (self.prompt, ", ".join(self.keywords))))


def parse_request(fields: Fields) -> TranscriptionRequest:
    """Checks the fields of a form. Raises BadField with the name of the first wrong one.

    Empty values count as absent. Of a field that occurs several times the last value counts, except for lists.
    """
    values: dict[str, Any] = {}
    for name, given in fields.items():
        if given and (value := given[-1].strip()):
            values[name] = value
    for name in ("timestamp_granularities", "include", "languages", "keywords"):
        values[f"{name}[]"] = _list(fields, name)
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
