"""The OpenAPI document against the running routes: every documented error is provoked and compared."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import schemathesis
import torch
from fastapi import FastAPI

import qwen_asr.errors
from qwen_asr.config.config import Config
from qwen_asr.config.limits import GuardLimits, Limits, UploadLimits
from qwen_asr.errors import BadField
from qwen_asr.service.service import Service
from qwen_asr.web.access.guard import AccessGuard
from qwen_asr.web.access.route_table import LISTEN
from qwen_asr.web.error_response import error_body
from qwen_asr.web.rest.form import ResponseFormat
from qwen_asr.web.rest.openapi import openapi_document
from qwen_asr.web.rest.routes import CHAT, TRANSCRIPTIONS, add_routes
from tests.support.checkpoints import demo_recognizer
from tests.support.faults import before_each_decoding
from tests.support.rest_client import form, speech

pytestmark = pytest.mark.slow

KEY = "a-key-of-a-program"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
JSON = {"Content-Type": "application/json"}
HEADERS = {TRANSCRIPTIONS: FORM, CHAT: JSON, LISTEN: {"Content-Type": "audio/wav"}}


def body(path: str, audio: bytes, **fields: Any) -> bytes:
    """The body of a request with audio to the route at `path`."""
    if path == TRANSCRIPTIONS:
        return form("x", audio, **fields)
    if path == LISTEN:
        return audio
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(audio).decode()}}
    return json.dumps({"messages": [{"role": "user", "content": [part]}], **fields}).encode()


def document(config: Config) -> dict[str, Any]:
    """The document of a server with this config."""
    app = FastAPI()
    add_routes(app, Service(config))
    return app.openapi()


DOCUMENT = document(Config())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
ERRORS = [
    (method, path, int(status))
    for method, path in OPERATIONS
    for status in DOCUMENT["paths"][path][method.lower()]["responses"]
    if int(status) >= 400
]


@dataclass
class Running:
    """The routes behind the access guard, in this process."""

    app: FastAPI
    service: Service
    loop: asyncio.Runner

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Sends one request with the right key, unless `request` has other headers."""
        headers = AUTHORIZED | request.pop("headers", {})

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                return await client.request(method, path.format(name="demo"), headers=headers, **request)

        return self.loop.run(send())

    def upload(self, path: str, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
        """Sends the body of a request with audio."""
        return self.ask("POST", path, headers=HEADERS[path], content=content)


@pytest.fixture
def running() -> Iterator[Running]:
    with run(Limits()) as running:
        yield running


@contextlib.contextmanager
def run(limits: Limits) -> Iterator[Running]:
    torch.set_num_threads(1)
    config = Config(host="127.0.0.1", api_key=(KEY,))
    service = Service(config, demo_recognizer(), limits=limits)
    with contextlib.closing(service), asyncio.Runner() as loop:
        app = FastAPI()
        app.add_middleware(AccessGuard(config, service.rates, GuardLimits(wrong_credentials="1/day")).middleware)
        add_routes(app, service)
        yield Running(app, service, loop)


def bad_request(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    if path == LISTEN:
        return running.ask("POST", path, params={"utterances": "perhaps"}, content=speech())
    return running.upload(path, body(path, speech(), stream="perhaps"))


def no_key(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    return running.ask(method, path, headers={"Authorization": ""})


def page_of_another_site(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    return running.ask(method, path, headers={"Origin": "https://other.example"})


def unknown_model(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    return running.ask(method, path.format(name="other"))


def stalled_upload(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    async def first_half() -> AsyncIterator[bytes]:
        yield body(path, speech())[:1000]
        await asyncio.sleep(3600)

    with run(Limits(upload=UploadLimits(idle_seconds=0.01, linger_seconds=0.01))) as impatient:
        response = impatient.upload(path, first_half())
    response.request = httpx.Request(method, "http://localhost" + path)  # schemathesis would read the one that was sent
    return response


def large_file(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    with run(Limits(upload=UploadLimits(file_bytes=1000, json_bytes=1000))) as limited:
        return limited.upload(path, body(path, bytes(1001)))


def wrong_host(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    return running.ask(method, path, headers={"Host": "other.example"})


def many_wrong_keys(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    wrong = {"Authorization": "Bearer another-key"}
    assert running.ask(method, path, headers=wrong).status_code == 401
    return running.ask(method, path, headers=wrong)


def failing_model(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    def fail(_: int) -> None:
        raise RuntimeError("a fault of the device")

    with before_each_decoding(demo_recognizer(), fail):
        return running.upload(path, body(path, speech()))


def unavailable(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    patch.setattr(running.service, "unhealthy_reason", lambda: "The recognizer's thread has ended.")
    running.service.stopping = True
    return running.ask(method, path)


def full_disk(running: Running, method: str, path: str, patch: pytest.MonkeyPatch) -> httpx.Response:
    patch.setattr(tempfile, "tempdir", "/nowhere")
    return running.upload(path, body(path, speech()))


PROVOKED: dict[int, Callable[[Running, str, str, pytest.MonkeyPatch], httpx.Response]] = {
    400: bad_request,
    401: no_key,
    403: page_of_another_site,
    404: unknown_model,
    408: stalled_upload,
    413: large_file,
    421: wrong_host,
    429: many_wrong_keys,
    500: failing_model,
    503: unavailable,
    507: full_disk,
}


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
def test_each_documented_error_is_answered_as_documented(
    running: Running, method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = PROVOKED[status](running, method, path, monkeypatch)
    assert response.status_code == status
    SCHEMA[path][method].validate_response(response)
    documented = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]
    sent = {name for name in ("Retry-After", "WWW-Authenticate") if name in response.headers}
    assert sent == set(documented.get("headers", {}))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_each_success_is_answered_as_documented(running: Running, method: str, path: str) -> None:
    if path not in HEADERS:
        response = running.ask(method, path)
        assert response.status_code == 200
        SCHEMA[path][method].validate_response(response)
        return
    documented = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
    kinds = [{"response_format": name, "stream": "false"} for name in get_args(ResponseFormat)]
    kinds += [{"stream": "true"}, {"include": "logprobs"}]
    if path == CHAT:
        kinds = [{"stream": "false"}, {"stream": "true"}]
    if path == LISTEN:
        kinds = [{}]
    answered = set()
    for fields in kinds:
        response = running.upload(path, body(path, speech(), **fields))
        assert response.status_code == 200
        SCHEMA[path][method].validate_response(response)
        answered.add(response.headers["content-type"].partition(";")[0])
    assert answered == set(documented)


def test_the_document_is_valid() -> None:
    SCHEMA.validate()
    references = str(DOCUMENT).count("$ref")
    assert references > 20
    assert {path for _, path in OPERATIONS} == {
        "/healthz", "/metrics", "/readyz", "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/listen",
        "/v1/models", "/v1/models/{name}",
    }  # fmt: skip


def test_the_document_is_served_without_a_key(running: Running) -> None:
    response = running.ask("GET", "/openapi.json", headers={"Authorization": ""})
    assert response.status_code == 200
    assert response.json() == document(running.service.config)


@pytest.mark.parametrize(
    ("options", "demanded"),
    [
        ({}, None),
        ({"api_key": (KEY,)}, [{"apiKey": []}]),
        ({"auth": ("ada:a-long-password",)}, [{"user": []}]),
        ({"api_key": (KEY,), "auth": ("ada:a-long-password",)}, [{"apiKey": []}, {"user": []}]),
    ],
)
def test_credentials_are_demanded_as_the_options_say(options: dict[str, Any], demanded: Any) -> None:
    found = document(Config(**options))
    assert found.get("security") == demanded
    schemes = found["components"]["securitySchemes"]
    assert {name: (scheme["type"], scheme["scheme"]) for name, scheme in schemes.items()} == {
        "apiKey": ("http", "bearer"),
        "user": ("http", "basic"),
    }
    open_paths = {
        path for path, methods in found["paths"].items() if any(one.get("security") == [] for one in methods.values())
    }
    assert open_paths == {"/healthz", "/readyz"}


def test_paths_begin_at_the_public_path_of_a_proxy() -> None:
    assert "servers" not in openapi_document([], Config())
    assert openapi_document([], Config(root_path="/speech"))["servers"] == [{"url": "/speech"}]


# --- docs/openai.md


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """The part of docs/openai.md about files."""
    text = (repository / "docs" / "openai.md").read_text(encoding="utf-8")
    return text.partition("# `/v1/audio/transcriptions`")[2].partition("\n# ")[0]


def test_the_page_lists_the_fields_and_formats_of_the_form(page: str) -> None:
    form = DOCUMENT["paths"][TRANSCRIPTIONS]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = page.partition("| field |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w\[\]]+)` \|", fields, re.MULTILINE)) == set(form["properties"])
    formats = form["properties"]["response_format"]["enum"]
    assert ", ".join(f"`{name}`" for name in formats) in fields
    answers = page.partition("| `response_format` | content type |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w/]+)` \|", answers, re.MULTILINE))
    assert rows.keys() == set(formats)
    answered = DOCUMENT["paths"][TRANSCRIPTIONS]["post"]["responses"]["200"]["content"]
    assert {*rows.values(), "text/event-stream"} == set(answered)


def test_the_page_lists_every_error(page: str) -> None:
    table = page.partition("## Errors")[2]
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", table, re.MULTILINE)
    documented = {int(status) for method, path, status in ERRORS if path.startswith("/v1/")}
    assert {int(status) for status, _ in rows} == documented | {405, 426}
    listed = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    classes: list[type[qwen_asr.errors.QwenASRError]]
    classes = [kind for kind in vars(qwen_asr.errors).values() if isinstance(kind, type)]
    codes = {
        (kind.http_status, error_body(kind("x", "x") if kind is BadField else kind("x")).error.code) for kind in classes
    }
    routes_only = {
        (400, "unsupported_operation"),
        (404, "model_not_found"),
        (404, "unknown_url"),
        (405, "method_not_allowed"),
        (426, "upgrade_required"),
    }
    never_sent = {(400, "bad_config"), (400, "https_conflict"), (400, "other_result"), (503, "checkpoint_error")}
    startup_and_client = {(500, code) for status, code in codes if status == 500} - {
        (500, "step_failed"), (500, "qwen_asr_error"),
    }  # fmt: skip
    assert listed == (codes | routes_only) - never_sent - startup_and_client


def test_the_page_has_the_true_numbers(page: str) -> None:
    file_bytes, form_bytes = UploadLimits.file_bytes, UploadLimits.form_bytes
    assert f"up to {file_bytes >> 20} MiB" in page
    assert f"more than {file_bytes >> 20} MiB, or the rest of the form more than {form_bytes >> 20} MiB" in page
    assert f"JSON more than {UploadLimits.json_bytes >> 20} MiB" in page
    assert page.count(f"of up to {UploadLimits.json_bytes >> 20} MiB") == 2
    assert f"nothing arrived for {UploadLimits.idle_seconds:g} s" in page
