"""Security headers: on every answer, with a policy that fits its scripts, and frames on a Space only."""

from __future__ import annotations

import base64
import gzip
import hashlib
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from qwen_asr.service.service import Service
from qwen_asr.web.access.response_headers import HEADERS, SecurityHeaders
from tests.support.browser import serving, small_config
from tests.support.checkpoints import random_recognizer

CSP = "content-security-policy"
SCRIPT = "window.x = 'é';\n"
HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HTML = f"<script>{SCRIPT}</script><script src='a.js'></script><p>text</p>"


async def page(_: Request) -> Response:
    async def pieces() -> Any:
        for character in HTML:
            yield character

    return StreamingResponse(pieces(), media_type="text/html")


def client(*, framed: bool = False, fetches_blobs: bool = False) -> TestClient:
    cors = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true"}
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/login", lambda _: HTMLResponse(HTML)),
            Route("/trust", lambda _: HTMLResponse(HTML, headers={CSP: "default-src 'none'"})),
            Route("/theme.css", lambda _: PlainTextResponse("css", headers=cors)),
            Route("/v1/models", lambda _: PlainTextResponse("models", headers=cors)),
        ]
    )
    return TestClient(SecurityHeaders(app, framed=framed, fetches_blobs=fetches_blobs))


def test_a_page_may_run_its_own_scripts_and_no_other() -> None:
    for path, more in (("/", " 'unsafe-eval' blob:"), ("/login", "")):
        response = client().get(path)
        assert response.text == HTML
        assert f"script-src 'self' 'sha256-{HASH}'{more};" in response.headers[CSP]
        assert "unsafe-inline" not in response.headers[CSP].partition("script-src")[2].partition(";")[0]


def test_a_page_is_compressed_for_clients_that_take_it() -> None:
    small = client().get("/", headers={"accept-encoding": "gzip, br"})
    assert (small.text, small.headers["content-encoding"]) == (HTML, "gzip")
    assert int(small.headers["content-length"]) == len(gzip.compress(HTML.encode(), 6, mtime=0))
    assert "content-encoding" not in client().get("/", headers={"accept-encoding": "identity"}).headers


def test_frames_are_for_spaces_only() -> None:
    for path in ("/", "/theme.css", "/nothing"):
        assert "frame-ancestors 'none'" in client().get(path).headers[CSP]
        assert "frame-ancestors https://huggingface.co " in client(framed=True).get(path).headers[CSP]


def test_only_a_page_that_needs_it_fetches_what_it_has_made() -> None:
    assert "connect-src 'self';" in client().get("/").headers[CSP]
    assert "connect-src 'self' blob:;" in client(fetches_blobs=True).get("/").headers[CSP]


def test_an_answer_keeps_its_own_policy() -> None:
    assert client().get("/trust").headers[CSP] == "default-src 'none'"


def test_other_sites_may_read_nothing_but_the_api() -> None:
    for path in ("/theme.css", "/"):
        assert [name for name in client().get(path).headers if name.startswith("access-control-")] == []
    assert client().get("/v1/models").headers["access-control-allow-origin"] == "*"


@pytest.mark.slow
def test_every_kind_of_answer_has_the_headers() -> None:
    with serving(Service(small_config(api_key=("key",)), random_recognizer()), None) as served:
        requests = [
            *(("GET", path, {}) for path in ("/", "/healthz", "/theme.css", "/v1/models", "/nothing", "/openapi.json")),
            ("GET", "/", {"Host": "evil.example"}),
            ("POST", "/gradio_api/upload", {"Origin": "https://evil.example"}),
            ("POST", "/gradio_api/queue/join", {}),
            ("DELETE", "/", {}),
            ("GET", "/v1/models", {"Authorization": "Bearer key"}),
        ]
        for method, path, headers in requests:
            answer = httpx.request(method, served.url + path, headers=headers, timeout=60)
            missing = [name for name in (*HEADERS, CSP) if name not in answer.headers]
            assert missing == [], (method, path, answer.status_code)
            assert answer.headers["permissions-policy"].startswith("microphone=(self)")
