"""What a client of OpenAI's transcription route wishes, out of the fields of its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen_asr.errors import BadField

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "text")
MAX_TEMPERATURE = 1.0
"""OpenAI's own bound. The temperature itself changes nothing here: decoding is greedy."""

Fields = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class TranscriptionRequest:
    """`prompt` is what the model is told as context; `format` is one of `FORMATS`."""

    language: str | None = None
    prompt: str = ""
    format: str = "json"
    stream: bool = False


def parse_request(fields: Fields) -> TranscriptionRequest:
    """What the fields (name → values) ask for. Raises BadField.

    Hints of OpenAI's that this model has no use for (`chunking_strategy`, `keywords` …) are passed over, as is `model`:
    the loaded checkpoint answers. What would be missing from the answer is refused instead. The language is judged by
    whoever opens the session.
    """
    _check_temperature(_last(fields, "temperature"))
    _check_extras(fields)
    answer = _last(fields, "response_format") or "json"
    if answer not in FORMATS:
        raise BadField("response_format", f"Unknown response_format {answer!r}; expected one of {', '.join(FORMATS)}.")
    stream = _switch("stream", _last(fields, "stream"))
    if stream and answer not in STREAMED_FORMATS:
        raise BadField(
            "response_format",
            f"response_format {answer!r} cannot be streamed; with stream=true expected one of "
            f"{', '.join(STREAMED_FORMATS)}.",
        )
    return TranscriptionRequest(_last(fields, "language") or None, _last(fields, "prompt"), answer, stream)


def _check_extras(fields: Fields) -> None:
    for granularity in _list(fields, "timestamp_granularities"):
        if granularity == "word":
            raise BadField(
                "timestamp_granularities",
                "Times of words are not available from this server yet; ask for timestamp_granularities segment.",
            )
        if granularity != "segment":
            raise BadField(
                "timestamp_granularities", f"Unknown timestamp_granularities {granularity!r}; expected segment."
            )
    if included := _list(fields, "include"):
        raise BadField("include", f"include {included[0]!r} is not available from this server; leave it out.")


def _check_temperature(text: str) -> None:
    try:
        # Written so that NaN, which compares false with everything, is refused too.
        if not text or 0 <= float(text) <= MAX_TEMPERATURE:
            return
    except ValueError:
        pass
    raise BadField("temperature", f"temperature was given {text!r}; expected a number from 0 to {MAX_TEMPERATURE:g}.")


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("", "true", "false", "1", "0"):
        raise BadField(name, f"{name} was given {text!r}; expected true or false.")
    return text.lower() in ("true", "1")


def _last(fields: Fields, name: str) -> str:
    """The value of a field that is given once; of one given again the last, as everywhere."""
    values = fields.get(name)
    return values[-1].strip() if values else ""


def _list(fields: Fields, name: str) -> list[str]:
    """The values of a field that is a list, which clients write with brackets or without."""
    return [value.strip() for value in (*fields.get(f"{name}[]", ()), *fields.get(name, ())) if value.strip()]
