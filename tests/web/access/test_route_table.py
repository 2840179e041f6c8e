"""The table of routes: it has every route of ours, and of Gradio's only those that the page uses."""

from __future__ import annotations

import re
from pathlib import Path

import gradio
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount

from qwen_asr.service.service import Service
from qwen_asr.web.access.route_table import RULES, Access, find_rule
from qwen_asr.web.app import create_app
from tests.support.browser import small_config
from tests.support.checkpoints import random_recognizer

# With what Gradio's own routes have in their places.
EXAMPLES = {"session_hash": "a0l9m1hphdh", "event_id": "7de8e66b44b94ceab987100087c546b4", "path": "index.js"}
GRADIO_USED = {
    "/",
    "/assets/{path}",
    "/favicon.ico",
    "/gradio_api/component_server/",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/stream/{event_id}",
    "/gradio_api/stream/{event_id}/close",
    "/gradio_api/upload",
    "/manifest.json",
    "/robots.txt",
    "/static/{path}",
    "/theme.css",
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(small_config(), Service(small_config(), random_recognizer()))


def paths(routes: list[BaseRoute]) -> set[str]:
    """The paths of routes, with placeholders for their parameters."""
    found: set[str] = set()
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:  # a router that is included in the app
            found |= paths(router.routes)
        elif not isinstance(route, Mount):
            found.add(str(getattr(route, "path", "")))
    return {re.sub(r"\{(\w+)(:\w+)?\}", r"{\1}", path) for path in found}


def example(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: EXAMPLES.get(match[1], "anything"), path)


def test_every_route_of_ours_is_in_the_table(app: FastAPI) -> None:
    own = paths(app.routes)
    assert {"/v1/audio/transcriptions", "/ws/asr", "/healthz", "/metrics", "/openapi.json"} <= own
    own.discard("/{path}")  # it refuses the handshake of any other WebSocket
    assert [path for path in own if find_rule(example(path)) is None] == []


def test_of_gradios_routes_only_those_that_the_page_uses_exist(app: FastAPI) -> None:
    [page] = [route.app for route in app.routes if isinstance(route, Mount) and route.path == ""]
    all_of_them = paths(page.routes)  # type: ignore[attr-defined]  # an ASGI app that is a FastAPI
    assert len(all_of_them) > 60
    # Gradio has its own, which nothing reaches.
    ours = {"/login", "/logout", "/healthz", "/openapi.json", "/config"}
    assert {path for path in all_of_them - ours if find_rule(example(path)) is not None} == GRADIO_USED


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/token", "/gradio_api/user", "/gradio_api/app_id", "/gradio_api/info", "/gradio_api/cancel"),
        *("/gradio_api/reset", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=https://example.org", "/config/"),
        *("/gradio_api/run/predict", "/gradio_api/call/exchange", "/gradio_api/startup-events", "/gradio_api/runs"),
        *("/assets/../config", "/assets/..%2fconfig", "/assets/", "/static", "//", "/gradio_api/upload/", "/v1", ""),
        *("/gradio_api/heartbeat/abc", "/gradio_api/stream/a/b", "/gradio_api/stream/" + "a" * 65, "/login/"),
        *("/gradio_client/", "/gradio_client/call/transcribe", "/gradio_client/heartbeat/a", "/gradio_client/file=a"),
    ],
)
def test_what_does_not_exist(path: str) -> None:
    assert find_rule(path) is None


def test_all_files_of_gradios_page_can_be_loaded() -> None:
    folder = Path(gradio.__file__).parent / "templates" / "frontend"
    names = [
        file.relative_to(folder).as_posix() for kind in ("assets", "static/js") for file in (folder / kind).iterdir()
    ]
    assert len(names) > 100
    assert [name for name in names if find_rule(f"/{name}") is None] == []


def test_only_probes_go_unchecked() -> None:
    assert [rule.pattern.pattern for rule in RULES if rule.access is Access.PROBE] == ["/(healthz|readyz)"]
