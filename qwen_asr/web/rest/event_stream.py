"""Transcriptions as server-sent events: each utterance as soon as it is final."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, Field

from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.cues import Cues
from qwen_asr.live.subtitles.formats import VTT_HEADER, srt_cue, vtt_cue
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.error_response import ErrorBody
from qwen_asr.web.rest.answers import (
    Answer,
    Language,
    Logprob,
    SegmentFields,
    absent,
    languages,
    logprobs,
    segment_fields,
    token_counts,
)
from qwen_asr.web.rest.form import TranscriptionRequest


class TokenUsage(Answer):
    """What a transcription is measured by in a stream."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int = Field(description="Those that the model read, the audio included.")
    output_tokens: int = Field(description="Those that it wrote, the name of the language included.")
    total_tokens: int


class TextDelta(Answer):
    """The event with the text of the next utterance."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str
    logprobs: list[Logprob] | None = absent("With include[]=logprobs.")
    segment_id: str | None = absent("With verbose_json: the segment that has this text.")


class TextSegment(SegmentFields):
    """The event with the segment of an utterance, for `response_format=verbose_json`."""

    type: Literal["transcript.text.segment"] = "transcript.text.segment"
    id: str
    speaker: Literal[""] = Field(default="", description="Empty: speakers are not told apart.")


class TextDone(Answer):
    """The last event."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    languages: list[Language]
    logprobs: list[Logprob] | None = absent("With include[]=logprobs.")
    usage: TokenUsage


EVENTS = (TextDelta, TextSegment, TextDone)


class EventStream:
    """Turns finals into events. The deltas' texts, joined, are the text of the last event.

    That text is the whole transcript, and with `srt` and `vtt` the whole file. A delta is a whole utterance: OpenAI's
    events cannot correct text, and an utterance may still change before its final.
    """

    def __init__(self, request: TranscriptionRequest) -> None:
        self._request = request
        self._finals: list[Final] = []
        self._text = ""
        self._segments = 0
        self._write = {"srt": srt_cue, "vtt": vtt_cue}.get(request.response_format)
        self._cues = Cues()

    def begin(self) -> bytes:
        """The events before the first final."""
        self._text = VTT_HEADER if self._request.response_format == "vtt" else ""
        return event(TextDelta(delta=self._text)) if self._text else b""

    def add(self, final: Final) -> bytes:
        """The events for the next final; empty if the final has no text."""
        self._finals.append(final)
        if not final.text:
            return b""
        scores = logprobs([final], before=self._text) if self._request.with_logprobs else None
        if self._write:
            added = "".join(map(self._write, self._cues.add(final)))  # a file has no cue for a space
        else:
            added = join_texts([self._text[-1:], final.text])[len(self._text[-1:]) :]
        self._text += added
        if self._request.response_format != "verbose_json":
            return event(TextDelta(delta=added, logprobs=scores)) if added else b""
        number = str(self._segments)
        self._segments += 1
        delta = TextDelta(delta=added, logprobs=scores, segment_id=number)
        return event(delta) + event(TextSegment(id=number, **segment_fields(final)))

    def end(self) -> bytes:
        """The last event."""
        read, wrote = token_counts(self._finals)
        done = TextDone(
            text=self._text,
            languages=languages(self._finals),
            logprobs=logprobs(self._finals) if self._request.with_logprobs else None,
            usage=TokenUsage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote),
        )
        return event(done)

    def failure(self, error: ErrorBody) -> bytes:
        """The event for an error, which is then the last."""
        return event(error)


def event(data: BaseModel) -> bytes:
    """One server-sent event, named after the `type` of its data, or `error`.

    Encoded as ASCII, because some clients take U+2028 for the end of a line.
    """
    name = getattr(data, "type", "error")
    return f"event: {name}\ndata: {json.dumps(data.model_dump())}\n\n".encode("ascii")
