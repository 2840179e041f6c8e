"""Spans of requests: which have one, what it says, and what it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from anyio import to_thread
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen_asr.web.rest.api_route import ApiRoute
from qwen_asr.web.tracing import TracedRequests

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}


class Guard:
    """Refuses every request with a header, as the access guard does: before any route sees it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if any(name == b"x-refused" for name, _ in scope.get("headers", ())):
            await JSONResponse({}, 401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def requests(*wanted: tuple[str, str, dict[str, str]]) -> tuple[list[int], list[ReadableSpan]]:
    """Sends requests, each a method, a path and headers. The statuses, and the spans in order."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    app = FastAPI()

    async def show(request: Request) -> Response:
        def work() -> None:
            tracer.start_span("session").end()

        await to_thread.run_sync(work)
        return JSONResponse({})

    async def fail(request: Request) -> Response:
        raise RuntimeError("a secret")

    app.router.routes += [ApiRoute("/v1/things/{name}", show), ApiRoute("/v1/broken", fail)]

    @app.get("/{path:path}")
    async def page(path: str) -> str:
        tracer.start_span("session").end()
        return path

    app.add_middleware(Guard)
    app.add_middleware(TracedRequests, tracer)

    async def send() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return [(await http.request(method, path, headers=headers)).status_code for method, path, headers in wanted]

    return asyncio.run(send()), list(exporter.get_finished_spans())


def test_a_request_has_its_route_and_status_and_continues_its_trace() -> None:
    statuses, (session, span) = requests(("GET", "/v1/things/zanzibar?key=secret", TRACEPARENT))
    assert statuses == [200]
    assert span.name == "GET /v1/things/{name}"
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{name}",
        "http.response.status_code": 200,
    }
    assert span.kind is trace.SpanKind.SERVER
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (TRACE, PARENT)
    # What the request does in other threads is inside it.
    assert session.parent is not None
    assert session.parent.span_id == span.context.span_id
    assert "zanzibar" not in span.to_json() + session.to_json()


@pytest.mark.parametrize("header", [{}, {"traceparent": "nonsense"}, {"traceparent": f"00-{0:032x}-{PARENT:016x}-01"}])
def test_without_a_context_a_trace_begins(header: dict[str, str]) -> None:
    _, (_, span) = requests(("GET", "/v1/things/a", header))
    assert span.parent is None


def test_refusals_and_failures_have_spans() -> None:
    statuses, spans = requests(
        ("GET", "/v1/things/a", {"x-refused": "1"}),
        ("DELETE", "/v1/things/a", {}),
        ("PURGE", "/v1/things/a", {}),
        ("GET", "/v1/broken", {}),
    )
    assert statuses == [401, 405, 405, 500]
    assert [span.name for span in spans] == [
        "GET", "DELETE /v1/things/{name}", "_OTHER /v1/things/{name}", "GET /v1/broken",
    ]  # fmt: skip
    assert [(span.attributes or {})["http.response.status_code"] for span in spans] == statuses
    assert [span.status.is_ok for span in spans] == [True, True, True, False]
    assert [span.events for span in spans] == [()] * 4  # an exception's text may hold anything
    assert "secret" not in spans[-1].to_json()


def test_the_page_and_the_probes_have_none_but_pass_their_context_on() -> None:
    wanted = [("GET", path, TRACEPARENT) for path in ("/", "/healthz", "/metrics", "/gradio_api/queue/data")]
    _, spans = requests(*wanted)
    assert [span.name for span in spans] == ["session"] * 4
    assert {span.context.trace_id for span in spans} == {TRACE}
