"""Who may come in, asked of a real server by real clients: the openai package, websockets, plain HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.access import guard as door_module
from qwen_asr.web.access.guard import AccessGuard, access_warnings
from tests.support.browser import Served, serving
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.processes import Started
from tests.support.rest_client import form, wav

pytestmark = [
    # Gradio's own, on its own threads: an option of pandas that is going away, loops that it leaves to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
KEY, OTHER_KEY, USER, PASSWORD = "a-right-key", "another-right-key", "ada", "correct horse"
RIGHT = {"Authorization": f"Bearer {KEY}"}
PATIENT: dict[str, Any] = {"timeout": 60}


@contextlib.contextmanager
def open_server(**options: Any) -> Iterator[Served]:
    torch.set_num_threads(1)
    config = Config(host="127.0.0.1", forwarded_allow_ips=("127.0.0.1",), **options)
    with serving(Service(config, demo_recognizer()), None) as served:
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


def sound() -> bytes:
    return wav(spoken("Turn on the kitchen light."))


async def handshake(url: str, **options: Any) -> int:
    """The status that a WebSocket handshake is answered with: 101 where it comes in."""
    try:
        async with connect(f"{url.replace('http', 'ws')}", **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def knocks(served: Served, path: str = "/ws/asr", headers: dict[str, str] | None = None, **options: Any) -> int:
    return asyncio.run(handshake(served.url + path, additional_headers=headers or {}, **options))


# --- keys


def test_without_a_key_nothing_is_done(keyed: Served) -> None:
    # The answer comes although not one byte of the upload is sent: nobody waits for it.
    for line in (b"", b"Authorization: Bearer\r\n", b"Authorization: Bearer wrong\r\n"):
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n"
        with socket.create_connection(("127.0.0.1", int(keyed.url.rpartition(":")[2])), timeout=60) as client:
            client.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n" + line + b"\r\n")
            assert client.recv(12) == b"HTTP/1.1 401"
    answer = httpx.post(f"{keyed.url}/v1/audio/transcriptions", files={"file": sound()}, **PATIENT)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="qwen-asr"'
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Authorization: Bearer KEY" in error["message"]
    for path in ("/v1/models", "/metrics", "/v1/whatever"):
        assert httpx.get(keyed.url + path, **PATIENT).status_code == 401
    for path in ("/ws/asr", "/v1/realtime"):
        assert knocks(keyed, path) == 401
    assert keyed.service.admission.inside == 0


def test_with_a_key(keyed: Served) -> None:
    for key in (KEY, OTHER_KEY):
        assert httpx.get(f"{keyed.url}/v1/models", headers={"Authorization": f"Bearer {key}"}, **PATIENT).is_success
        assert knocks(keyed, headers={"Authorization": f"Bearer {key}"}) == 101
    for path in ("/healthz", "/readyz", "/"):
        assert httpx.get(keyed.url + path, **PATIENT).status_code == 200


def test_the_openai_package(keyed: Served) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0)

    with client(KEY) as right:
        said = right.audio.transcriptions.create(file=("a.wav", sound()), model="any").text
        assert said.strip() == "Turn on the kitchen light."
        assert len(list(right.models.list())) == 1
    with client("sk-wrong") as wrong, pytest.raises(openai.AuthenticationError) as refused:
        wrong.audio.transcriptions.create(file=("a.wav", sound() * 20), model="any")
    assert refused.value.code == "invalid_api_key"


def test_a_key_in_the_query_is_for_browsers_sockets_alone(keyed: Served, caplog: pytest.LogCaptureFixture) -> None:
    query = f"/ws/asr?api_key={KEY}"
    assert knocks(keyed, query) == 401
    assert knocks(keyed, query, origin=keyed.url) == 101
    assert knocks(keyed, "/ws/asr?api_key=wrong", origin=keyed.url) == 401
    assert knocks(keyed, query, origin="https://evil.example") == 403
    asked = httpx.get(f"{keyed.url}/v1/models?api_key={KEY}", headers={"origin": keyed.url}, **PATIENT)
    assert asked.status_code == 401
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_pages_of_others_are_refused_with_and_without_a_key(keyed: Served) -> None:
    evil = {"Origin": "https://evil.example"}
    for headers in (evil, evil | RIGHT):
        answer = httpx.get(f"{keyed.url}/v1/models", headers=headers, **PATIENT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert knocks(keyed, headers=headers) == 403
    assert httpx.get(f"{keyed.url}/v1/models", headers=RIGHT | {"Origin": keyed.url}, **PATIENT).is_success


def test_names_of_others_lead_nowhere(keyed: Served) -> None:
    evil = {"Host": "evil.example"}
    for path in ("/", "/gradio_api/startup-events", "/config"):
        answer = httpx.get(keyed.url + path, headers=evil, **PATIENT)
        assert answer.status_code == 421
        assert "--allowed-hosts" in answer.text
    answer = httpx.get(f"{keyed.url}/v1/models", headers=evil | RIGHT, **PATIENT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")
    assert httpx.get(f"{keyed.url}/healthz", headers=evil, **PATIENT).status_code == 200

    async def by_another_name() -> int:
        port = int(keyed.url.rpartition(":")[2])
        return await handshake("http://evil.example/ws/asr", host="127.0.0.1", port=port, additional_headers=RIGHT)

    assert asyncio.run(by_another_name()) == 421


# --- the page's login


def log_in(client: httpx.Client, password: str = PASSWORD) -> httpx.Response:
    return client.post("/login", data={"username": USER, "password": password})


def test_the_page_asks_for_a_login_that_opens_the_rest_too(closed: Served) -> None:
    with httpx.Client(base_url=closed.url, **PATIENT) as client:
        assert client.get("/config").status_code == 401
        body = {"data": {}, "fn_name": "exchange", "component_id": 1, "session_hash": "x"}
        assert client.post("/gradio_api/component_server", json=body).status_code == 401
        assert client.get("/v1/models").status_code == 401
        assert log_in(client, "wrong").status_code == 400
        assert log_in(client).status_code == 200
        # The cookie is marked as one for https as well as for http; only the latter comes back here.
        assert client.get("/config").status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        assert knocks(closed, headers={"Cookie": cookie}, origin=closed.url) == 101
        assert knocks(closed, headers={"Cookie": cookie.replace("=", "=x")}, origin=closed.url) == 401


def test_a_user_is_let_in_by_http_basic_and_a_program_by_its_key(closed: Served) -> None:
    models = f"{closed.url}/v1/models"
    assert httpx.get(models, auth=(USER, PASSWORD), **PATIENT).status_code == 200
    assert httpx.get(models, headers=RIGHT, **PATIENT).status_code == 200
    for wrong in ((USER, "wrong"), (USER, ""), ("", PASSWORD), (KEY, "")):
        answer = httpx.get(models, auth=wrong, **PATIENT)
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == ['Bearer realm="qwen-asr"', 'Basic realm="qwen-asr"']
    assert httpx.get(f"{closed.url}/healthz", **PATIENT).status_code == 200


# --- guesses, and rates


def from_address(number: int) -> dict[str, str]:
    """uvicorn takes this machine's word for where a request came from, as it would a proxy's."""
    return {"X-Forwarded-For": f"192.0.2.{number}"}


def test_guesses_are_limited_and_the_right_key_comes_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "WRONG_KEYS", "20/3second")
    monkeypatch.setattr(AccessGuard.__init__, "__defaults__", ("20/3second",))
    with open_server(api_key=(KEY,)) as served, httpx.Client(base_url=served.url, **PATIENT) as client:
        began, answers = time.monotonic(), []
        for number in range(1000):
            wrong = {"Authorization": f"Bearer wrong-{number}"} | from_address(1)
            answers.append(client.get("/v1/models", headers=wrong))
        taken = time.monotonic() - began
        compared = [answer for answer in answers if answer.status_code == 401]
        assert {answer.status_code for answer in answers[:20]} == {401}
        assert 20 <= len(compared) <= 20 * (taken / 3 + 1)
        limited = next(answer for answer in reversed(answers) if answer.status_code == 429)
        assert 1 <= int(limited.headers["retry-after"]) <= 3
        assert limited.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/v1/models", headers=RIGHT | from_address(2)).status_code == 200  # others are not bothered
        for _ in range(20):
            client.get("/v1/models", headers={"Authorization": "Bearer wrong"} | from_address(1))
        locked = client.get("/v1/models", headers=RIGHT | from_address(1))
        assert locked.status_code in (200, 429)  # a machine slower than the window would not be limited
        time.sleep(int(locked.headers.get("retry-after", 0)) + 0.1)
        assert client.get("/v1/models", headers=RIGHT | from_address(1)).status_code == 200


def test_guesses_at_the_pages_login_are_limited_with_those_at_the_keys() -> None:
    with open_server(auth=(f"{USER}:{PASSWORD}",)) as served, httpx.Client(base_url=served.url, **PATIENT) as client:
        for number in range(20):
            data = {"username": USER, "password": f"wrong-{number}"}
            assert client.post("/login", data=data, headers=from_address(3)).status_code == 400
        data = {"username": USER, "password": PASSWORD}
        limited = client.post("/login", data=data, headers=from_address(3))
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert client.get("/v1/models", auth=(USER, PASSWORD), headers=from_address(3)).status_code == 429
        assert client.post("/login", data=data, headers=from_address(4)).status_code == 200


def test_so_many_requests_of_an_address_and_of_a_key() -> None:
    with open_server(api_key=(KEY, OTHER_KEY), rate_limit="3/hour") as served:

        def asks(key: str, address: int) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"} | from_address(address)
            return httpx.get(f"{served.url}/v1/models", headers=headers, **PATIENT)

        assert [asks(KEY, 5).status_code for _ in range(2)] == [200, 200]
        assert knocks(served, headers=RIGHT | from_address(5)) == 101
        limited = asks(OTHER_KEY, 5)  # the address has no more
        assert limited.status_code == 429
        assert 3500 < int(limited.headers["retry-after"]) <= 3600
        assert limited.json()["error"]["code"] == "limit_exceeded"
        assert knocks(served, headers={"Authorization": f"Bearer {OTHER_KEY}"} | from_address(5)) == 429
        assert asks(KEY, 6).status_code == 429  # nor has the key
        assert [asks(OTHER_KEY, 6).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert httpx.get(f"{served.url}/metrics", headers=RIGHT | from_address(5), **PATIENT).status_code != 429
        assert httpx.get(f"{served.url}/", headers=from_address(5), **PATIENT).status_code == 200


# --- what the log says


def test_who_listens_to_others_without_a_door_is_told() -> None:
    assert access_warnings(Config()) == []
    assert access_warnings(Config(host="0.0.0.0", auth=("a:b",))) == []
    [everybody] = access_warnings(Config(host="0.0.0.0"))
    assert "--auth and --api-key" in everybody
    [page] = access_warnings(Config(host="0.0.0.0", api_key=("k",)))
    assert "the page is open" in page


def test_the_log_of_a_server_holds_no_secret(tmp_path: Path, repository: Path) -> None:
    environ = {"QWEN_ASR_API_KEY": f"{KEY} {OTHER_KEY}", "QWEN_ASR_AUTH": f"{USER}:battery-staple"}
    options = ["--asr-model-path", "demo", "--port", "0", "--host", "0.0.0.0", "--log-level", "debug"]
    options += ["--forwarded-allow-ips", "127.0.0.1"]
    started = Started(tmp_path, repository, *options, **environ)
    assert started.process.stderr is not None
    lines: list[str] = []
    # Read all along: a full pipe would stop the server.
    reading = threading.Thread(target=lambda pipe=started.process.stderr: lines.extend(pipe))
    reading.start()
    try:
        url = started.line_with("http://localhost")
        started.line_with("Ready. Checkpoint: demo")
        with httpx.Client(base_url=url, **PATIENT) as client:
            statuses = set()
            for number in range(1000):
                wrong = {"Authorization": f"Bearer guess-{number}"}
                statuses.add(client.get(f"/v1/models?api_key=guess-{number}", headers=wrong).status_code)
            assert statuses == {401, 429}
            for address in (7, 8):  # from others, so that the right ones are looked at
                known = RIGHT | from_address(address)
                assert client.get("/v1/models", headers=known).status_code == 200
                files = {"file": ("a.wav", b"no audio")}
                assert client.post("/v1/audio/transcriptions", files=files, headers=known).status_code == 415
                data = {"username": USER, "password": "battery-staple"}
                assert client.post("/login", data=data, headers=from_address(address)).status_code == 200
            tokens = [value for name, value in client.cookies.items() if name.startswith("access-token")]

        async def sockets() -> None:
            ws = url.rstrip("/") + f"/ws/asr?api_key={KEY}"
            assert await handshake(ws, origin=url.rstrip("/"), additional_headers=from_address(7)) == 101
            offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}x"]
            asked = handshake(ws.partition("?")[0], origin=url.rstrip("/"), subprotocols=offered)
            assert await asked == 429

        asyncio.run(sockets())
    finally:
        started.process.send_signal(signal.SIGTERM)
        code = started.process.wait(60)
        reading.join(60)
        for pipe in (started.process.stdout, started.process.stderr):
            if pipe is not None:
                pipe.close()
    said = "".join(lines)
    assert code == 0, said
    assert "was refused: InvalidApiKey" in said
    assert "was refused: LimitExceeded" in said
    assert len(tokens) >= 1
    secrets = [KEY, OTHER_KEY, "battery-staple", "guess-", *tokens]
    assert [secret for secret in secrets if secret in said] == []
    assert said.count("Whoever reaches") == 0


def test_nothing_of_a_refused_upload_is_an_error(keyed: Served, caplog: pytest.LogCaptureFixture) -> None:
    body = form("x", sound() * 30)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for _ in range(3):
        answer = httpx.post(
            f"{keyed.url}/v1/audio/transcriptions", content=io.BytesIO(body), headers=headers, **PATIENT
        )
        assert answer.status_code == 401
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
