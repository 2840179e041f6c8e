"""Spans of the REST requests, and the W3C trace context of requests and WebSockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from qwen_asr.web.access.route_table import Access, find_rule, route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_SCRAPED = "/metrics"
_propagator = TraceContextTextMapPropagator()


class TracedRequests:
    """ASGI middleware: a span for each request to the REST API, inside the trace that its `traceparent` names.

    Attributes are those of OpenTelemetry's conventions for HTTP, without the path, the query and the client's address.
    A WebSocket has no span of its own: its sessions have, and they continue its `traceparent`.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app inside the span."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        token = context.attach(_propagator.extract(Headers(scope=scope)))
        try:
            if scope["type"] == "http" and _is_rest(route_path(scope)):
                await self._traced(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            context.detach(token)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        status = 500  # of an app that fails before it answers

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracer.start_as_current_span(method, kind=SpanKind.SERVER, record_exception=False) as span:
            span.set_attribute("http.request.method", method)
            try:
                await self._app(scope, receive, note)
            finally:
                _describe(span, scope, method, status)


def _describe(span: trace.Span, scope: Scope, method: str, status: int) -> None:
    route = getattr(scope.get("route"), "path", "")  # none for requests that were refused
    if route:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _is_rest(path: str) -> bool:
    rule = find_rule(path)
    return rule is not None and rule.access is Access.API and path != _SCRAPED
