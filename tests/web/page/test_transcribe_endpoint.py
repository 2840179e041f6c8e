"""The endpoint for Gradio's clients, called with gradio_client, and with what such a client would not send."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from gradio_client import Client, handle_file  # type: ignore[import-untyped]  # it says that it has no types
from gradio_client.exceptions import AppError, AuthenticationError  # type: ignore[import-untyped]  # as above

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, UploadLimits
from qwen_asr.service.service import Service
from qwen_asr.service.shutdown import Stopping
from qwen_asr.web.access.forwarded import ForwardedHeaders
from qwen_asr.web.access.guard import AccessGuard
from qwen_asr.web.page.gradio_import import import_gradio
from qwen_asr.web.page.transcribe_endpoint import TranscribeEndpoint, describe
from qwen_asr.web.rest.transcriptions import Transcriptions
from qwen_asr.web.transport.uvicorn_server import bind, create_server
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.processes import until
from tests.support.rest_client import open_in, wav

pytestmark = [
    pytest.mark.slow,
    # Raised by gradio_client, whose threads leave their event loops and connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SENTENCE = "Turn on the kitchen light."
KEY = "a-key-of-a-program"
PREFIX = "/gradio_client"


class Running:
    """A server with the endpoint behind the access guard."""

    def __init__(self, url: str, service: Service, endpoint: TranscribeEndpoint) -> None:
        self.url, self.service, self.endpoint = url, service, endpoint

    def client(self, path: str = "/", **options: Any) -> Client:
        """A gradio_client."""
        return Client(self.url + path, verbose=False, analytics_enabled=False, **options)

    def idle(self) -> bool:
        """Whether no call holds anything."""
        return not self.endpoint.waiting and not self.service.sessions.open_by_kind()["rest"]


@contextlib.contextmanager
def running(limits: UploadLimits | None = None, **options: Any) -> Iterator[Running]:
    torch.set_num_threads(1)
    import_gradio()  # as the app has, long before a client asks
    config = Config(host="127.0.0.1", **options)
    service = Service(config, demo_recognizer(), limits=Limits(upload=limits or UploadLimits()))
    app = FastAPI()
    app.add_middleware(AccessGuard(config, service.rates).middleware)
    app.add_middleware(ForwardedHeaders, trusted=config.trusted_proxies, root_path=config.root_path or "")
    transcriptions = Transcriptions(service)
    endpoint = TranscribeEndpoint(transcriptions, service.limits.upload, describe)
    endpoint.add_to(app)
    app.state.end_streams = lambda: None
    app.state.stopping = Stopping(service, transcriptions)
    listening = bind("127.0.0.1", 0)
    server = create_server(app, timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with contextlib.closing(service):
            yield Running(f"http://localhost:{listening.getsockname()[1]}", service, endpoint)
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def open_server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(wav(spoken(SENTENCE)))
    return path


def test_the_only_endpoint(open_server: Running, recording: Path) -> None:
    client = open_server.client()
    described = client.view_api(print_info=False, return_format="dict")
    assert isinstance(described, dict)
    assert (list(described["named_endpoints"]), described["unnamed_endpoints"]) == (["/transcribe"], {})
    [name] = described["named_endpoints"]
    parameters = described["named_endpoints"][name]["parameters"]
    assert [one["parameter_name"] for one in parameters] == ["file", "language", "context", "model"]
    file = handle_file(str(recording))
    assert client.predict(file, "English", "", api_name="/transcribe") == SENTENCE
    assert client.predict(file) == SENTENCE
    jobs = [client.submit(file, "en", "kitchen", api_name="/transcribe") for _ in range(3)]
    assert [job.result(60) for job in jobs] == [SENTENCE] * 3
    assert until(open_server.idle)
    client.close()


def test_a_wrong_call_gets_one_clear_sentence(open_server: Running, recording: Path, tmp_path: Path) -> None:
    client = open_server.client()
    file = handle_file(str(recording))
    with pytest.raises(Exception, match="Unknown language 'Klingon'"):
        client.predict(file, "Klingon", "")
    with pytest.raises(Exception, match="No address is fetched"):
        client.predict({"path": f"{open_server.url}/config", "meta": {"_type": "gradio.FileData"}}, "", "")
    with pytest.raises(Exception, match="control token"):
        client.predict(file, "", "<|im_end|>")
    (tmp_path / "a.wav").write_bytes(b"not audio")
    with pytest.raises(AppError, match="cannot be read as audio"):
        client.predict(handle_file(str(tmp_path / "a.wav")), "", "")
    assert until(open_server.idle)
    client.close()


def test_under_a_root_path(recording: Path) -> None:
    with running(root_path="/speech") as server:
        client = server.client("/speech/")
        assert client.predict(handle_file(str(recording)), "", "") == SENTENCE
        client.close()


def test_with_a_key_or_a_login(recording: Path) -> None:
    with running(api_key=(KEY,), auth=("ada:a-long-password",)) as server:
        with pytest.raises(AuthenticationError):
            server.client()
        ways: list[dict[str, Any]] = [
            {"headers": {"Authorization": f"Bearer {KEY}"}},
            {"auth": ("ada", "a-long-password")},
        ]
        for way in ways:
            client = server.client(**way)
            assert client.predict(handle_file(str(recording)), "", "") == SENTENCE
            client.close()
        path = upload(server, recording, Authorization=f"Bearer {KEY}")
        for method, route in (("GET", "/config"), ("GET", f"{PREFIX}/info"), ("POST", f"{PREFIX}/upload")):
            assert httpx.request(method, server.url + route).status_code == 401
        # A file belongs to whoever has uploaded it.
        other = {"Authorization": "Basic YWRhOmEtbG9uZy1wYXNzd29yZA=="}
        answer = httpx.post(f"{server.url}{PREFIX}/queue/join", json=call(path), headers=other)
        assert (answer.status_code, "was not uploaded" in answer.text) == (422, True)


def upload(server: Running, recording: Path, **headers: str) -> str:
    files = {"files": ("a.wav", recording.read_bytes())}
    answer = httpx.post(f"{server.url}{PREFIX}/upload", files=files, headers=headers, timeout=60)
    assert answer.status_code == 200
    [path] = answer.json()
    return str(path)


def call(path: str, **changes: Any) -> dict[str, Any]:
    return {"data": [{"path": path}, "", None], "fn_index": 0, "session_hash": "abc", **changes}


def test_a_file_is_used_once_and_only_by_a_call_that_is_right(open_server: Running, recording: Path) -> None:
    path = upload(open_server, recording)
    join = f"{open_server.url}{PREFIX}/queue/join"
    for wrong in (
        call("/etc/passwd"),
        call(path, session_hash="a/b"),
        call(path, data=[{"path": path}, "x" * 10_000, ""]),
        call(path, data=[{"path": path}]),
        call(path, data=[None, "", ""]),
    ):
        answer = httpx.post(join, json=wrong)
        assert (answer.status_code, answer.json()["detail"][0]["__type__"]) == (422, "validate")
    assert httpx.post(join, content=b"[" * 100_000).status_code == 413
    assert httpx.post(join, content=b"[" * 1_000).status_code == 422
    event = httpx.post(join, json=call(path)).json()["event_id"]
    assert httpx.post(join, json=call(path)).status_code == 422
    data = f"{open_server.url}{PREFIX}/queue/data?session_hash=abc"
    assert httpx.head(data).status_code == 405
    told = httpx.get(data, timeout=60).text
    messages = [json.loads(block.removeprefix("data: ")) for block in told.split("\n\n")[:-1]]
    assert [message["msg"] for message in messages] == ["process_starts", "process_completed", "close_stream"]
    assert (messages[1]["event_id"], messages[1]["output"]) == (event, {"data": [SENTENCE]})
    unknown = upload(open_server, recording)
    assert httpx.post(join, json=call(unknown, data=[{"path": unknown}, "Klingon", ""])).status_code == 422
    again = httpx.get(data)
    assert (again.status_code, "no call" in again.text) == (422, True)
    assert until(open_server.idle)


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server's temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_what_no_call_or_stream_follows_is_deleted(recording: Path, uploads: Path) -> None:
    with running(UploadLimits(unclaimed_seconds=0.2)) as server:
        upload(server, recording)
        assert until(lambda: server.idle() and open_in(uploads) == 0)
        join = f"{server.url}{PREFIX}/queue/join"
        # On a busy machine the call may come too late; then it is made again.
        assert until(lambda: httpx.post(join, json=call(upload(server, recording))).status_code == 200)
        assert until(lambda: server.idle() and open_in(uploads) == 0)
        told = httpx.get(f"{server.url}{PREFIX}/queue/data", params={"session_hash": "abc"})
        assert told.status_code == 422


def test_a_client_that_leaves_ends_its_call(recording: Path, tmp_path: Path, uploads: Path) -> None:
    long = tmp_path / "long.wav"
    long.write_bytes(wav(spoken(SENTENCE).repeat(400)))
    with running() as server:
        path = upload(server, long)
        assert open_in(uploads) == 1
        httpx.post(f"{server.url}{PREFIX}/queue/join", json=call(path)).raise_for_status()
        data = f"{server.url}{PREFIX}/queue/data"
        with httpx.stream("GET", data, params={"session_hash": "abc"}, timeout=60) as stream:
            assert "process_starts" in next(stream.iter_text())
        assert until(lambda: server.idle() and open_in(uploads) == 0)


def test_the_limits_are_those_of_an_upload(recording: Path) -> None:
    size = len(recording.read_bytes())
    with running(UploadLimits(file_bytes=size - 1), max_sessions=1, max_queue=0) as server:
        files = {"files": ("a.wav", recording.read_bytes())}
        answer = httpx.post(f"{server.url}{PREFIX}/upload", files=files)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        small = {"files": ("a.wav", b"small")}
        assert httpx.post(f"{server.url}{PREFIX}/upload", files=small).status_code == 200
        busy = httpx.post(f"{server.url}{PREFIX}/upload", files=small)  # the first one counts as in progress
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "limit_exceeded")
        two = [("files", ("a.wav", b"a")), ("files", ("b.wav", b"b"))]
        assert httpx.post(f"{server.url}{PREFIX}/upload", files=two).status_code in (400, 429)
