"""Failures as OpenAI's API tells them: one JSON object around one clear sentence, whatever went wrong.

``{"error": {"message", "type", "param", "code"}}``, with the HTTP status that the error knows. ``type`` is OpenAI's
coarse kind, ``param`` the field of the request that is to blame, ``code`` the name of the error's class in snake case.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from starlette.responses import JSONResponse

from qwen_asr.config.limits import RETRY_AFTER_SECONDS
from qwen_asr.errors import AudioError, BadField, LimitExceeded, NotReady, QwenASRError, UnknownLanguage

log = logging.getLogger(__name__)

_PARAMS: dict[type[QwenASRError], str] = {AudioError: "file", UnknownLanguage: "language"}


def envelope(error: Exception) -> dict[str, Any]:
    """The JSON object for an error. One that nobody foresaw goes to the log, and only that it did to the client."""
    foreseen = to_public_error(error)
    param = foreseen.param if isinstance(foreseen, BadField) else _PARAMS.get(type(foreseen))
    code = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<!^)(?=[A-Z][a-z])", "_", type(foreseen).__name__).lower()
    return error_object(foreseen.http_status, str(foreseen), param, code)


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON object for a sentence and its HTTP status."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    """The whole answer for an error. What passes says when to come again, which the openai package then does."""
    foreseen = to_public_error(error)
    seconds = foreseen.retry_after if isinstance(foreseen, LimitExceeded) else None
    passes = isinstance(foreseen, NotReady | LimitExceeded)
    headers = {"Retry-After": str(seconds or RETRY_AFTER_SECONDS)} if passes else {}
    return JSONResponse(envelope(foreseen), foreseen.http_status, headers)


def to_public_error(error: Exception) -> QwenASRError:
    """`error` itself where it is one of ours; any other is logged, and becomes a sentence that betrays nothing."""
    if isinstance(error, QwenASRError):
        return error
    log.error("A request failed.", exc_info=error)
    return QwenASRError("The server failed on this request; its log says why.")
