"""Finals as OpenAI's transcription route answers them: whole, in one of its formats, or as server-sent events."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles import srt, vtt
from qwen_asr.live.transcript import Transcript, join_texts


def whole_answer(format: str, finals: Sequence[Final], seconds: float, language: str | None) -> Response:
    """The answer in `format`. `seconds`: the length of the audio. `language`: what the client named, if it did."""
    text = join_texts(final.text for final in finals)
    if format == "text":
        return PlainTextResponse(text + "\n")
    if format == "srt":
        return PlainTextResponse(srt(finals))
    if format == "vtt":
        return PlainTextResponse(vtt(finals), media_type="text/vtt")
    answer: dict[str, Any] = {"text": text, "usage": {"type": "duration", "seconds": seconds}}
    if format == "verbose_json":
        spoken = Transcript(finals).language or language or ""
        answer |= {"task": "transcribe", "language": spoken.lower(), "duration": seconds, "segments": segments(finals)}
    return JSONResponse(answer)


def segments(finals: Sequence[Final]) -> list[dict[str, Any]]:
    """The utterances that have text, as OpenAI's segments; `start` and `end` in seconds, exact to the sample.

    `tokens`, `avg_logprob` and `no_speech_prob` are Whisper's and not known here. Clients expect the fields and filter
    by them, so they are there with values by which no filter drops a segment.
    """
    return [
        {
            "id": number,
            "seek": final.start * 100 // SAMPLE_RATE,  # hundredths of a second, as Whisper counts
            "start": final.start / SAMPLE_RATE,
            "end": final.end / SAMPLE_RATE,
            "text": final.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": compression_ratio(final.text),
            "no_speech_prob": 0.0,
        }
        for number, final in enumerate(final for final in finals if final.text)
    ]


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes the text; as whisper/utils.py computes it, by whose 2.4 clients tell repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


class Deltas:
    """Finals, one after the other, as events. The deltas' texts put together are the text of `done`.

    A delta is a whole final: OpenAI's events can take nothing back, and before its final an utterance may still change.
    """

    def __init__(self) -> None:
        self.text = ""

    def delta(self, final: Final) -> bytes:
        """The event for the next final; nothing where it has no text."""
        whole = join_texts([self.text, final.text])
        added, self.text = whole[len(self.text) :], whole
        return event({"type": "transcript.text.delta", "delta": added}) if added else b""

    def done(self) -> bytes:
        """The event behind the last."""
        return event({"type": "transcript.text.done", "text": self.text})


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event. In ASCII: some clients take U+2028 for the end of a line."""
    name = data.get("type", "error")
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode("ascii")
