"""`POST /v1/listen`: Deepgram's transcription of a file, which is the body of the request. See docs/deepgram.md."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from pydantic import Field
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from qwen_asr.engine.languages import language_code
from qwen_asr.errors import BadField
from qwen_asr.live.transcript import Transcript, join_texts
from qwen_asr.web.rest.answers import Answer, absent
from qwen_asr.web.rest.transcriptions import Job
from qwen_asr.web.rest.upload import Upload, received_body
from qwen_asr.web.sockets.deepgram.messages import RequestInfo, ResultsMetadata, Word, confidence, seconds, words
from qwen_asr.web.sockets.deepgram.query import ListenQuery

if TYPE_CHECKING:
    from qwen_asr.live.events import Final
    from qwen_asr.service.service import Service

WORDS = "Empty where the server knows no times of words: without --aligner-model-path, and in some languages."


class FileQuery(ListenQuery):
    """The query of a file."""

    utterances: bool = False


class FileAlternative(Answer):
    """The text of the file."""

    transcript: str
    confidence: float = Field(description="The geometric mean of the probabilities of its tokens, 0 to 1.")
    words: list[Word] = Field(description=WORDS)


class FileChannel(Answer):
    """The text of the one channel."""

    alternatives: list[FileAlternative]
    detected_language: str | None = absent("With detect_language: the code of the language that was spoken.")


class FileUtterance(Answer):
    """One utterance, with times in seconds."""

    start: float
    end: float
    confidence: float
    channel: int = 0
    transcript: str
    words: list[Word] = Field(description=WORDS)
    id: str


class FileResults(Answer):
    """The text, whole and in utterances."""

    channels: list[FileChannel]
    utterances: list[FileUtterance] | None = absent("With utterances=true.")


class Listened(Answer):
    """The answer."""

    metadata: RequestInfo
    results: FileResults


def whole_answer(
    query: FileQuery, metadata: ResultsMetadata, created: datetime, sha256: str, finals: Sequence[Final], length: float
) -> Response:
    """The answer for a file with the hash `sha256`, `length` seconds long."""
    text = FileAlternative(
        transcript=join_texts(final.text for final in finals),
        confidence=confidence(finals),
        words=[word for final in finals for word in words(final)],
    )
    language = language_code(Transcript(finals).language) if query.detect_language != "false" else None
    utterances = [
        FileUtterance(
            start=seconds(final.start),
            end=seconds(final.end),
            confidence=confidence([final]),
            transcript=final.text,
            words=list(words(final)),
            id=str(uuid.uuid4()),
        )
        for final in finals
        if final.text
    ]
    answer = Listened(
        metadata=RequestInfo.of(metadata, created, sha256, length),
        results=FileResults(
            channels=[FileChannel(alternatives=[text], detected_language=language)],
            utterances=utterances if query.utterances else None,
        ),
    )
    return JSONResponse(answer.model_dump(), headers={"dg-request-id": metadata.request_id})


@contextlib.asynccontextmanager
async def listen_job(service: Service, upload: Upload) -> AsyncIterator[Job]:
    """Reads a request. Raises BadField and what `received_body` raises."""
    created = datetime.now(UTC)
    query = FileQuery.of(QueryParams(upload.scope.get("query_string", b"")))
    if upload.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        # The server may reach what the client may not (server-side request forgery).
        raise BadField("url", "The body is JSON, and this server fetches no url: send the file itself as the body.")
    async with received_body(upload) as file:
        sha256 = await to_thread.run_sync(_sha256, file)
        yield Job(
            files=[file],
            language=query.language_option,
            context=query.context,
            context_field="keyterm",
            scored=True,
            events=None,
            whole=partial(whole_answer, query, ResultsMetadata.of(service.model_name(query.model)), created, sha256),
            words=True,
            model=query.model,
        )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # typed for readinto, which every file has
    file.seek(0)
    return digest.hexdigest()
