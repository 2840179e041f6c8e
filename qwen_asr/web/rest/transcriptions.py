"""`POST /v1/audio/transcriptions`: the upload, its transcription, and the answer or the stream of events.

What `/v1/chat/completions` asks for is the same work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.errors import AudioError, BadField, BadInput, LimitExceeded, ServerStopping, StepFailed, TooLarge
from qwen_asr.service.file_transcription import FileTranscription
from qwen_asr.service.rate_limit import sender
from qwen_asr.service.shares import Shares
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response
from qwen_asr.web.rest.answers import whole_answer
from qwen_asr.web.rest.chat import chat_job
from qwen_asr.web.rest.event_stream import EventStream
from qwen_asr.web.rest.form import parse_request
from qwen_asr.web.rest.jobs import Collected, Job, Streamed
from qwen_asr.web.rest.models import check_ready
from qwen_asr.web.rest.upload import Upload, received_file
from qwen_asr.web.sockets.queueing import wait_for_slot

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from qwen_asr.service.service import Service

ReadJob = Callable[[Upload], AbstractAsyncContextManager[Job]]
"""Reads a request. The files are deleted at the end of the context."""
T = TypeVar("T")


class Transcriptions:
    """The route. It takes part in the server's shutdown (see `service.shutdown.Part`)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits.upload
        self._bytes = Shares(self._limits.address_bytes, "The files from your address have {most} bytes")
        seconds = max(self._limits.address_seconds, service.config.max_file_seconds)
        self._held = Shares(
            self._limits.json_bytes_per_address,
            "The requests in JSON from your address have {most} bytes",
            self._limits.json_bytes_in_all,
            "All requests in JSON have {most} bytes",
        )
        self._samples = Shares(seconds * SAMPLE_RATE, f"The files from your address have {seconds:g} seconds of audio")
        self._aborting = asyncio.Event()
        self.unfinished = 0
        self._active = Counter[str]()  # requests that have passed the checks, by address; for the event loop only

    async def stop(self) -> None:
        """Nothing to do: new requests are refused already, and active ones go on."""

    def give_up(self) -> None:
        """Ends all requests now."""
        self._aborting.set()

    async def create(self, _: Request) -> Response:
        """The text of the file, as OpenAI's API returns it: at once, or with `stream=true` utterance by utterance."""
        return self.answering(transcription_job)

    async def chat(self, _: Request) -> Response:
        """The text of the audio in the messages, as a chat model returns it, with `stream=true` in chunks."""
        return self.answering(partial(chat_job, self._service.model_name))

    def answering(self, read: ReadJob) -> Response:
        """The response to a request that `read` reads."""
        return _AsgiResponse(partial(self._serve, read))

    async def _serve(self, read: ReadJob, scope: Scope, receive: Receive, send: Send) -> None:
        self.unfinished += 1
        try:
            # A client that disconnects ends the work for it.
            with contextlib.suppress(ClientDisconnect):
                await self._respond(read, scope, receive, send)
        finally:
            self.unfinished -= 1

    async def _respond(self, read: ReadJob, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive, self._limits.idle_seconds)
        try:
            work = self._answer(read, scope, body, send)
            response = await abort_on(self._aborting.wait(), ServerStopping(), work)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._count(error)
            response = error_response(error)
        if response is not None:
            limits = self._limits
            linger_seconds = limits.shutdown_linger_seconds if self._aborting.is_set() else limits.linger_seconds
            await answer_early(response, body, scope, receive, send, linger_seconds)

    async def _answer(self, read: ReadJob, scope: Scope, body: Body, send: Send) -> Response | None:
        """The response; None if it was sent already, as events."""
        headers, address = Headers(scope=scope), sender(scope)
        # Checked first, so that a request that would be refused does not upload its file.
        check_ready(self._service)
        self._service.admission.check_room(address)
        self._bytes.check(address, int(headers.get("content-length", 0)))
        with self._count_request(address), self._bytes.opened(address) as take:
            async with read(Upload(scope, headers, body, self._limits, address, take, self._held)) as job:
                work = self._transcribe(job, address, send)
                return await abort_on(body.wait_for_disconnect(), ClientDisconnect(), work)

    @contextlib.contextmanager
    def _count_request(self, address: str) -> Iterator[None]:
        """Counts a request, uploads included, as active. Raises LimitExceeded if more than can run or wait are."""
        admission, active = self._service.admission, self._active
        if active.total() >= admission.capacity:
            raise LimitExceeded(
                f"{admission.capacity} transcriptions are in progress, the most that this server takes: try again "
                "later."
            )
        if active[address] >= (share := admission.capacity_of(address)):
            raise LimitExceeded(
                f"{share} transcriptions of your address are in progress, the most that this server takes from one "
                "address: try again later, or ask the operator for a higher --max-sessions-per-address."
            )
        active[address] += 1
        try:
            yield
        finally:
            active[address] -= 1
            if not active[address]:
                del active[address]

    async def _transcribe(self, job: Job, address: str, send: Send) -> Response | None:
        options = self._service.session_options(language=job.language, context=job.context)
        answer = Collected(job) if job.events is None else Streamed(job.events, send)
        seconds = 0.0
        try:
            for file in job.files:
                # After the upload, so that a slow one takes no slot from others.
                slot = await wait_for_slot(self._service.admission, address)
                with (
                    self._samples.opened(address) as take,
                    contextlib.closing(
                        FileTranscription(
                            self._service, file, replace(options, scored=job.scored), slot=slot, take=take
                        )
                    ) as work,
                ):
                    await begin(work, job.context_field)
                    await answer.begin()
                    async for final in work.finals():
                        await answer.add(final)
                    seconds += work.seconds
            return await answer.end(seconds)
        except (Exception, asyncio.CancelledError) as error:
            if not answer.begun:
                raise
            if isinstance(error, Exception):
                self._count(error)
            # A client that still reads learns why the stream ends.
            await answer.fail(error if isinstance(error, Exception) else ServerStopping())
            return None

    def _count(self, error: Exception) -> None:
        if not isinstance(error, StepFailed):  # counted where the step failed
            self._service.instruments.count(error)


class _AsgiResponse(Response):
    """A response that an ASGI app sends. It may read the request's body while it sends."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        await self._app(scope, receive, send)


async def begin(work: FileTranscription, context_field: str) -> None:
    """Begins the work. What the model cannot take as context is reported as an error of that field."""
    try:
        await work.begin()
    except (AudioError, TooLarge):
        raise
    except BadInput as error:
        raise BadField(context_field, str(error)) from error


@contextlib.asynccontextmanager
async def transcription_job(upload: Upload) -> AsyncIterator[Job]:
    """Reads a request to transcribe one file."""
    async with received_file(upload) as form:
        request = parse_request(form.fields)
        yield Job(
            files=[form.file],
            language=request.spoken_language,
            context=request.context,
            context_field="prompt",
            scored=request.scored,
            events=EventStream(request) if request.stream else None,
            whole=partial(whole_answer, request),
        )


async def abort_on(signal: Coroutine[Any, Any, object], error: BaseException, work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of `work`, unless `signal` completes first: then cancels `work` and raises `error`.

    Work that handles its cancellation and returns a result counts as done.
    """
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(signal)
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError as cancellation:
        error = cancellation
    working.cancel()
    waiting.cancel()
    await asyncio.gather(working, waiting, return_exceptions=True)
    if working.cancelled():
        raise error
    return working.result()
