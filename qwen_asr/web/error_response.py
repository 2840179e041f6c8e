"""Errors as JSON, in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from qwen_asr.config.limits import RETRY_AFTER_SECONDS
from qwen_asr.errors import AudioError, BadField, LimitExceeded, NotReady, QwenASRError, UnknownLanguage
from qwen_asr.web.access.route_table import SOCKETS, route_path

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope
    from starlette.websockets import WebSocket

log = logging.getLogger(__name__)

_PARAMS: dict[type[QwenASRError], str] = {AudioError: "file", UnknownLanguage: "language"}


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str = Field(min_length=1, description="One sentence: what was wrong, what was expected, what to do.")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"] = Field(
        description="`server_error` for status 5xx, `rate_limit_error` for 429, `invalid_request_error` for other 4xx."
    )
    param: str | None = Field(description="The field of the request that caused the error.")
    code: str | None = Field(description="A constant name for this kind of error, such as `too_large`.")


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: ErrorDetails


def error_body(error: Exception) -> ErrorBody:
    """The body for an error. `code` is the name of the error's class in snake case.

    Unexpected errors are logged, and the client gets a generic sentence (see `to_public_error`).
    """
    public = to_public_error(error)
    param = public.param if isinstance(public, BadField) else _PARAMS.get(type(public))
    code = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])", "_", type(public).__name__).lower()
    return _body(public.http_status, str(public), param, code)


def envelope(error: Exception) -> dict[str, Any]:
    """`error_body` as a JSON object."""
    return error_body(error).model_dump()


def error_response(error: Exception) -> JSONResponse:
    """The HTTP response for an error.

    It carries `Retry-After` where the same request may succeed later; the openai package then retries by itself.
    """
    public = to_public_error(error)
    headers: dict[str, str] = {}
    if isinstance(public, NotReady | LimitExceeded):
        seconds = public.retry_after if isinstance(public, LimitExceeded) else None
        headers["Retry-After"] = str(seconds or RETRY_AFTER_SECONDS)
    return JSONResponse(envelope(public), public.http_status, headers)


def status_response(
    status: int,
    message: str,
    *,
    code: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The HTTP response for an error that only HTTP knows, such as an unknown path."""
    return JSONResponse(_body(status, message, param, code).model_dump(), status, headers)


async def unknown_path_response(request: Request, error: Exception) -> Response:
    """The response for a path that no route has: an exception handler for 404 in the Gradio app.

    404s that Gradio raises itself, as for a file, are answered as usual.
    """
    from fastapi.exception_handlers import http_exception_handler  # heavy; Gradio has imported it by now

    if isinstance(error, HTTPException) and error.detail != HTTPStatus.NOT_FOUND.phrase:
        return await http_exception_handler(request, error)
    return unknown_path(request.scope)


async def refuse_unknown_path(websocket: WebSocket) -> None:
    """Refuses the handshake of a WebSocket at a path at which there is none. Starlette itself would say 403."""
    await websocket.send_denial_response(unknown_path(websocket.scope))


def unknown_path(scope: Scope) -> JSONResponse:
    """The response for a path at which there is nothing of the kind that was asked for."""
    path = route_path(scope)
    if scope["type"] == "websocket":
        message = f"There is no WebSocket at {path}; there are {', '.join(SOCKETS)}."
    elif path in SOCKETS:
        message = (
            f"{path} is a WebSocket: connect with ws:// or wss://. If that is what was done, a proxy in front of the "
            "server does not pass on the header Upgrade."
        )
        return status_response(426, message, code="upgrade_required", headers={"Upgrade": "websocket"})
    else:
        message = f"There is no {path} here. The page is at /, and /openapi.json describes the API."
    return status_response(404, message, code="unknown_url")


def to_public_error(
    error: Exception, message: str = "The server failed on this request; its log says why."
) -> QwenASRError:
    """Returns an error whose text may be shown to the client.

    A `QwenASRError` is returned unchanged. Any other error is logged with its traceback and replaced by a
    `QwenASRError` with `message`.
    """
    if isinstance(error, QwenASRError):
        return error
    log.error("A request failed.", exc_info=error)
    return QwenASRError(message)


def _body(status: int, message: str, param: str | None, code: str) -> ErrorBody:
    kind: Literal["invalid_request_error", "rate_limit_error", "server_error"] = "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    return ErrorBody(error=ErrorDetails(message=message, type=kind, param=param, code=code))
