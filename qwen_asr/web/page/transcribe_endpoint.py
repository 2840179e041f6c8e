"""The endpoint `/transcribe(file, language, context, model)` for `gradio_client` and other clients of Gradio's API.

Gradio itself writes the description, `/config` and `/gradio_client/info`. The calls are answered here, not by Gradio:
its own routes have neither the limits of an upload to the REST API nor its queue, and would hold whole files in memory.
A call is an upload, an event that names it, and a stream that tells the result. It counts as one transcription from its
upload on, and ends with whatever comes first: the result, the end of the stream, or `UploadLimits.unclaimed_seconds`
without the next step. The prefix is one of its own, so that nothing of the page's API is open to programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from qwen_asr.config.limits import PageLimits
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import UnknownLanguage
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.access.identity import identity
from qwen_asr.web.access.route_table import GRADIO_CLIENT
from qwen_asr.web.bodies import read_body
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response, to_public_error
from qwen_asr.web.rest.transcriptions import AsgiResponse, Job, Transcriptions, abort_on
from qwen_asr.web.rest.upload import Form, received_form
from qwen_asr.web.validation import first_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from qwen_asr.config.limits import UploadLimits
    from qwen_asr.live.events import Final

HEARTBEAT_SECONDS = 15.0
"""How often a stream says that it is there, as Gradio does: some proxies end one that says nothing for a minute."""
NO_FILE = (
    "The file was not uploaded, or too long ago; expected one of the client's own machine, as handle_file gives it. No "
    "address is fetched."
)
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class UploadedFile(BaseModel):
    """The file of a call."""

    path: str = Field(max_length=4096)


class Call(BaseModel):
    """What a client sends to begin a call: the file, the language, the context and the model.

    Clients that have read an older description send no model.
    """

    data: tuple[
        UploadedFile,
        Annotated[str, Field(max_length=PageLimits.language_characters)] | None,
        Annotated[str, Field(max_length=PageLimits.context_characters)] | None,
        Annotated[str, Field(max_length=PageLimits.model_characters)] | None,
    ]
    session_hash: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")

    @field_validator("data", mode="before")
    @classmethod
    def _without_model(cls, data: Any) -> Any:
        return [*data, None] if isinstance(data, list) and len(data) == 3 else data


@dataclass(eq=False)
class StoredFile:
    """A file that is on disk. `close` deletes it."""

    form: Form
    owner: str
    resources: contextlib.AsyncExitStack
    timer: asyncio.TimerHandle | None = None

    def keep(self) -> None:
        """Has it stay until `close`, however long that takes."""
        if self.timer is not None:
            self.timer.cancel()

    async def close(self) -> None:
        """Deletes the file, and ends the transcription that it counts as. A second call does nothing."""
        self.keep()
        await self.resources.aclose()


@dataclass(eq=False)
class Event:
    """A call whose result is to be told."""

    id: str
    file: StoredFile
    language: str | None
    context: str
    model: str


@dataclass(eq=False)
class Session:
    """The calls of one client, in order. `streaming`: whether a stream tells their results."""

    events: deque[Event] = field(default_factory=deque)
    streaming: bool = False


class TranscribeEndpoint:
    """The routes. Everything runs on the event loop."""

    def __init__(
        self, transcriptions: Transcriptions, limits: UploadLimits, describe: Callable[[], Description]
    ) -> None:
        """`describe` is called once, when a client asks first."""
        self._transcriptions = transcriptions
        self._limits = limits
        self._describe = describe
        self._description: Description | None = None
        self._uploads: dict[str, StoredFile] = {}  # by the path that the client was given
        self._sessions: dict[tuple[str, str], Session] = {}  # by the client's identity and its session hash
        self._closing: set[asyncio.Task[None]] = set()

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes; call it before the page is mounted at "/"."""
        stream = Route(f"{GRADIO_CLIENT}/queue/data", self._stream)
        stream.methods = {"GET"}  # with HEAD, which Starlette adds, the results would be lost
        app.router.routes += [
            Route("/config", self._config),
            Route(f"{GRADIO_CLIENT}/info", self._info),
            Route(f"{GRADIO_CLIENT}/upload", self._asgi(self._receive), methods=["POST"]),
            Route(f"{GRADIO_CLIENT}/queue/join", self._asgi(self._join), methods=["POST"]),
            stream,
        ]

    @property
    def waiting(self) -> int:
        """How many files wait for the next step of their call."""
        return len(self._uploads) + sum(len(session.events) for session in self._sessions.values())

    # --- the description

    async def _config(self, _: Request) -> Response:
        return JSONResponse(self._described().config)

    async def _info(self, _: Request) -> Response:
        return JSONResponse(self._described().info)

    def _described(self) -> Description:
        if self._description is None:
            self._description = self._describe()
        return self._description

    # --- the steps of a call

    def _asgi(self, answer: Callable[[Scope, Body], Any]) -> Callable[[Request], Any]:
        """An endpoint that reads a body itself, with its errors as JSON."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            body = Body(receive, self._limits.idle_seconds)
            with contextlib.suppress(ClientDisconnect):
                try:
                    response = await answer(scope, body)
                except ClientDisconnect:
                    raise
                except Exception as error:
                    response = error_response(error)
                await answer_early(response, body, scope, receive, send, self._limits.linger_seconds)

        async def endpoint(_: Request) -> Response:
            return AsgiResponse(serve)

        return endpoint

    async def _receive(self, scope: Scope, body: Body) -> Response:
        """Stores a file, and answers with the path under which the client names it."""
        async with contextlib.AsyncExitStack() as stack:
            request = stack.enter_context(self._transcriptions.opened(scope, body))
            reading = received_form(request.headers, body, self._limits, name="files", take=request.take)
            form = await stack.enter_async_context(reading)
            path = secrets.token_urlsafe(24)
            upload = StoredFile(form, identity(scope), stack.pop_all())
        self._uploads[path] = upload
        self._expire(upload, lambda: self._uploads.pop(path, None))
        return JSONResponse([path])

    async def _join(self, scope: Scope, body: Body) -> Response:
        """Takes a call, and answers with the id of its event."""
        data = await read_body(scope, body, self._limits.call_bytes, self._limits.idle_seconds)
        try:
            call = Call.model_validate_json(data)
        except ValidationError as error:
            return _refusal(*first_error(error))
        file, language, context, model = call.data
        upload = self._uploads.get(file.path)
        if upload is None or upload.owner != identity(scope):
            return _refusal("file", NO_FILE)
        del self._uploads[file.path]
        try:
            event = Event(secrets.token_hex(16), upload, resolve_language(language), context or "", model or "")
        except UnknownLanguage as error:
            await upload.close()
            return _refusal("language", str(error))
        key = (event.file.owner, call.session_hash)
        session = self._sessions.setdefault(key, Session())
        session.events.append(event)
        if session.streaming:
            event.file.keep()
        else:
            self._expire(event.file, lambda: self._forget(key, event))
        return JSONResponse({"event_id": event.id})

    async def _stream(self, request: Request) -> Response:
        """The results of a client's calls, until there is none left."""
        key = (identity(request.scope), request.query_params.get("session_hash", ""))
        session = self._sessions.get(key)
        if session is None or session.streaming:
            return _refusal("session_hash", "This client has no call whose result is to be told.")

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            body = Body(receive)
            session.streaming = True
            for event in session.events:
                event.file.keep()
            try:
                with contextlib.suppress(ClientDisconnect):
                    while not body.ended:
                        await body.read()
                    await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
                    await abort_on(
                        body.wait_for_disconnect(), ClientDisconnect(), self._tell(key, session, scope, send)
                    )
            finally:
                self._leave(key, session)
                while session.events:
                    await session.events.popleft().file.close()

        return AsgiResponse(serve)

    async def _tell(self, key: tuple[str, str], session: Session, scope: Scope, send: Send) -> None:
        async def tell(msg: str, more: bool = True, **fields: Any) -> None:
            data = f"data: {json.dumps({'msg': msg, **fields})}\n\n".encode("ascii")
            await send({"type": "http.response.body", "body": data, "more_body": more})

        while session.events:
            event = session.events[0]
            await tell("process_starts", event_id=event.id)
            try:
                work = asyncio.ensure_future(self._transcriptions.done(_job(event), scope))
                try:
                    while not (await asyncio.wait([work], timeout=HEARTBEAT_SECONDS))[0]:
                        await tell("heartbeat")
                finally:
                    work.cancel()
                    await asyncio.wait([work])
                output: dict[str, Any] = {"data": [bytes(work.result().body).decode()]}
            except Exception as error:
                output = {"error": str(to_public_error(error)), "visible": True, "title": "Error"}
            finally:
                session.events.popleft()
                await event.file.close()
            await tell("process_completed", event_id=event.id, output=output, success="error" not in output)
        self._leave(key, session)  # at once: a call that comes now gets a session and a stream of its own
        await tell("close_stream", more=False, event_id=None)

    def _leave(self, key: tuple[str, str], session: Session) -> None:
        if self._sessions.get(key) is session:
            del self._sessions[key]

    # --- calls that do not go on

    def _expire(self, file: StoredFile, forget: Callable[[], object]) -> None:
        """Has a file deleted if the next step of its call does not come in time."""

        def expire() -> None:
            forget()
            task = asyncio.get_running_loop().create_task(file.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        file.keep()
        file.timer = asyncio.get_running_loop().call_later(self._limits.unclaimed_seconds, expire)

    def _forget(self, key: tuple[str, str], event: Event) -> None:
        session = self._sessions[key]
        session.events.remove(event)
        if not session.events:
            del self._sessions[key]


@dataclass(frozen=True)
class Description:
    """What Gradio's clients read first."""

    config: dict[str, Any]
    info: dict[str, Any]


def describe() -> Description:
    """The description of the endpoint, as Gradio writes it for an app that has nothing else."""
    import gradio as gr  # heavy; the app has imported it by now

    def transcribe(file: Any, language: str = "", context: str = "", model: str = "") -> None:
        """Transcribe an audio or video file."""

    with gr.Blocks(analytics_enabled=False) as blocks:
        file = gr.File(label="file")
        language = gr.Textbox("", label="language: a name or a code; empty to detect it")
        context = gr.Textbox("", label="context: names and terms that occur in the audio")
        model = gr.Textbox("", label="model: one of those that /v1/models lists; empty for the first")
        gr.on([], transcribe, [file, language, context, model], gr.Textbox(label="text"), api_name="transcribe")
    config: Any = blocks.get_config_file()
    config |= {"api_prefix": GRADIO_CLIENT, "connect_heartbeat": False}
    return Description(json.loads(json.dumps(config, default=str)), dict(blocks.get_api_info()))


def _job(event: Event) -> Job:
    def whole(finals: Sequence[Final], _: float) -> Response:
        return PlainTextResponse(join_texts(final.text for final in finals))

    return Job(
        files=[event.file.form.file],
        language=event.language,
        context=event.context,
        context_field="context",
        scored=False,
        events=None,
        whole=whole,
        model=event.model,
    )


def _refusal(name: str, message: str) -> Response:
    """422 in the form whose message Gradio's clients show."""
    detail = {"__type__": "validate", "is_valid": False, "parameter_name": name, "message": message}
    return JSONResponse({"detail": [detail]}, 422)
