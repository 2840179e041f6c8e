"""The access guard: keys, logins, origins, host names and rates, with real servers and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qwen_asr.config.config import Config
from qwen_asr.config.limits import GuardLimits, Limits
from qwen_asr.errors import Forbidden
from qwen_asr.service.rate_limit import Rates
from qwen_asr.service.service import Service
from qwen_asr.web.access.guard import AccessGuard, access_warnings
from qwen_asr.web.access.route_table import Access, find_rule
from tests.support.browser import Served, serving
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.processes import ServerProcess
from tests.support.rate_clock import Clock
from tests.support.rest_client import form, wav

pytestmark = [
    # Gradio's, on its threads: a deprecated option of pandas.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
KEY, OTHER_KEY, USER, PASSWORD = "a-right-key", "another-right-key", "ada", "correct horse"
RIGHT = {"Authorization": f"Bearer {KEY}"}
TIMEOUT: dict[str, Any] = {"timeout": 60}
OTHER_SITE = "https://evil.example"


@contextlib.contextmanager
def open_server(limits: Limits | None = None, **options: Any) -> Iterator[Served]:
    torch.set_num_threads(1)
    config = Config(host="127.0.0.1", forwarded_allow_ips=("127.0.0.1",), **options)
    with serving(Service(config, demo_recognizer(), limits=limits), None) as served:
        yield served


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """A server with API keys only."""
    with open_server(api_key=(KEY, OTHER_KEY)) as served:
        yield served


@pytest.fixture(scope="module")
def closed() -> Iterator[Served]:
    """A server with a login and an API key."""
    with open_server(api_key=(KEY,), auth=(f"{USER}:{PASSWORD}",)) as served:
        yield served


def recording() -> bytes:
    return wav(spoken("Turn on the kitchen light."))


async def handshake(url: str, **options: Any) -> int:
    """The status of a WebSocket handshake: 101 if it is accepted."""
    try:
        async with connect(f"{url.replace('http', 'ws')}", open_timeout=60, **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def handshake_status(
    served: Served, path: str = "/ws/asr", headers: dict[str, str] | None = None, **options: Any
) -> int:
    return asyncio.run(handshake(served.url + path, additional_headers=headers or {}, **options))


# --- keys


def test_requests_without_a_valid_key_are_refused(keyed: Served) -> None:
    # The response comes before a single byte of the body is sent.
    for line in (b"", b"Authorization: Bearer\r\n", b"Authorization: Bearer wrong\r\n"):
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n"
        with socket.create_connection(("127.0.0.1", int(keyed.url.rpartition(":")[2])), timeout=60) as client:
            client.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n" + line + b"\r\n")
            assert client.recv(12) == b"HTTP/1.1 401"
    response = httpx.post(f"{keyed.url}/v1/audio/transcriptions", files={"file": recording()}, **TIMEOUT)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="qwen-asr"'
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Authorization: Bearer KEY" in error["message"]
    for path in ("/v1/models", "/metrics", "/v1/whatever"):
        assert httpx.get(keyed.url + path, **TIMEOUT).status_code == 401
    for path in ("/ws/asr", "/v1/realtime"):
        assert handshake_status(keyed, path) == 401
    assert keyed.service.admission.admitted == 0


def test_requests_with_a_valid_key_are_allowed(keyed: Served) -> None:
    for key in (KEY, OTHER_KEY):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{keyed.url}/v1/models", headers=headers, **TIMEOUT).is_success
        assert handshake_status(keyed, headers=headers) == 101


def test_probes_and_the_page_need_no_key(keyed: Served) -> None:
    for path in ("/healthz", "/readyz", "/"):
        assert httpx.get(keyed.url + path, **TIMEOUT).status_code == 200


def test_the_openai_package(keyed: Served) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0)

    with client(KEY) as right:
        text = right.audio.transcriptions.create(file=("a.wav", recording()), model="any").text
        assert text.strip() == "Turn on the kitchen light."
        assert len(list(right.models.list())) == 1
    with client("sk-wrong") as wrong, pytest.raises(openai.AuthenticationError) as refused:
        wrong.audio.transcriptions.create(file=("a.wav", recording() * 20), model="any")
    assert refused.value.code == "invalid_api_key"


@pytest.mark.slow
def test_a_key_in_the_query_is_for_websockets_only(keyed: Served, caplog: pytest.LogCaptureFixture) -> None:
    query = f"/ws/asr?api_key={KEY}"
    assert handshake_status(keyed, query) == 101  # Node, Deno, Bun and React Native send no Origin
    assert handshake_status(keyed, "/v1/realtime", subprotocols=["realtime", f"openai-insecure-api-key.{KEY}"]) == 101
    assert handshake_status(keyed, "/v1/realtime", headers={"Authorization": f"Token {KEY}"}) == 101
    assert handshake_status(keyed, "/v1/realtime", subprotocols=["token", KEY]) == 101
    assert handshake_status(keyed, "/v1/realtime", subprotocols=["token", "wrong"]) == 401
    assert handshake_status(keyed, query, origin=keyed.url) == 101
    assert handshake_status(keyed, "/ws/asr?api_key=wrong", origin=keyed.url) == 401
    assert handshake_status(keyed, query, origin=OTHER_SITE) == 403
    response = httpx.get(f"{keyed.url}/v1/models?api_key={KEY}", headers={"origin": keyed.url}, **TIMEOUT)
    assert response.status_code == 401
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("header", ["X-API-Key", "api-key"])
def test_a_key_in_a_header_of_its_own(keyed: Served, header: str) -> None:
    statuses = [
        httpx.get(f"{keyed.url}/v1/models", headers={header: key}, **TIMEOUT).status_code for key in (KEY, "wrong")
    ]
    assert statuses == [200, 401]
    assert handshake_status(keyed, headers={header: KEY}) == 101


# --- origins and host names


def guarded_routes(served: Served) -> list[tuple[str, str]]:
    """A method ("WEBSOCKET" for those) and a path for all routes that the guard protects."""
    found = []
    for route in served.app.routes:
        path = re.sub(r"\{[^}]*\}", "anything", getattr(route, "path", ""))
        rule = find_rule(path)
        if rule is not None and rule.access is Access.API:
            # Routes without a list of methods answer all of them.
            methods = {"WEBSOCKET"} if isinstance(route, WebSocketRoute) else route.methods or {"GET", "POST", "PUT"}
            found += [(method, path) for method in sorted(methods)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("origin", [OTHER_SITE, "null", "http://localhost:1", "http://localhost"])
@pytest.mark.parametrize("headers", [{}, RIGHT], ids=["without a key", "with a key"])
def test_every_guarded_route_refuses_pages_of_other_sites(keyed: Served, origin: str, headers: dict[str, str]) -> None:
    routes = guarded_routes(keyed)
    expected = {("POST", "/v1/audio/transcriptions"), ("GET", "/v1/models"), ("GET", "/metrics")}
    assert expected | {("WEBSOCKET", "/ws/asr"), ("WEBSOCKET", "/v1/realtime")} <= set(routes)
    for method, path in routes:
        if method == "WEBSOCKET":
            assert handshake_status(keyed, path, headers, origin=origin) == 403, path
            continue
        response = httpx.request(method, keyed.url + path, headers=headers | {"Origin": origin}, **TIMEOUT)
        assert response.status_code == 403, path
        if method != "HEAD":
            assert response.json()["error"]["code"] == "forbidden", path
    assert keyed.service.admission.admitted == 0


@pytest.mark.slow
def test_every_guarded_route_allows_the_servers_own_pages(keyed: Served) -> None:
    for method, path in guarded_routes(keyed):
        if method == "WEBSOCKET":
            query = "?encoding=mulaw" if path == "/v1/listen" else ""
            assert handshake_status(keyed, path + query, RIGHT, origin=keyed.url) == 101, path
        else:
            headers = RIGHT | {"Origin": keyed.url}
            response = httpx.request(method, keyed.url + path, headers=headers, **TIMEOUT)
            assert response.status_code not in (401, 403), path


def test_a_websocket_at_an_unknown_path_is_answered_with_404(keyed: Served) -> None:
    unknown = ["/ws/other", "/ws/", "/ws/asr/", "/v1/realtime/x", "/v1/models", "/v1/audio/transcriptions", "/metrics"]
    page = ["/", "/other", "/gradio_api/queue/join", "/gradio_api/heartbeat/x", "/assets/x.js", "/login", "/healthz"]
    for path in unknown + page:
        assert handshake_status(keyed, path, RIGHT) == 404, path
    # What the guard refuses keeps its own status.
    assert handshake_status(keyed, "/ws/other") == 401
    assert handshake_status(keyed, "/ws/other", RIGHT, origin=OTHER_SITE) == 403


def test_no_route_beside_the_guarded_ones_opens_a_session(keyed: Served) -> None:
    sockets = [route.path for route in keyed.app.routes if isinstance(route, WebSocketRoute)]
    assert sockets
    assert {rule.access for path in sockets if (rule := find_rule(path))} == {Access.API}


def test_other_host_names_are_refused(keyed: Served) -> None:
    other = {"Host": "evil.example"}
    for path in ("/", "/gradio_api/queue/data", "/config"):
        response = httpx.get(keyed.url + path, headers=other, **TIMEOUT)
        assert response.status_code == 421
        assert "--allowed-hosts" in response.text
    response = httpx.get(f"{keyed.url}/v1/models", headers=other | RIGHT, **TIMEOUT)
    assert (response.status_code, response.json()["error"]["code"]) == (421, "wrong_host")
    assert httpx.get(f"{keyed.url}/healthz", headers=other, **TIMEOUT).status_code == 200

    async def handshake_with_other_host() -> int:
        port = int(keyed.url.rpartition(":")[2])
        return await handshake("http://evil.example/ws/asr", host="127.0.0.1", port=port, additional_headers=RIGHT)

    assert asyncio.run(handshake_with_other_host()) == 421


# --- the page's login


def log_in(client: httpx.Client, password: str = PASSWORD) -> httpx.Response:
    form = {"username": USER, "password": password}
    return client.post("/login", data=form, headers={"Accept": "text/html,*/*"})


def test_the_login_of_the_page_is_valid_for_the_api_too(closed: Served) -> None:
    with httpx.Client(base_url=closed.url, **TIMEOUT) as client:
        body = {"data": {}, "fn_name": "exchange", "component_id": 1, "session_hash": "x"}
        assert client.post("/gradio_api/component_server/", json=body).status_code == 401
        assert client.get("/v1/models").status_code == 401
        assert "Log in" in client.get("/").text
        wrong = log_in(client, "wrong")
        assert (wrong.status_code, "is wrong" in wrong.text) == (401, True)
        right = log_in(client)
        assert (right.status_code, right.headers["location"]) == (303, "./")
        assert "gradio_config" in client.get("/").text
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models", headers={"Origin": OTHER_SITE}).status_code == 403
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        assert handshake_status(closed, headers={"Cookie": cookie}, origin=closed.url) == 101
        assert handshake_status(closed, headers={"Cookie": cookie.replace("=", "=x")}, origin=closed.url) == 401
        assert client.get("/logout").status_code == 405
        assert client.post("/logout", headers={"Origin": OTHER_SITE}).status_code == 403
        assert client.get("/v1/models").status_code == 200
        assert client.post("/logout").status_code == 303
        assert client.cookies == {}
        # Nobody who has copied the cookie is logged in either.
        assert httpx.get(f"{closed.url}/v1/models", headers={"Cookie": cookie}, **TIMEOUT).status_code == 401


def test_the_api_accepts_http_basic_and_keys(closed: Served) -> None:
    models = f"{closed.url}/v1/models"
    assert httpx.get(models, auth=(USER, PASSWORD), **TIMEOUT).status_code == 200
    assert httpx.get(models, headers=RIGHT, **TIMEOUT).status_code == 200
    for wrong in ((USER, "wrong"), (USER, ""), ("", PASSWORD), (KEY, "")):
        response = httpx.get(models, auth=wrong, **TIMEOUT)
        assert response.status_code == 401
        assert response.headers.get_list("www-authenticate") == ['Bearer realm="qwen-asr"', 'Basic realm="qwen-asr"']
    assert httpx.get(f"{closed.url}/healthz", **TIMEOUT).status_code == 200


# --- rates


def from_address(number: int) -> dict[str, str]:
    """Headers of another client: the servers of this module trust the tests as a proxy."""
    return {"X-Forwarded-For": f"192.0.2.{number}"}


def guarded_client(guard: AccessGuard, address: str) -> TestClient:
    """A client of an app behind `guard` that has one route, `/v1/models`."""
    app = Starlette(routes=[Route("/v1/models", lambda _: PlainTextResponse("models"))])
    return TestClient(guard.middleware(app), base_url="http://localhost", client=(address, 1))


@pytest.mark.slow
def test_wrong_keys_are_limited_for_each_address_until_the_window_moves(clock: Clock) -> None:
    guard = AccessGuard(Config(api_key=(KEY,)), Rates(None), GuardLimits(wrong_credentials="20/minute"))
    client = guarded_client(guard, "192.0.2.1")
    statuses = [
        client.get("/v1/models", headers={"Authorization": f"Bearer wrong-{number}"}).status_code
        for number in range(200)
    ]
    assert statuses == [401] * 20 + [429] * 180
    limited = client.get("/v1/models", headers=RIGHT)  # not even compared
    assert limited.status_code == 429
    assert 59 <= int(limited.headers["retry-after"]) <= 60
    assert limited.json()["error"]["type"] == "rate_limit_error"
    assert guarded_client(guard, "192.0.2.2").get("/v1/models", headers=RIGHT).status_code == 200
    clock.now += int(limited.headers["retry-after"])
    assert client.get("/v1/models", headers=RIGHT).status_code == 200


def test_clients_of_one_ipv6_network_share_the_limit_for_wrong_keys() -> None:
    guard = AccessGuard(Config(api_key=(KEY,)), Rates(None), GuardLimits(wrong_credentials="5/hour"))
    statuses = [
        guarded_client(guard, f"2001:db8::{number}").get("/v1/models", headers={"Authorization": "Bearer wrong"})
        for number in range(1, 7)
    ]
    assert [response.status_code for response in statuses] == [401] * 5 + [429]
    assert guarded_client(guard, "2001:db8:0:1::1").get("/v1/models", headers=RIGHT).status_code == 200


@pytest.mark.slow
def test_wrong_logins_and_wrong_keys_share_one_limit() -> None:
    # An hour instead of a minute, so that a slow machine stays within the window.
    limits = Limits(guard=GuardLimits(wrong_credentials="20/hour"))
    with (
        open_server(limits, auth=(f"{USER}:{PASSWORD}",)) as served,
        httpx.Client(base_url=served.url, **TIMEOUT) as client,
    ):
        for number in range(20):
            data = {"username": USER, "password": f"wrong-{number}"}
            assert client.post("/login", data=data, headers=from_address(3)).status_code == 401
        data = {"username": USER, "password": PASSWORD}
        limited = client.post("/login", data=data, headers=from_address(3))
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["retry-after"]) <= 3600
        assert client.get("/v1/models", auth=(USER, PASSWORD), headers=from_address(3)).status_code == 429
        assert client.post("/login", data=data, headers=from_address(4)).status_code == 200


@pytest.mark.slow
def test_requests_are_limited_for_each_address_and_each_key() -> None:
    with open_server(api_key=(KEY, OTHER_KEY), rate_limit="3/hour") as served:

        def request(key: str, address: int) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"} | from_address(address)
            return httpx.get(f"{served.url}/v1/models", headers=headers, **TIMEOUT)

        assert [request(KEY, 5).status_code for _ in range(2)] == [200, 200]
        assert handshake_status(served, headers=RIGHT | from_address(5)) == 101
        limited = request(OTHER_KEY, 5)  # the address is at its limit
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["retry-after"]) <= 3600
        assert limited.json()["error"]["code"] == "limit_exceeded"
        assert handshake_status(served, headers={"Authorization": f"Bearer {OTHER_KEY}"} | from_address(5)) == 429
        assert request(KEY, 6).status_code == 429  # and so is the key
        assert [request(OTHER_KEY, 6).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert httpx.get(f"{served.url}/metrics", headers=RIGHT | from_address(5), **TIMEOUT).status_code != 429
        assert httpx.get(f"{served.url}/", headers=from_address(5), **TIMEOUT).status_code == 200


# --- the log


def test_a_server_that_is_open_to_everybody_warns() -> None:
    assert access_warnings(Config()) == []
    assert access_warnings(Config(host="0.0.0.0", auth=("a:b",))) == []
    [everything] = access_warnings(Config(host="0.0.0.0"))
    assert "--auth and --api-key" in everything
    [link] = access_warnings(Config(share=True))
    assert "the public link" in link
    assert access_warnings(Config(share=True, auth=("a:b",))) == []
    for host in ("0.0.0.0", "127.0.0.1"):
        [page] = access_warnings(Config(host=host, api_key=("k",)))
        assert "the page is open" in page


@pytest.mark.slow
def test_the_log_of_a_server_has_no_secret(tmp_path: Path, repository: Path) -> None:
    environ = {"QWEN_ASR_API_KEY": f"{KEY} {OTHER_KEY}", "QWEN_ASR_AUTH": f"{USER}:battery-staple"}
    options = ["--asr-model-path", "demo", "--port", "0", "--host", "0.0.0.0", "--log-level", "debug"]
    options += ["--forwarded-allow-ips", "127.0.0.1"]
    server = ServerProcess(tmp_path, repository, *options, **environ)
    assert server.process.stderr is not None
    lines: list[str] = []
    # Read all the time: a full pipe would stop the server.
    reading = threading.Thread(target=lambda pipe=server.process.stderr: lines.extend(pipe))
    reading.start()
    try:
        url = server.line_with("http://localhost")
        server.line_with("Ready. Model: demo")
        with httpx.Client(base_url=url, **TIMEOUT) as client:
            statuses = set()
            for number in range(1000):
                wrong = {"Authorization": f"Bearer guess-{number}"}
                statuses.add(client.get(f"/v1/models?api_key=guess-{number}", headers=wrong).status_code)
            assert statuses == {401, 429}
            for address in (7, 8):  # other addresses, which are not at the limit for wrong keys
                known = RIGHT | from_address(address)
                assert client.get("/v1/models", headers=known).status_code == 200
                files = {"file": ("a.wav", b"no audio")}
                assert client.post("/v1/audio/transcriptions", files=files, headers=known).status_code == 400
                data = {"username": USER, "password": "battery-staple"}
                assert client.post("/login", data=data, headers=from_address(address)).status_code == 200
            tokens = [value for name, value in client.cookies.items() if name.startswith("qwen_asr_")]

        async def open_websockets() -> None:
            ws = url.rstrip("/") + f"/ws/asr?api_key={KEY}"
            assert await handshake(ws, origin=url.rstrip("/"), additional_headers=from_address(7)) == 101
            offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}x"]
            status = await handshake(ws.partition("?")[0], origin=url.rstrip("/"), subprotocols=offered)
            assert status in (401, 429)  # after more than a minute the limit for wrong keys is over

        asyncio.run(open_websockets())
    finally:
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        reading.join(60)
        for pipe in (server.process.stdout, server.process.stderr):
            if pipe is not None:
                pipe.close()
    log = "".join(lines)
    assert code == 0, log
    assert "was refused: InvalidApiKey" in log
    assert "was refused: LimitExceeded" in log
    assert len(tokens) >= 1
    secrets = [KEY, OTHER_KEY, "battery-staple", "guess-", *tokens]
    assert [secret for secret in secrets if secret in log] == []
    assert [text for text in access_warnings(Config(host="0.0.0.0")) if text in log] == []


def test_a_refused_upload_is_no_error_in_the_log(keyed: Served, caplog: pytest.LogCaptureFixture) -> None:
    body = form("x", recording() * 30)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for _ in range(3):
        response = httpx.post(
            f"{keyed.url}/v1/audio/transcriptions", content=io.BytesIO(body), headers=headers, **TIMEOUT
        )
        assert response.status_code == 401
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_refused_request_is_logged_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qwen_asr")
    guard = AccessGuard(Config(), Rates(None))
    response = guarded_client(guard, "192.0.2.1").get("/v1/models?secret", headers={"Origin": OTHER_SITE})
    assert response.status_code == Forbidden.http_status
    assert [record.getMessage() for record in caplog.records if record.name == "qwen_asr.web.access.guard"] == [
        "A request from 192.0.2.1 was refused: Forbidden"
    ]
