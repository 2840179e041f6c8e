"""The script in the page's head: before all others, in the page only, and allowed by its policy."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from qwen_asr.web.access.response_headers import SecurityHeaders
from qwen_asr.web.page.head_script import HeadScript

HTML = "<!doctype html><html><head><script>first()</script></head><body>é</body></html>"


def client() -> TestClient:
    app = Starlette(
        routes=[
            Route("/", lambda _: HTMLResponse(HTML)),
            Route("/login", lambda _: HTMLResponse(HTML)),
            Route("/text", lambda _: PlainTextResponse("<head>")),
        ]
    )
    return TestClient(SecurityHeaders(HeadScript(app)))


def test_it_is_the_first_script_of_the_page_and_its_policy_allows_it() -> None:
    response = client().get("/", headers={"accept-encoding": ""})
    first, second = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    assert "modules.page_settings.start();" in first
    assert second == "first()"
    assert response.text.endswith("<body>é</body></html>")
    assert int(response.headers["content-length"]) == len(response.content)
    digest = base64.b64encode(hashlib.sha256(first.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in response.headers["content-security-policy"]


def test_other_answers_stay_as_they_are() -> None:
    assert client().get("/login").text == HTML
    assert client().get("/text").text == "<head>"
    assert client().head("/").content == b""
