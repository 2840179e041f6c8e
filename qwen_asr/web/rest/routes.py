"""Adds the REST routes to the app, with their entries in the OpenAPI document."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen_asr.web.access.route_table import LISTEN, SOCKETS, route_path
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import status_response, unknown_path
from qwen_asr.web.rest.answers import Transcription, VerboseTranscription
from qwen_asr.web.rest.api_route import ApiRoute
from qwen_asr.web.rest.chat import ChatChunk, ChatCompletion, ChatRequest, chat_job
from qwen_asr.web.rest.event_stream import EVENTS
from qwen_asr.web.rest.form import MODEL, form_schema
from qwen_asr.web.rest.listen import Listened, listen_job
from qwen_asr.web.rest.metrics import Metrics
from qwen_asr.web.rest.models import Model, ModelList, Models
from qwen_asr.web.rest.openapi import (
    GUARD_ERRORS,
    WITHOUT_CREDENTIALS,
    answer,
    errors,
    event_schema,
    inlined_schema,
    openapi_document,
)
from qwen_asr.web.rest.probes import Health, Probes, Readiness
from qwen_asr.web.rest.transcriptions import Transcriptions

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from qwen_asr.config.limits import UploadLimits
    from qwen_asr.service.service import Service

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
CHAT = "/v1/chat/completions"


def add_routes(app: FastAPI, service: Service) -> Transcriptions:
    """Adds the routes to `app`; call it before anything is mounted at "/".

    The returned route has to be shut down with the server (see `service.shutdown.Part`).
    """
    transcriptions = Transcriptions(service)
    routes = [
        transcriptions_route(transcriptions, service.limits.upload),
        chat_route(transcriptions, service),
        listen_route(transcriptions, service),
        *models_routes(Models(service)),
        *operator_routes(Probes(service), Metrics(service)),
    ]
    document = openapi_document(routes, service.config)

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    app.openapi = lambda: document  # type: ignore[method-assign]  # how FastAPI lets an app bring its own document

    app.router.routes += [
        *routes,
        ApiRoute("/openapi.json", openapi, include_in_schema=False),
        Route("/v1/{path:path}", UnknownPath()),  # so that clients of the API get an error as JSON, not the page's 404
    ]
    return transcriptions


def transcriptions_route(transcriptions: Transcriptions, limits: UploadLimits) -> ApiRoute:
    """POST /v1/audio/transcriptions."""
    form = form_schema(f"An audio or video file in any common format, at most {limits.file_bytes >> 20} MiB.")
    # As JSON the file is text, and the names of lists have no brackets.
    json_fields = {name.removesuffix("[]"): schema for name, schema in form["properties"].items()}
    json_fields["file"] = {
        "type": "string",
        "contentEncoding": "base64",
        "description": f"The same file in base64, or a data URL. The body has at most {limits.json_bytes >> 20} MiB.",
    }
    alone = {"schema": {"type": "string", "format": "binary"}}
    text = {"schema": {"type": "string"}}
    stream = {"schema": event_schema(EVENTS)}
    return ApiRoute(
        TRANSCRIPTIONS,
        transcriptions.create,
        method="POST",
        operation_id="transcribe",
        summary="Transcribe an audio or video file",
        responses={
            200: {
                **answer(VerboseTranscription | Transcription, "The text, in the requested format"),
                "content": {
                    "text/plain": text,
                    "text/vtt": text,
                    "text/event-stream": stream,
                },
            },
            **errors(400, 408, 413, 500, 503, 507, *GUARD_ERRORS),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": form,
                        "encoding": {"file": {"contentType": "application/octet-stream"}},
                    },
                    "application/json": {"schema": {**form, "properties": json_fields}},
                    # The file alone. Its fields are in the address, under the same names.
                    "audio/*": alone,
                    "video/*": alone,
                    "application/octet-stream": alone,
                },
            }
        },
    )


def chat_route(transcriptions: Transcriptions, service: Service) -> ApiRoute:
    """POST /v1/chat/completions."""

    async def chat(_: Request) -> Response:
        """The text of the audio in the messages, as a chat model returns it, with `stream=true` in chunks."""
        return transcriptions.answering(partial(chat_job, service))

    return ApiRoute(
        CHAT,
        chat,
        method="POST",
        operation_id="chat",
        summary="Transcribe audio in a message",
        responses={
            200: {
                **answer(ChatCompletion, "What the model writes: the language and the text"),
                "content": {"text/event-stream": {"schema": event_schema([ChatChunk], end="[DONE]")}},
            },
            **errors(400, 408, 413, 500, 503, 507, *GUARD_ERRORS),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": inlined_schema(ChatRequest, "validation")}},
            }
        },
    )


def listen_route(transcriptions: Transcriptions, service: Service) -> ApiRoute:
    """POST /v1/listen."""

    async def listen(_: Request) -> Response:
        """The text of the file, as Deepgram's API returns it."""
        return transcriptions.answering(partial(listen_job, service))

    text = {"schema": {"type": "string"}}
    parameters = [
        {"name": name, "in": "query", "description": description, **text}
        for name, description in (
            ("model", MODEL),
            ("language", "A code or a name such as en-US, or multi. Without it the language is detected."),
            ("detect_language", "true: detect the language, and name it in the answer."),
            ("keyterm", "A name or term that occurs in the audio. Repeatable."),
            ("utterances", "true: also each utterance with its times."),
        )
    ]
    return ApiRoute(
        LISTEN,
        listen,
        method="POST",
        operation_id="listen",
        summary="Transcribe an audio or video file, as at Deepgram",
        responses={
            200: answer(Listened, "The text"),
            **errors(400, 408, 413, 500, 503, 507, *GUARD_ERRORS),
        },
        openapi_extra={
            "parameters": parameters,
            "requestBody": {
                "required": True,
                "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
            },
        },
    )


def models_routes(models: Models) -> list[ApiRoute]:
    """GET /v1/models and GET /v1/models/{name}."""
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "The id of the model. The slash of a hub id needs no escape.",
    }
    return [
        ApiRoute(
            "/v1/models",
            models.list,
            operation_id="listModels",
            summary="List the one model that is served",
            responses={200: answer(ModelList, "A list with the loaded checkpoint"), **errors(503, *GUARD_ERRORS)},
        ),
        ApiRoute(
            "/v1/models/{name:path}",
            models.retrieve,
            operation_id="getModel",
            summary="Get the model of that name",
            responses={200: answer(Model, "The model"), **errors(404, 503, *GUARD_ERRORS)},
            openapi_extra={"parameters": [name]},
        ),
    ]


def operator_routes(probes: Probes, metrics: Metrics) -> list[ApiRoute]:
    """GET /healthz, /readyz and /metrics."""
    text = {"schema": {"type": "string"}}
    return [
        ApiRoute(
            "/healthz",
            probes.health,
            operation_id="healthz",
            summary="Whether the process works, or has to be restarted",
            responses={
                200: answer(Health, "It works"),
                503: {"model": Health, "description": "Only a restart helps"},
            },
            openapi_extra=WITHOUT_CREDENTIALS,
        ),
        ApiRoute(
            "/readyz",
            probes.ready,
            operation_id="readyz",
            summary="Whether sessions can be opened",
            responses={
                200: answer(Readiness, "Sessions can be opened"),
                503: answer(Readiness, "No session can be opened now", 503),
            },
            openapi_extra=WITHOUT_CREDENTIALS,
        ),
        ApiRoute(
            "/metrics",
            metrics.show,
            operation_id="metrics",
            summary="Metrics for Prometheus",
            responses={
                200: {
                    "description": "All metrics, in the format that the client accepts",
                    "content": {"text/plain": text, "application/openmetrics-text": text},
                },
                **errors(*GUARD_ERRORS),
            },
        ),
    ]


class UnknownPath:
    """Answers 404 for what OpenAI's API has and this server does not. An ASGI app."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        response = _cannot_translate() if _path(scope) == f"POST {TRANSLATIONS}" else _unknown(scope)
        await answer_early(response, Body(receive), scope, receive, send)


def _path(scope: Scope) -> str:
    return f"{scope['method']} {route_path(scope)}"


def _unknown(scope: Scope) -> Response:
    if route_path(scope) in SOCKETS:
        return unknown_path(scope)
    message = (
        f"There is no {_path(scope)} here; there are POST {TRANSCRIPTIONS}, POST {CHAT}, POST {LISTEN} and GET "
        "/v1/models."
    )
    return status_response(404, message, code="unknown_url")


def _cannot_translate() -> Response:
    """400, as OpenAI answers for a model that cannot do what the path says.

    404 would say that the client has a wrong base URL, and the openai package repeats a request after 5xx.
    """
    message = (
        f"{TRANSLATIONS} was asked to translate speech into English, but this server only transcribes: send the same "
        f"request to {TRANSCRIPTIONS} for the text in the language that is spoken."
    )
    return status_response(400, message, code="unsupported_operation", param="model")
