"""Checks what the page sends to Gradio, before Gradio reads it: ASGI middleware inside of the access guard.

Each body is read whole, within limits, and written again with only the fields that the page sends. Two values are
replaced on the way, so that they belong to whoever sent the request (`identity`):

- The session hash, by which Gradio and our recordings know a tab. Gradio's script chooses it, and it stands in
  addresses. Inside of the server it is a keyed hash of itself and the identity, so another user who knows it gets a tab
  of their own.
- The path of an uploaded file. The page gets it signed, and gives it back so.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import parse_qs

from itsdangerous import BadSignature, Signer
from pydantic import BaseModel, Field, ValidationError, computed_field
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from qwen_asr.config.limits import PageLimits
from qwen_asr.errors import BadInput, LimitExceeded, QwenASRError, ServerStopping, TooLarge
from qwen_asr.service.rate_limit import sender
from qwen_asr.service.shares import Shares
from qwen_asr.web.access import route_table
from qwen_asr.web.access.identity import identity
from qwen_asr.web.bodies import read_body, replayed, too_large
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response, status_response
from qwen_asr.web.page.downloads import download

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
RELOAD = "reload the page"
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_PART = re.compile(rb"content-disposition\s*:", re.IGNORECASE)

SessionHash = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Scalar = str | int | float | bool | None


class ServerFunctionCall(BaseModel):
    """A component of the page calls a function of the server."""

    data: dict[str, Scalar] | None = None
    fn_name: str
    component_id: int
    session_hash: SessionHash


class UploadedFile(BaseModel):
    """A file that the page has uploaded. Gradio's script sends an address and more with it; only the path counts."""

    path: str = Field(max_length=4096)

    @computed_field  # type: ignore[prop-decorator]  # as in pydantic's documentation
    @property
    def meta(self) -> dict[str, str]:
        """Tells Gradio that this is a file."""
        return {"_type": "gradio.FileData"}


class RecorderEvent(BaseModel):
    """The simple recorder sends a block of audio, with the values of Language and Context."""

    data: tuple[
        UploadedFile | None,
        Annotated[str, Field(max_length=PageLimits.language_characters)] | None,
        Annotated[str, Field(max_length=PageLimits.context_characters)] | None,
    ]
    fn_index: int
    trigger_id: int | None = None
    session_hash: SessionHash


@dataclass(frozen=True)
class PageCalls:
    """What the page calls in Python: server functions, as (component id, name), and the indices of events."""

    functions: frozenset[tuple[int, str]]
    events: frozenset[int]

    @classmethod
    def of(cls, page: Any) -> PageCalls:
        """Those of a `gr.Blocks`: the server functions of its components, and its streaming events."""
        functions = {
            (component, function.__name__)
            for component, block in page.blocks.items()
            for function in getattr(block, "server_fns", ())
        }
        streams = {index for index, event in page.fns.items() if any(kind == "stream" for _, kind in event.targets)}
        return cls(frozenset(functions), frozenset(streams))


class EventStreams:
    """The event streams that are open. Gradio's do not end by themselves when the server stops."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[None]] = set()

    def end(self) -> None:
        """Ends them all. Call it on the event loop."""
        for stream in self._open:
            stream.cancel()

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request with `app`, to the end of the answer or until `end` is called."""
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        stream = asyncio.ensure_future(app(scope, receive, send_noted))
        self._open.add(stream)
        try:
            await asyncio.wait([stream])
        finally:
            self._open.discard(stream)
            stream.cancel()
        if not stream.cancelled():
            stream.result()
        elif started:
            await send({"type": "http.response.body"})
        else:
            await error_response(ServerStopping())(scope, receive, send)


class PageRequests:
    """The middleware. Requests that are not for Gradio's API pass unchanged.

    `page()` is the `gr.Blocks`, `streams` gets the event streams of all pages.
    """

    def __init__(
        self,
        app: ASGIApp,
        page: Callable[[], Any],
        limits: PageLimits | None = None,
        streams: EventStreams | None = None,
    ) -> None:
        self._app = app
        self._page = page
        self._streams = streams or EventStreams()
        self._limits = limits or PageLimits()
        limits = self._limits
        self._held = Shares(
            limits.bodies_bytes_per_address,
            "The unanswered requests of your address have {most} bytes",
            limits.bodies_bytes,
            "All unanswered requests have {most} bytes",
        )
        self._stored = Shares(
            limits.stored_bytes_per_address,
            "The uploads of your address have {most} bytes",
            limits.stored_bytes,
            "All uploads have {most} bytes",
        )
        self._recorders: dict[str, str] = {}  # own session hash → address, of the pages that use the simple recorder
        self._key = secrets.token_bytes(32)

    @functools.cached_property
    def _calls(self) -> PageCalls:
        return PageCalls.of(self._page())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        path = route_table.route_path(scope) if scope["type"] == "http" else ""
        if not path.startswith(route_table.GRADIO):
            await self._app(scope, receive, send)
        elif scope["method"] == "GET":
            scope, own_hash = self._with_own_session(scope)
            # Without an event Gradio would begin an answer and fail.
            if path == route_table.DATA and own_hash not in self._page()._queue.pending_messages_per_session:
                await status_response(404, "This page has no event.", code="unknown_url")(scope, receive, send)
                return
            await self._streams.run(self._app, scope, receive, send)
        else:
            await self._post(path, scope, receive, send)

    async def _post(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = path == route_table.UPLOAD
        largest = self._limits.message_bytes
        if is_upload:
            largest = self._limits.upload_bytes + self._limits.upload_form_bytes
        elif path == route_table.SERVER_FUNCTION:
            largest = max(largest, self._limits.transcript_bytes)
        body = Body(receive, self._limits.body_seconds)
        address, owner = sender(scope), identity(scope)
        # Held until the answer: the page's calls wait for text.
        with self._held.opened(address) as take:
            try:
                data = await read_body(scope, body, largest, self._limits.body_seconds, take)
                if is_upload:
                    self._store(data, address)
                elif path == route_table.SERVER_FUNCTION:
                    data = self._function_call(data, owner)
                elif not path.endswith("/close"):
                    data = self._event(data, owner, address if path == route_table.JOIN else None)
            except ClientDisconnect:
                log.debug("A page left before its request was complete.")
                return
            except QwenASRError as error:
                await answer_early(error_response(error), body, scope, receive, send)
                return
            if is_upload:
                send = _Rewriting(send, lambda answer: self._sign_paths(answer, owner))
            await self._app(_as_replayed(scope, len(data)), replayed(data, receive), send)

    def _store(self, body: bytes, address: str) -> None:
        """Counts an upload, which lies on disk until it is read or swept. Raises BadInput, LimitExceeded."""
        if len(_PART.findall(body)) > 1:
            raise BadInput(f"The page uploads one file at a time; {RELOAD}.")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stored.opened(address))(len(body))
            asyncio.get_running_loop().call_later(self._limits.abandoned_seconds, stack.pop_all().close)

    def _function_call(self, body: bytes, owner: str) -> bytes:
        """The body as Gradio gets it. Raises BadInput, TooLarge."""
        call = self._parsed(ServerFunctionCall, body)
        if (call.component_id, call.fn_name) not in self._calls.functions:
            raise BadInput(f"The page called a function that the server does not have; {RELOAD}.")
        if call.fn_name != download.__name__ and len(body) > self._limits.message_bytes:
            raise too_large(self._limits.message_bytes)
        call.session_hash = self._own_hash(call.session_hash, owner)
        return call.model_dump_json().encode()

    def _event(self, body: bytes, owner: str, joining: str | None) -> bytes:
        """The body as Gradio gets it. `joining`: the address, for an event that begins.

        Raises BadInput, TooLarge, LimitExceeded.
        """
        event = self._parsed(RecorderEvent, body)
        if event.fn_index not in self._calls.events:
            raise BadInput(f"The page sent an event that the server does not have; {RELOAD}.")
        event.session_hash = self._own_hash(event.session_hash, owner)
        if joining is not None:
            self._count_event(event.session_hash, joining)
        if (file := event.data[0]) is not None:
            file.path = self._verified(file.path, owner)
        return event.model_dump_json().encode()

    def _count_event(self, own_hash: str, address: str) -> None:
        """Raises LimitExceeded if the page or its address has too many events that have not ended.

        Gradio keeps them until it has told the page, even if no page asks.
        """
        pending = self._page()._queue.pending_event_ids_session
        self._recorders = {tab: known for tab, known in self._recorders.items() if pending.get(tab)}
        if len(pending.get(own_hash, ())) >= self._limits.events_per_tab:
            raise LimitExceeded(f"This page has {self._limits.events_per_tab} recordings at once; {RELOAD}.")
        others = sum(known == address for tab, known in self._recorders.items() if tab != own_hash)
        if others >= self._limits.recorders_per_address:
            raise LimitExceeded(f"{others} pages of your address use the simple recorder: try again later.")
        self._recorders[own_hash] = address

    def _parsed(self, model: type[M], body: bytes) -> M:
        # Counted first: parsed, each bracket takes far more memory than its byte, unless it is in a string.
        if _brackets(body) > self._limits.brackets and _brackets(_STRING.sub(b"", body)) > self._limits.brackets:
            raise TooLarge(f"The page sent a message with too many brackets; {RELOAD}.")
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "JSON"
            raise BadInput(f"The page sent a message that cannot be read ({where}); {RELOAD}.") from None

    def _with_own_session(self, scope: Scope) -> tuple[Scope, str]:
        """The scope with the page's own session hash in place of the one that it sent; and that hash."""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        own_hash = self._own_hash(query.get("session_hash", [""])[0], identity(scope))
        return {**scope, "query_string": f"session_hash={own_hash}".encode()}, own_hash

    def _own_hash(self, session_hash: str, owner: str) -> str:
        return hmac.digest(self._key, f"{owner}\0{session_hash}".encode(), "sha256")[:16].hex()

    def _signer(self, owner: str) -> Signer:
        return Signer(self._key, salt=f"upload {owner}", digest_method=hashlib.sha256)

    def _sign_paths(self, answer: bytes, owner: str) -> bytes:
        """Gradio's answer to an upload: a list of paths."""
        signer, paths = self._signer(owner), json.loads(answer)
        self._page().upload_file_set.difference_update(paths)  # it would grow for ever; the signature says the same
        return json.dumps([signer.sign(path).decode() for path in paths]).encode()

    def _verified(self, path: str, owner: str) -> str:
        """The path of a file that `owner` has uploaded. Raises BadInput for any other."""
        try:
            return self._signer(owner).unsign(path).decode()
        except BadSignature:
            raise BadInput(f"The page named a file that it has not uploaded; {RELOAD}.") from None


def _brackets(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


class _Rewriting:
    """A `send` that holds back a successful answer until it is complete, and replaces its body."""

    def __init__(self, send: Send, rewrite: Callable[[bytes], bytes]) -> None:
        self._send, self._rewrite = send, rewrite
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start, self._start = self._start, None
        body = self._rewrite(self._body)
        MutableHeaders(scope=start)["Content-Length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _as_replayed(scope: Scope, length: int) -> Scope:
    """The scope with headers that fit a body that was replaced. The answer to it must not be compressed.

    Nothing in the query counts for the page, and Gradio would keep an `upload_id` for ever.
    """
    changed = (b"content-length", b"transfer-encoding", b"accept-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in changed]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())], "query_string": b""}
