"""The OpenAPI document at `/openapi.json`, generated from the routes and their pydantic models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi.openapi.constants import REF_PREFIX
from fastapi.openapi.utils import get_openapi

import qwen_asr
from qwen_asr.web.error_response import ErrorBody

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.routing import BaseRoute

    from qwen_asr.config.config import Config

TITLE = "Qwen3-ASR live"
DESCRIPTION = (
    "OpenAI's routes for transcription, answered by Qwen3-ASR, and the routes for operating the server. The WebSocket "
    "routes `/ws/asr` and `/v1/realtime` are described in docs/protocol.md and docs/openai.md."
)
Responses = dict[int | str, dict[str, Any]]
"""What `APIRoute` takes as `responses`."""
GUARD_ERRORS = (401, 403, 421, 429)
"""What the access guard answers for the routes that it protects."""
WITHOUT_CREDENTIALS: dict[str, Any] = {"security": []}
"""For `openapi_extra` of a route that needs no key or password, whatever the server's options are."""

_ERRORS = {
    400: "The request or one of its fields cannot be used, or the file holds no audio that can be read",
    401: "No API key or password, or a wrong one. Only where the server was started with `--api-key` or `--auth`",
    403: "The request comes from a page of another site that `--allowed-origins` does not name",
    404: "No such model",
    408: "The client stopped sending in the middle of its upload",
    413: "The file or the rest of the form is too large",
    421: "The server does not answer under the name in the Host header; see `--allowed-hosts`",
    429: "Too many requests, or all places are taken, those in the queue too",
    500: "The recognizer failed on the audio",
    503: "The checkpoint is still loading or could not be loaded, or the server is about to stop",
    507: "The server cannot store the upload",
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {
        "WWW-Authenticate": {
            "description": "The accepted schemes: Bearer with `--api-key`, Basic with `--auth`.",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    429: {
        "Retry-After": {
            "description": "Seconds after which the same request may succeed.",
            "required": True,
            "schema": {"type": "integer"},
        }
    },
    503: {
        "Retry-After": {
            "description": "Seconds after which the same request may succeed; absent if the checkpoint did not load.",
            "schema": {"type": "integer"},
        }
    },
}
_SECURITY_SCHEMES = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "A key that was given with `--api-key`."},
    "user": {"type": "http", "scheme": "basic", "description": "A user that was given with `--auth`."},
}


def errors(*statuses: int) -> Responses:
    """The documentation of answers with these error statuses."""
    return {status: answer(ErrorBody, _ERRORS[status], status) for status in sorted(statuses)}


def answer(model: Any, description: str, status: int = 200) -> dict[str, Any]:
    """The documentation of one JSON answer, with the headers that belong to its status."""
    return {"model": model, "description": description, **({"headers": _HEADERS[status]} if status in _HEADERS else {})}


def openapi_document(routes: Sequence[BaseRoute], config: Config) -> dict[str, Any]:
    """The document for the `routes` of a server with this `config`.

    Routes ask for the credentials that the options demand, except for those with `WITHOUT_CREDENTIALS`.
    """
    document = get_openapi(
        title=TITLE,
        version=qwen_asr.__version__,
        description=DESCRIPTION,
        routes=routes,
        servers=[{"url": config.root_path}] if config.root_path else None,
    )
    document.setdefault("components", {})["securitySchemes"] = _SECURITY_SCHEMES
    demanded = ["apiKey"] * bool(config.api_key) + ["user"] * bool(config.auth)
    if demanded:
        document["security"] = [{scheme: []} for scheme in demanded]  # any one of them
    return document


def event_schema(events: Sequence[type[BaseModel]], *, end: str | None = None) -> dict[str, Any]:
    """The JSON schema of one server-sent event, whose data is one of `events` or an error.

    `end` is the data of the last event where events have no names.

    OpenAPI 3.1 has no way to say "a sequence of". As in OpenAI's own document, the schema is that of one event.
    """
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {
            "anyOf": [
                *(inlined_schema(event, "serialization") for event in events),
                {"$ref": REF_PREFIX + ErrorBody.__name__},
            ]
        },
    }
    properties = (
        {"event": {"type": "string"}, "data": data} if end is None else {"data": {"anyOf": [data, {"const": end}]}}
    )
    return {"type": "object", "required": list(properties), "properties": properties}


def inlined_schema(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """The JSON schema of `model` with those of its parts in their places: references would be into the document."""
    schema = model.model_json_schema(mode=mode)
    parts = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(parts[value["$ref"].rpartition("/")[2]])
            return {key: resolved(one) for key, one in value.items()}
        return [resolved(one) for one in value] if isinstance(value, list) else value

    return dict(resolved(schema))
