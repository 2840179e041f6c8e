"""`POST /v1/audio/transcriptions`: the upload, its transcription, and the answer or the stream of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.tracks import parse_choice
from qwen_asr.engine.languages import language_tags
from qwen_asr.errors import AudioError, BadField, BadInput, LimitExceeded, ServerStopping, StepFailed, TooLarge
from qwen_asr.service.file_transcription import FileTranscription
from qwen_asr.service.rate_limit import sender
from qwen_asr.service.shares import Shares
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_body, error_response
from qwen_asr.web.rest.answers import Deltas, event, whole_answer
from qwen_asr.web.rest.form import TranscriptionRequest, parse_request
from qwen_asr.web.rest.models import check_ready
from qwen_asr.web.rest.upload import Form, received_form
from qwen_asr.web.sockets.queueing import wait_for_slot

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from qwen_asr.service.service import Service

EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
T = TypeVar("T")


class Transcriptions:
    """The route. It takes part in the server's shutdown (see `service.shutdown.Part`)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits.upload
        self._bytes = Shares(self._limits.address_bytes, "The files from your address have {most} bytes")
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
        return _AsgiResponse(self._serve)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.unfinished += 1
        try:
            # A client that disconnects ends the work for it.
            with contextlib.suppress(ClientDisconnect):
                await self._respond(scope, receive, send)
        finally:
            self.unfinished -= 1

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive, self._limits.idle_seconds)
        try:
            work = self._answer(Request(scope).headers, sender(scope), body, send)
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

    async def _answer(self, headers: Headers, address: str, body: Body, send: Send) -> Response | None:
        """The response; None if it was sent already, as events."""
        # Checked first, so that a request that would be refused does not upload its file.
        check_ready(self._service)
        self._service.admission.check_room(address)
        self._bytes.check(address, int(headers.get("content-length", 0)))
        with self._count_request(address), self._bytes.opened(address) as take:
            async with received_form(headers, body, self._limits, take=take) as form:
                work = self._transcribe(form, parse_request(form.fields), address, send)
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

    async def _transcribe(self, form: Form, request: TranscriptionRequest, address: str, send: Send) -> Response | None:
        options = self._service.session_options(language=request.language or None, context=request.prompt)
        choice = parse_choice(request.track, request.channel, options.language, language_tags)
        # After the upload, so that a slow one takes no slot from others.
        slot = await wait_for_slot(self._service.admission, address)
        with (
            self._samples.opened(address) as take,
            contextlib.closing(
                FileTranscription(self._service, form.file, options, choice=choice, slot=slot, take=take)
            ) as work,
        ):
            await begin(work)
            if request.stream:
                await stream(work, send, self._count)
                return None
            finals = [final async for final in work.finals()]
            return whole_answer(request.response_format, finals, work.seconds, request.language)

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


async def begin(work: FileTranscription) -> None:
    """Begins the work. What the model cannot take as context is reported as an error of the field `prompt`."""
    try:
        await work.begin()
    except (AudioError, TooLarge):
        raise
    except BadInput as error:
        raise BadField("prompt", str(error)) from error


async def stream(work: FileTranscription, send: Send, count: Callable[[Exception], None]) -> None:
    """Sends the answer as server-sent events: each utterance's text as soon as it is final.

    A failure becomes the last event and is passed to `count`. When cancelled, this sends an error event and returns, so
    that a client that still reads learns why the stream ends.
    """

    async def send_body(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
    deltas = Deltas()
    try:
        async for final in work.finals():
            if data := deltas.delta(final):
                await send_body(data)
    except asyncio.CancelledError:
        await send_body(event(error_body(ServerStopping())), more=False)
    except Exception as error:
        count(error)
        await send_body(event(error_body(error)), more=False)
    else:
        await send_body(deltas.done(), more=False)


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
