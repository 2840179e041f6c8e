"""`POST /page/transcribe`: the route that the File tab sends its files to. Their text comes back as it is made.

A file travels as a form, in a request of its own; its language and its context stand in the same form. The answer is a
stream of server-sent events, each a JSON object with one key:

    page ← {queued}  the file waits at this position for a free slot
    page ← {heard}   [seconds whose text is known, seconds in the file or null]; every second
    page ← {line}    the next utterance: {number, start, end, text, language, words: [[text, start, end], …]}
    page ← {done}    the length of the audio in seconds; the last event
    page ← {error}   what was wrong, as a sentence; the last event

An error before the whole file is here is an answer with an error status instead. Times are in seconds.

Gradio's own upload is not used: it holds files in memory, and leaves them on the disk. This route has the limits, the
queue and the temporary files of the REST API. A page that closes, or cancels, ends the work, and its file is gone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.config.limits import PageLimits
from qwen_asr.errors import BadField
from qwen_asr.web.access.route_table import PAGE_TRANSCRIBE
from qwen_asr.web.rest.transcriptions import Job, Transcriptions
from qwen_asr.web.rest.upload import received_form

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qwen_asr.live.events import Final
    from qwen_asr.service.service import Service
    from qwen_asr.web.error_response import ErrorBody
    from qwen_asr.web.rest.upload import Upload


class FileEvents:
    """Writes the events of the stream."""

    def __init__(self) -> None:
        self._heard = 0.0

    def begin(self) -> bytes:
        """Nothing: the first event follows at once."""
        return b""

    def queued(self, position: int) -> bytes:
        """A position in the queue."""
        return _event({"queued": position})

    def heard(self, seconds: float, total: float | None) -> bytes:
        """How far the work is."""
        self._heard = round(seconds, 2)
        return _event({"heard": [self._heard, None if total is None else round(total, 2)]})

    def add(self, final: Final) -> bytes:
        """The next utterance; nothing for one without text."""
        return _event({"line": line_of(final)}) if final.text else b""

    def end(self) -> bytes:
        """The last event."""
        return _event({"done": self._heard})

    def failure(self, error: ErrorBody) -> bytes:
        """The last event, if an error ends the stream."""
        return _event({"error": error.error.message})


def line_of(final: Final) -> dict[str, Any]:
    """An utterance for the page. Times are in seconds from the beginning of the file."""
    return {
        "number": final.utterance,
        "start": final.start / SAMPLE_RATE,
        "end": final.end / SAMPLE_RATE,
        "text": final.text,
        "language": final.language,
        "words": [[word.text, word.start / SAMPLE_RATE, word.end / SAMPLE_RATE] for word in final.words],
    }


def add_route(app: FastAPI, service: Service, transcriptions: Transcriptions) -> None:
    """Adds the route that the files are sent to. Call it before the page is mounted at "/"."""

    @contextlib.asynccontextmanager
    async def read(upload: Upload) -> AsyncIterator[Job]:
        service.rates.hit(upload.address)
        async with received_form(upload.headers, upload.body, upload.limits, take=upload.take) as form:
            language = _field(form.fields, "language", PageLimits.language_characters)
            context = _field(form.fields, "context", PageLimits.context_characters)
            model = _field(form.fields, "model", PageLimits.model_characters)
            events = FileEvents()
            yield Job(
                files=[form.file],
                language=language or None,
                context=context,
                context_field="context",
                scored=False,
                words=True,
                events=events,
                progress=events,
                whole=_no_whole,
                model=model,
            )

    async def transcribe(_: Request) -> Response:
        return transcriptions.answering(read)

    app.router.routes.append(Route(PAGE_TRANSCRIBE, transcribe, methods=["POST"]))


def _no_whole(_: Sequence[Final], seconds: float) -> Response:
    raise RuntimeError(f"A stream of events has no answer at the end ({seconds:g} s).")


def _field(fields: dict[str, list[str]], name: str, most: int) -> str:
    """The value of a field of the form. Raises BadField for one that the page would not send."""
    value = fields.get(name, [""])[-1].strip()
    if len(value) > most:
        raise BadField(name, f"{name} has {len(value)} characters, but at most {most} are taken; shorten it.")
    return value


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode("ascii")
