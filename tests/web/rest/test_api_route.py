"""Which methods a route answers, and how errors of its endpoint are answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from qwen_asr.errors import NotReady
from qwen_asr.web.rest.api_route import ApiRoute


async def answer(_: Request) -> Response:
    return PlainTextResponse("answer")


async def fail(request: Request) -> Response:
    raise NotReady("Loading …") if "ready" in request.url.path else ValueError("a secret")


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.router.routes += [
        ApiRoute("/get", answer),
        ApiRoute("/post", answer, method="POST"),
        ApiRoute("/ready", fail),
        ApiRoute("/broken", fail),
        Route("/{path:path}", lambda _: PlainTextResponse("the page", 418)),
    ]
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(("path", "allowed"), [("/get", {"GET", "HEAD"}), ("/post", {"POST"})])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_methods(client: TestClient, path: str, allowed: set[str], method: str) -> None:
    response = client.request(method, path)
    if method in allowed:
        assert response.status_code == 200
        assert response.text == ("" if method == "HEAD" else "answer")
        return
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")
        assert error["message"] == f"{method} is not allowed for {path}; use {' or '.join(sorted(allowed))}."


def test_errors_are_json(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "Loading …"
    assert "retry-after" in response.headers
    response = client.get("/broken")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a secret" in caplog.text
