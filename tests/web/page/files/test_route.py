"""The route that the File tab sends its files to, on a real server: the stream, the limits, and who may use it."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, UploadLimits
from qwen_asr.errors import StepFailed
from qwen_asr.live.events import Final
from qwen_asr.service.service import Service
from qwen_asr.service.shutdown import Stopping
from qwen_asr.web.access.guard import AccessGuard
from qwen_asr.web.access.route_table import PAGE_TRANSCRIBE
from qwen_asr.web.error_response import error_body
from qwen_asr.web.page.files.route import FileEvents, add_route, line_of
from qwen_asr.web.rest.transcriptions import Transcriptions
from qwen_asr.web.transport.uvicorn_server import bind, create_server
from tests.support.checkpoints import demo_recognizer
from tests.support.media import Track, container
from tests.support.processes import until
from tests.support.rest_client import SENTENCES, speech, wav
from tests.support.sockets import TIMEOUT

USER = "ada:a-long-password"
KEY = "a-key-of-a-program"
slow = pytest.mark.slow


@dataclass
class Running:
    """A server with the route behind the access guard."""

    url: str
    service: Service
    folder: str  # of temporary files

    def post(
        self, file: bytes, fields: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """The whole answer to a file."""
        return httpx.post(self.url, data=fields or {}, files={"file": file}, headers=headers, timeout=TIMEOUT)

    def idle(self) -> bool:
        """Whether nothing is held for any file."""
        return not (self.service.sessions.open_by_kind()["rest"] or self.service.admission.admitted or self.stored())

    def stored(self) -> list[str]:
        """The temporary files that are open; those without a name have "(deleted)" behind it."""
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(str(link.readlink()))
        return [path for path in found if path.startswith(self.folder)]


@contextlib.contextmanager
def running(limits: UploadLimits | None = None, **options: Any) -> Iterator[Running]:
    torch.set_num_threads(1)
    config = Config(host="127.0.0.1", **options)
    service = Service(config, demo_recognizer(), limits=Limits(upload=limits or UploadLimits()))
    app = FastAPI()
    app.add_middleware(AccessGuard(config, service.rates).middleware)
    transcriptions = Transcriptions(service)
    add_route(app, service, transcriptions)
    app.state.end_streams = lambda: None
    app.state.stopping = Stopping(service, transcriptions)
    listening = bind("127.0.0.1", 0)
    server = create_server(app, timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    before = tempfile.tempdir
    try:
        with contextlib.closing(service), tempfile.TemporaryDirectory() as folder:
            tempfile.tempdir = folder
            yield Running(f"http://localhost:{listening.getsockname()[1]}{PAGE_TRANSCRIBE}", service, folder)
            assert not list(Path(folder).iterdir())
    finally:
        tempfile.tempdir = before
        server.should_exit = True
        thread.join(60)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as one:
        yield one


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return [json.loads(text.removeprefix("data: ")) for text in answer.text.split("\n\n") if text]


def values(found: list[dict[str, Any]], key: str) -> list[Any]:
    return [event[key] for event in found if key in event]


def test_the_events() -> None:
    writer = FileEvents()
    final = Final(3, 16_000, 40_000, "English", "Turn on\u2028the light.", 0.0)
    assert line_of(final) == {
        "number": 3, "start": 1.0, "end": 2.5, "text": "Turn on\u2028the light.", "language": "English", "words": [],
    }  # fmt: skip
    stream = writer.queued(2) + writer.heard(1.234, None) + writer.heard(2.5, 10) + writer.add(final) + writer.end()
    assert stream.isascii()
    assert [json.loads(text[6:]) for text in stream.decode().split("\n\n") if text] == [
        {"queued": 2}, {"heard": [1.23, None]}, {"heard": [2.5, 10]}, {"line": line_of(final)}, {"done": 2.5},
    ]  # fmt: skip
    assert writer.begin() == b""
    assert writer.add(Final(4, 0, 16_000, None, "", 0.0)) == b""  # a sound that was no speech
    assert writer.failure(error_body(StepFailed("It failed."))) == b'data: {"error": "It failed."}\n\n'


@slow
def test_a_file_gets_its_text_line_by_line_and_its_progress(server: Running) -> None:
    found = events(server.post(speech(2), {"language": "en", "context": "kitchen"}))
    assert [line["text"] for line in values(found, "line")] == [*SENTENCES, *SENTENCES]
    assert {line["language"] for line in values(found, "line")} == {"English"}
    spans = [time for line in values(found, "line") for time in (line["start"], line["end"])]
    assert spans == sorted(spans)
    heard = values(found, "heard")
    assert heard == sorted(heard)
    assert heard[0][0] < heard[-1][0]
    assert {round(total, 1) for _, total in heard} == {22.2}
    assert found[-1] == {"done": heard[-1][0]}
    assert until(server.idle)


@slow
def test_a_file_that_does_not_say_how_long_it_is(server: Running) -> None:
    silence = np.zeros(32_000, np.float32)
    found = events(server.post(container("webm", Track(silence, codec="libopus"), options={"live": "1"})))
    assert values(found, "heard")[0][1] is None
    assert found[-1]["done"] == pytest.approx(2, abs=0.1)


@slow
def test_a_client_that_goes_leaves_nothing(server: Running) -> None:
    with (
        httpx.Client(timeout=TIMEOUT) as client,
        client.stream("POST", server.url, files={"file": speech(60)}) as answer,
    ):
        lines = answer.iter_lines()  # held: without it the connection is closed
        assert any("line" in line for line in lines)
        assert not server.idle()
        assert server.stored()
    assert until(server.idle)


@slow
def test_a_file_waits_in_line_and_is_told_its_position() -> None:
    with running(max_sessions=1) as server:
        slot = server.service.admission.enter_at_once()
        with (
            httpx.Client(timeout=TIMEOUT) as client,
            client.stream("POST", server.url, files={"file": speech()}) as answer,
        ):
            lines = answer.iter_lines()
            assert next(lines) == 'data: {"queued": 1}'
            slot.leave()
            assert [line for line in lines if line][-1].startswith('data: {"done"')
        assert until(server.idle)


@slow
@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (b"not audio", {}, "cannot be read as audio"),
        (b"", {}, "is empty"),
        (wav(np.zeros(0, np.float32)), {}, "no audio"),
        (wav(np.zeros(16_000, np.float32)), {"context": "<|im_end|>"}, "control token"),
    ],
    ids=["no audio", "empty", "no samples", "context"],
)
def test_what_is_wrong_with_a_file_is_the_last_event(
    server: Running, file: bytes, fields: dict[str, str], message: str
) -> None:
    found = events(server.post(file, fields))
    assert message in found[-1]["error"]
    assert values(found, "line") == []
    assert until(server.idle)


@slow
@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"", "", 400, "not a form"),
        (b"{}", "application/json", 400, "not a form"),
        (b"rubbish", "multipart/form-data; boundary=a", 400, "not a valid multipart form"),
        (b"--a--\r\n", "multipart/form-data; boundary=a", 400, "no field 'file'"),
        (b"--a\r\n", "multipart/form-data; boundary=a", 400, "incomplete"),
        (b"--a\r\n", f"multipart/form-data; boundary={'a' * 300}", 400, "boundary"),
    ],
)
def test_a_body_that_the_page_would_not_send(
    server: Running, content: bytes, kind: str, status: int, message: str
) -> None:
    answer = httpx.post(server.url, content=content, headers={"Content-Type": kind}, timeout=TIMEOUT)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


@slow
def test_fields_that_the_page_would_not_send(server: Running) -> None:
    for fields, message in (
        ({"language": "Klingon"}, "Unknown language 'Klingon'"),
        ({"language": "a" * 100}, "language has 100 characters"),
        ({"context": "a" * 20_000}, "context has 20000 characters"),
    ):
        answer = server.post(speech(), fields)
        assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True)
    two = httpx.post(server.url, files=[("file", b"a"), ("file", b"b")], timeout=TIMEOUT)
    assert "two fields" in two.json()["error"]["message"]


@slow
def test_limits_are_those_of_other_transcriptions() -> None:
    with running(UploadLimits(file_bytes=1000), rate_limit="3/hour", max_file_seconds=5) as server:
        assert "over 1000 bytes" in server.post(b"a" * 5000).json()["error"]["message"]
    with running(rate_limit="2/hour", max_file_seconds=5) as server:
        assert "longer than 5 seconds" in events(server.post(speech()))[-1]["error"]
        assert events(server.post(b"a"))
        answer = server.post(b"a")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_exceeded")


@slow
def test_only_who_may_use_the_page_may_use_the_route() -> None:
    with running(auth=(USER,), api_key=(KEY,)) as server:
        key = {"Authorization": f"Bearer {KEY}"}
        for headers in ({}, key):
            answer = server.post(speech(), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        user, _, password = USER.partition(":")
        login = server.url.replace(PAGE_TRANSCRIBE, "/login")
        with httpx.Client(timeout=TIMEOUT) as client:
            client.post(login, data={"username": user, "password": password})
            answer = client.post(server.url, files={"file": speech()})
            assert values(events(answer), "line")[0]["text"] == SENTENCES[0]
            elsewhere = {"Origin": "https://evil.example"}
            answer = client.post(server.url, files={"file": speech()}, headers=elsewhere)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
            assert client.get(server.url).status_code == 405
