"""`POST /v1/audio/transcriptions`: the upload, its transcription, and the answer or the stream of events.

What other routes ask for is the same work: a `Job`, answered at once or as server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import seconds_of
from qwen_asr.audio.tracks import parse_choice
from qwen_asr.engine.languages import language_tags
from qwen_asr.errors import AudioError, BadField, BadInput, LimitExceeded, ServerStopping, StepFailed, TooLarge
from qwen_asr.service.file_transcription import FileTranscription
from qwen_asr.service.rate_limit import sender
from qwen_asr.service.shares import Shares
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import ErrorBody, error_body, error_response
from qwen_asr.web.model_use import model_in_use
from qwen_asr.web.rest.answers import whole_answer
from qwen_asr.web.rest.event_stream import EventStream
from qwen_asr.web.rest.form import parse_request
from qwen_asr.web.rest.models import check_ready
from qwen_asr.web.rest.upload import Upload, received_file
from qwen_asr.web.sockets.queueing import wait_for_slot

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from qwen_asr.live.events import Final
    from qwen_asr.service.service import Service

T = TypeVar("T")
PROGRESS_SECONDS = 1.0
"""How often a stream that reports its progress does so. It also shows proxies that the stream is alive."""
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Events(Protocol):
    """Writes the events of a stream. Each may be empty."""

    def begin(self) -> bytes:
        """The events before the first final."""

    def add(self, final: Final) -> bytes:
        """The events for the next final."""

    def end(self) -> bytes:
        """The last events."""

    def failure(self, error: ErrorBody) -> bytes:
        """The last events, if an error ends the stream."""


class Progress(Protocol):
    """Writes the events of a stream that tell how far the work is."""

    def queued(self, position: int) -> bytes:
        """The events for a position in the queue; 1 is the next."""

    def heard(self, seconds: float, total: float | None) -> bytes:
        """The events for so many seconds whose text is known, of `total` in the file; None: it does not say."""


@dataclass(frozen=True)
class Job:
    """Files to transcribe one after another, each in a session of its own.

    `context_field`: the field of the request that is wrong if the model cannot take the context. `scored`: whether
    finals need their tokens. `words`: whether they need the times of their words; `quick_words`: only where these come
    at once. `model`: the name that the client gave, if it did. `events`: those of a stream; without
    them `whole` makes the answer of all finals and the length of the audio in seconds. `track` and `channel` of the
    files: see `audio.tracks.parse_choice`. `progress`: of a stream, for a job with one file; a wait in the queue is
    then told as an event too.
    """

    files: Sequence[BinaryIO]
    language: str | None
    context: str
    context_field: str
    scored: bool
    events: Events | None
    whole: Callable[[Sequence[Final], float], Response]
    track: str = ""
    channel: str = ""
    words: bool = False
    quick_words: bool = False
    model: str | None = None
    progress: Progress | None = None


ReadJob = Callable[[Upload], AbstractAsyncContextManager[Job]]
"""Reads a request. The files are deleted at the end of the context."""


class Collected:
    """An answer that is sent at once, in the end."""

    begun = False

    def __init__(self, job: Job) -> None:
        self._job = job
        self._finals: list[Final] = []

    async def begin(self) -> None:
        """Nothing is sent yet."""

    async def queued(self, position: int) -> None:
        """Nothing is sent yet."""

    def reporting(self, work: FileTranscription, total: float | None) -> AbstractAsyncContextManager[None]:
        """Nothing is sent yet."""
        return contextlib.nullcontext()

    async def add(self, final: Final) -> None:
        """Keeps the next final."""
        self._finals.append(final)

    async def end(self, seconds: float) -> Response:
        """The response."""
        return self._job.whole(self._finals, seconds)

    async def fail(self, error: Exception) -> None:
        """Not called: nothing has begun."""


class Streamed:
    """An answer that is sent event by event. `begun`: whether it is too late for another status than 200."""

    def __init__(self, events: Events, progress: Progress | None, send: Send) -> None:
        self._events = events
        self._progress = progress
        self._send = send
        self.begun = False

    async def begin(self) -> None:
        """Sends the headers and the first events, if it has not yet. Call it when the work has begun without errors."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._send_events(self._events.begin())

    async def queued(self, position: int) -> None:
        """Sends the events for a position in the queue."""
        if self._progress is not None:
            await self._send_events(self._progress.queued(position))

    @contextlib.asynccontextmanager
    async def reporting(self, work: FileTranscription, total: float | None) -> AsyncIterator[None]:
        """Sends how far the work is, again and again as long as the context lasts."""
        if self._progress is None:
            yield
            return
        reporting = asyncio.ensure_future(self._report(self._progress, work, total))
        try:
            yield
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _report(self, progress: Progress, work: FileTranscription, total: float | None) -> None:
        while True:
            await self._send_events(progress.heard(work.heard, total))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def add(self, final: Final) -> None:
        """Sends the events of the next final."""
        await self._send_events(self._events.add(final))

    async def end(self, seconds: float) -> None:
        """Sends the last events."""
        progress = b"" if self._progress is None else self._progress.heard(seconds, seconds)
        await self._send_events(progress + self._events.end(), more=False)

    async def fail(self, error: Exception) -> None:
        """Ends the stream with an error."""
        await self._send_events(self._events.failure(error_body(error)), more=False)

    async def _send_events(self, data: bytes, more: bool = True) -> None:
        if data or not more:
            await self._send({"type": "http.response.body", "body": data, "more_body": more})


class Transcriptions:
    """The route. It takes part in the server's shutdown (see `service.shutdown.Part`)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits.upload
        self._bytes = Shares(self._limits.address_bytes, "The files from your address have {most} bytes")
        self._held = Shares(
            self._limits.json_bytes_per_address,
            "The requests in JSON from your address have {most} bytes",
            self._limits.json_bytes_in_all,
            "All requests in JSON have {most} bytes",
        )
        seconds = max(self._limits.address_seconds, service.config.max_file_seconds)
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
        return self.answering(partial(transcription_job, self._service))

    def answering(self, read: ReadJob) -> Response:
        """The response to a request for the same work that `read` reads."""
        return AsgiResponse(partial(self._serve, read))

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
        with self.opened(scope, body) as upload:
            async with read(upload) as job:
                work = self._transcribe(job, upload.address, send)
                return await abort_on(body.wait_for_disconnect(), ClientDisconnect(), work)

    @contextlib.contextmanager
    def opened(self, scope: Scope, body: Body) -> Iterator[Upload]:
        """A request that is to be read, and counts as one in progress. Raises NotReady, LimitExceeded."""
        headers, address = Headers(scope=scope), sender(scope)
        # Checked first, so that a request that would be refused does not upload its file.
        check_ready(self._service)
        self._service.admission.check_room(address)
        self._bytes.check(address, int(headers.get("content-length", 0)))
        with self._count_request(address), self._bytes.opened(address) as take:
            yield Upload(scope, headers, body, self._limits, address, take, self._held)

    async def done(self, job: Job, scope: Scope) -> Response:
        """The answer to a job without events, which the request of `scope` wants.

        Raises ServerStopping, the errors of `FileTranscription`, and BadField for the context.
        """
        self.unfinished += 1
        try:
            # Without events nothing is sent before the end.
            work = self._transcribe(job, sender(scope), _send_nothing)
            response = await abort_on(self._aborting.wait(), ServerStopping(), work)
        except Exception as error:
            self._count(error)
            raise
        finally:
            self.unfinished -= 1
        return response or Response()

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
        options = self._service.session_options(language=job.language, context=job.context, model=job.model)
        choice = parse_choice(job.track, job.channel, options.language, language_tags)
        answer = Collected(job) if job.events is None else Streamed(job.events, job.progress, send)
        seconds = 0.0
        try:
            if job.progress is not None:  # its errors are events, too
                await answer.begin()
            async with model_in_use(self._service, job.model):
                has_words = job.words or (job.quick_words and self._service.has_quick_words(job.model))
                options = replace(options, scored=job.scored, words=has_words)
                for file in job.files:
                    # After the upload, so that a slow one takes no slot from others.
                    slot = await wait_for_slot(self._service.admission, address, answer.queued)
                    with (
                        self._samples.opened(address) as take,
                        contextlib.closing(
                            FileTranscription(self._service, file, options, choice=choice, slot=slot, take=take)
                        ) as work,
                    ):
                        total = await self._total(job, file)
                        await begin(work, job.context_field)
                        await answer.begin()
                        async with answer.reporting(work, total):
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

    async def _total(self, job: Job, file: BinaryIO) -> float | None:
        """The duration that the file states, where the job reports its progress."""
        if job.progress is None:
            return None
        return await self._service.file_threads.run(partial(seconds_of, file))

    def _count(self, error: Exception) -> None:
        if not isinstance(error, StepFailed):  # counted where the step failed
            self._service.instruments.count(error)


class AsgiResponse(Response):
    """A response that an ASGI app sends. It may read the request's body while it sends."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        await self._app(scope, receive, send)


async def _send_nothing(_: Message) -> None:
    """Takes the place of a connection that nothing is sent to."""


async def begin(work: FileTranscription, context_field: str) -> None:
    """Begins the work. What the model cannot take as context is reported as an error of that field."""
    try:
        await work.begin()
    except (AudioError, TooLarge):
        raise
    except BadInput as error:
        raise BadField(context_field, str(error)) from error


@contextlib.asynccontextmanager
async def transcription_job(service: Service, upload: Upload) -> AsyncIterator[Job]:
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
            whole=partial(whole_answer, request, partial(service.why_no_words, model=request.model)),
            track=request.track,
            channel=request.channel,
            words=request.words,
            quick_words=request.subtitles,
            model=request.model,
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
