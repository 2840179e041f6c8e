"""The answers of the transcription route: JSON, text, subtitles, and server-sent events."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles import srt, vtt
from qwen_asr.live.transcript import Transcript, join_texts
from qwen_asr.web.rest.form import ResponseFormat


class Answer(BaseModel):
    """A JSON object that always has all of its fields, as its schema says too."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class Usage(Answer):
    """What a transcription is measured by."""

    type: Literal["duration"] = "duration"
    seconds: float = Field(description="The length of the audio.")


class Segment(Answer):
    """One utterance.

    `tokens`, `avg_logprob` and `no_speech_prob` come from Whisper and are not known here. Clients expect the fields and
    filter segments by them, so they hold values that no filter drops.
    """

    id: int
    seek: int = Field(description="`start` in hundredths of a second.")
    start: float = Field(description="In seconds from the beginning of the audio.")
    end: float = Field(description="In seconds from the beginning of the audio.")
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float
    no_speech_prob: float = 0.0


class Transcription(Answer):
    """The answer for `response_format=json`."""

    text: str
    usage: Usage


class VerboseTranscription(Transcription):
    """The answer for `response_format=verbose_json`."""

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(description="The English name of the language in lower case; empty if nothing was said.")
    duration: float = Field(description="The length of the audio in seconds.")
    segments: list[Segment]


class TextDelta(Answer):
    """The event with the text of the next utterance."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class TextDone(Answer):
    """The last event."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str


def whole_answer(format: ResponseFormat, finals: Sequence[Final], seconds: float, language: str) -> Response:
    """The answer in `format`. `seconds` is the length of the audio, `language` what the client asked for, or ""."""
    text = join_texts(final.text for final in finals)
    if format == "text":
        return PlainTextResponse(text + "\n")
    if format == "srt":
        return PlainTextResponse(srt(finals))
    if format == "vtt":
        return PlainTextResponse(vtt(finals), media_type="text/vtt")
    answer = Transcription(text=text, usage=Usage(seconds=seconds))
    if format == "verbose_json":
        answer = VerboseTranscription(
            text=text,
            usage=answer.usage,
            language=(Transcript(finals).language or language).lower(),
            duration=seconds,
            segments=segments(finals),
        )
    return JSONResponse(answer.model_dump())


def segments(finals: Sequence[Final]) -> list[Segment]:
    """The utterances that have text. Times are exact to the sample."""
    return [
        Segment(
            id=number,
            seek=final.start * 100 // SAMPLE_RATE,
            start=final.start / SAMPLE_RATE,
            end=final.end / SAMPLE_RATE,
            text=final.text,
            compression_ratio=compression_ratio(final.text),
        )
        for number, final in enumerate(final for final in finals if final.text)
    ]


def compression_ratio(text: str) -> float:
    """Bytes of the text divided by its bytes after zlib.

    As in openai/whisper, whisper/utils.py. Clients take a segment above 2.4 for a repetition loop.
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data))


class Deltas:
    """Turns finals into events. The deltas' texts, joined, are the text of the last event.

    A delta is a whole final: OpenAI's events cannot correct text, and an utterance may still change before its final.
    """

    def __init__(self) -> None:
        self.text = ""

    def delta(self, final: Final) -> bytes:
        """The event for the next final; empty if the final has no text."""
        whole = join_texts([self.text, final.text])
        added, self.text = whole[len(self.text) :], whole
        return event(TextDelta(delta=added)) if added else b""

    def done(self) -> bytes:
        """The last event."""
        return event(TextDone(text=self.text))


def event_schema(*others: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of one server-sent event; its data is a delta, the end, or one of `others`."""
    data = [model.model_json_schema(mode="serialization") for model in (TextDelta, TextDone)]
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string"},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [*data, *others]},
            },
        },
    }


def event(data: BaseModel) -> bytes:
    """One server-sent event, named after the `type` of its data, or `error`.

    Encoded as ASCII, because some clients take U+2028 for the end of a line.
    """
    name = getattr(data, "type", "error")
    return f"event: {name}\ndata: {json.dumps(data.model_dump())}\n\n".encode("ascii")
