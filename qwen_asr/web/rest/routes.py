"""The routes that speak plain HTTP: OpenAI's transcription and models, and what an operator asks.

Each failure is one sentence in OpenAI's envelope (`envelope.py`); no traceback leaves the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from qwen_asr.config.limits import IDLE_SECONDS, LINGER_SECONDS, MAX_UPLOAD_BYTES
from qwen_asr.errors import (
    AudioError,
    BadField,
    BadInput,
    LimitExceeded,
    NotReady,
    ServerStopping,
    StepFailed,
)
from qwen_asr.service.file_transcription import FileTranscription
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import envelope, error_object, error_response
from qwen_asr.web.rest.answers import Deltas, event, whole_answer
from qwen_asr.web.rest.form import TranscriptionRequest, parse_request
from qwen_asr.web.rest.metrics import Metrics
from qwen_asr.web.rest.probes import Probes
from qwen_asr.web.rest.upload import Form, received_form
from qwen_asr.web.sockets.queueing import wait_for_slot

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from qwen_asr.service.service import Service

TRANSCRIPTIONS = "/v1/audio/transcriptions"
OPENAPI = Path(__file__).with_name("openapi.json")
LAST_LINGER_SECONDS = 0.5
"""How long the rest of an upload is still read when the server stops: less than its connections have then."""
T = TypeVar("T")
EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def add_routes(app: FastAPI, service: Service) -> Transcriptions:
    """Adds the routes to `app`; to be called before anything is mounted at "/".

    What is returned is to be ended with the server (see `stopping.Part`).
    """
    probes, models, transcriptions = Probes(service), Models(service), Transcriptions(service)
    app.router.routes += [
        Route("/openapi.json", described),
        Route("/healthz", probes.health),
        Route("/readyz", probes.ready),
        Route("/metrics", Metrics(service).show),
        Route("/v1/models", answered(models.list)),
        Route("/v1/models/{name:path}", answered(models.one)),  # path: a hub id has a slash
        Route(TRANSCRIPTIONS, transcriptions, methods=["POST"]),
        # Whatever else a client asks of the API is told so as it expects it, not by the page.
        Route("/v1/{rest:path}", no_such_route, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]
    return transcriptions


async def described(_: Request) -> Response:
    """The routes here as an OpenAPI document, for programs that make clients of it."""
    return FileResponse(OPENAPI, media_type="application/json")


class Models:
    """The one model that there is, under the name that people know it by."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())  # a checkpoint does not say when it was made; this is when it began to serve

    async def list(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        model, asked = self._described(), request.path_params["name"]
        if asked == model["id"]:
            return JSONResponse(model)
        said = f"The model {asked!r} is not served here; {model['id']!r} is, and answers under any name."
        return JSONResponse(error_object(404, said, "model", "model_not_found"), 404)

    def _described(self) -> dict[str, Any]:
        check_ready(self._service)
        return {"id": self._service.model_name, "object": "model", "created": self._created, "owned_by": "qwen-asr"}


class Transcriptions:
    """POST /v1/audio/transcriptions, as an ASGI app: the upload must outlive the stream of events about it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = asyncio.Event()
        self.unfinished = 0
        self._under_way = 0  # changed on the event loop alone

    async def stop(self) -> None:
        """See `stopping.Part`: new requests are refused already, those under way go on."""

    def give_up(self) -> None:
        """See `stopping.Part`: what is under way ends now."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; a client that goes away ends its work."""
        self.unfinished += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.unfinished -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive, IDLE_SECONDS)
        with contextlib.suppress(ClientDisconnect):
            try:
                answer = self._answer(Request(scope).headers, body, send)
                response = await unless(answer, self._stopping.wait(), ServerStopping())
            except ClientDisconnect:
                raise
            except Exception as error:
                self._count(error)
                response = error_response(error)
            if response is not None:
                linger = LAST_LINGER_SECONDS if self._stopping.is_set() else LINGER_SECONDS
                await answer_early(response, body, scope, receive, send, linger)

    async def _answer(self, headers: Headers, body: Body, send: Send) -> Response | None:
        """The answer; None where it was sent already, as events."""
        check_ready(self._service)  # before the upload, which would be for nothing
        self._service.admission.check_room()
        with self._counted():
            async with received_form(headers, body, MAX_UPLOAD_BYTES) as form:
                request_options = parse_request(form.fields)
                return await unless(
                    self._told(form, request_options, send), body.wait_for_disconnect(), ClientDisconnect()
                )

    def _count(self, error: Exception) -> None:
        if not isinstance(error, StepFailed):  # counted where the step failed
            self._service.instruments.count(error)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """One request more under way, uploads among them. Raises LimitExceeded where all of them could never wait."""
        if self._under_way >= (most := self._service.admission.capacity):
            raise LimitExceeded(f"{most} requests are under way on this server, the most it takes: try again later.")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _told(self, form: Form, request_options: TranscriptionRequest, send: Send) -> Response | None:
        # Behind the upload, so that nobody takes a place away from others by sending slowly.
        options = self._service.session_options(language=request_options.language, context=request_options.prompt)
        slot = await wait_for_slot(self._service.admission)
        with contextlib.closing(FileTranscription(self._service, form.file, options, slot=slot)) as work:
            return await self._worked(work, request_options, send)

    async def _worked(
        self, work: FileTranscription, request_options: TranscriptionRequest, send: Send
    ) -> Response | None:
        try:
            await work.begin()
        except AudioError:
            raise
        except BadInput as error:  # what the model cannot take as context
            raise BadField("prompt", str(error)) from error
        if request_options.stream:
            await stream(work, send, self._count)
            return None
        finals = [final async for final in work.finals()]
        return whole_answer(request_options.format, finals, work.seconds, request_options.language)


async def stream(work: FileTranscription, send: Send, count: Callable[[Exception], None]) -> None:
    """The answer as events, each utterance's text as soon as it is final; a failure is the last event.

    Cancelled, it ends with such an event too, and returns: whoever still reads has been told. `count` is given
    each failure.
    """

    async def tell(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
    deltas = Deltas()
    try:
        async for final in work.finals():
            if data := deltas.delta(final):
                await tell(data)
    except asyncio.CancelledError:
        await tell(event(envelope(ServerStopping())), more=False)
    except Exception as error:
        count(error)
        await tell(event(envelope(error)), more=False)
    else:
        await tell(deltas.done(), more=False)


async def unless(work: Coroutine[Any, Any, T], other: Coroutine[Any, Any, object], error: BaseException) -> T:
    """The result of `work`, which is cancelled, and `error` raised, as soon as `other` is over.

    Work that answers its cancellation with a result instead of passing it on is believed.
    """
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(other)
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


def check_ready(service: Service) -> None:
    """Raises NotReady while the checkpoint loads or the server stops, and what loading raised where it has failed."""
    if service.stopping:
        raise ServerStopping
    if service.state != "ready":
        raise service.error or NotReady(service.text)


def answered(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, with its errors answered in the envelope."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return error_response(error)

    return guarded


async def no_such_route(request: Request) -> Response:
    """404 for what OpenAI's API has and this server does not."""
    said = f"There is no {request.method} {request.url.path} here; there are POST {TRANSCRIPTIONS} and GET /v1/models."
    return JSONResponse(error_object(404, said, code="unknown_url"), 404)
