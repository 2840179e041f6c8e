"""`POST /v1/realtime/client_secrets` and its older forms: a short-lived key for a browser's realtime sessions.

See docs/openai.md. The routes are not in `/openapi.json`: their sessions are described where the realtime API is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from qwen_asr.errors import BadInput
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.access.client_secrets import DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS, client_secrets
from qwen_asr.web.access.identity import identity
from qwen_asr.web.access.route_table import REALTIME
from qwen_asr.web.bodies import read_body
from qwen_asr.web.early_answer import Body
from qwen_asr.web.rest.api_route import ApiRoute
from qwen_asr.web.rest.models import check_ready
from qwen_asr.web.sockets.messages import ClientModel, read_object
from qwen_asr.web.sockets.realtime.dialects import OLD_OPENAI, OPENAI
from qwen_asr.web.sockets.realtime.messages import new_id, validate
from qwen_asr.web.sockets.realtime.settings import RealtimeSettings, SessionInfo
from qwen_asr.web.sockets.realtime.updates import SessionBody
from qwen_asr.web.validation import expects

if TYPE_CHECKING:
    from qwen_asr.service.service import Service

Seconds = Annotated[
    int,
    Field(ge=LEAST_SECONDS, le=MOST_SECONDS),
    expects(f"a whole number from {LEAST_SECONDS} to {MOST_SECONDS}"),
]


class ExpiresAfter(ClientModel):
    """How long the secret is accepted, in seconds."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Seconds = DEFAULT_SECONDS


class SecretRequest(ClientModel):
    """A secret, and the settings of its sessions."""

    expires_after: ExpiresAfter | None = None
    session: SessionBody | None = None


class OldSecretRequest(SessionBody):
    """The older form: the settings themselves, with what concerns the secret among them."""

    client_secret: SecretRequest | None = None


class ClientSecretRoute:
    """Makes secrets, and answers in the current form of the API or an older one."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """The secret, and the session as its events will report it."""
        given, size = await self._read(request)
        form = validate(SecretRequest, given)
        session = form.session or SessionBody()
        settings = await self._settings(session)
        value, info = self._make(request, session, size, form.expires_after, settings.model)
        shown = OPENAI.session(info, settings).session.model_dump()
        return JSONResponse({"value": value, "expires_at": info.expires_at, "session": shown})

    async def create_old(self, request: Request, is_transcription: bool) -> Response:
        """The session, with the secret in it."""
        given, size = await self._read(request)
        form = validate(OldSecretRequest, given)
        settings = await self._settings(form)
        expires_after = form.client_secret.expires_after if form.client_secret else None
        value, info = self._make(request, form, size, expires_after, settings.model)
        shown: dict[str, Any] = OLD_OPENAI.session(info, settings).session.model_dump()
        if not is_transcription:
            shown |= {"object": "realtime.session", "model": info.model}
        return JSONResponse(shown | {"client_secret": {"value": value, "expires_at": info.expires_at}})

    async def _read(self, request: Request) -> tuple[dict[str, Any], int]:
        """The object in the body, which may be empty, and its size. Raises BadInput, TooLarge, TimedOut."""
        limits = self._service.limits.sockets
        body = Body(request.receive)
        data = await read_body(request.scope, body, limits.config_bytes, limits.config_seconds)
        if not data.strip():
            return {}, 0
        try:
            return read_object(data.decode(), "an object with a session"), len(data)
        except ValueError as error:
            is_text = not isinstance(error, UnicodeDecodeError)
            raise BadInput(str(error) if is_text else "The body is not UTF-8; expected JSON.") from None

    async def _settings(self, session: SessionBody) -> RealtimeSettings:
        """The settings of the sessions that the secret opens. Raises BadField, and NotReady."""
        check_ready(self._service)
        settings = RealtimeSettings.of(self._service.config).updated(session, self._service.config)
        await anyio.to_thread.run_sync(settings.check, self._service, session)
        return settings

    def _make(
        self, request: Request, session: SessionBody, size: int, expires_after: ExpiresAfter | None, model: str
    ) -> tuple[str, SessionInfo]:
        """Makes the secret. Raises LimitExceeded."""
        seconds = (expires_after or ExpiresAfter()).seconds
        scope = request.scope
        value, expires_at = client_secrets(scope).create(identity(scope), sender(scope), session, size, seconds)
        return value, SessionInfo(new_id("sess"), self._service.model_name(model), expires_at)


def client_secret_routes(service: Service) -> list[ApiRoute]:
    """The routes of the current form and of both older ones."""
    route = ClientSecretRoute(service)
    forms: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "client_secrets": route.create,
        "transcription_sessions": partial(route.create_old, is_transcription=True),
        "sessions": partial(route.create_old, is_transcription=False),
    }
    return [
        ApiRoute(f"{REALTIME}/{name}", _answering(create), method="POST", include_in_schema=False)
        for name, create in forms.items()
    ]


def _answering(create: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await create(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return answer
