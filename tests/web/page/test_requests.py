"""What the page sends to Gradio: checked, bounded, and bound to who sends it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from qwen_asr.config.limits import Limits, PageLimits
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.service import Service
from qwen_asr.web.access.identity import set_identity
from qwen_asr.web.page.downloads import download
from qwen_asr.web.page.requests import PageCalls, PageRequests, _outside_strings
from tests.support.browser import Served, page_config, serving, small_config
from tests.support.checkpoints import random_recognizer

LIMITS = PageLimits(message_bytes=2000, transcript_bytes=5000, upload_bytes=900, upload_form_bytes=100, brackets=100)
CALL, JOIN, UPLOAD = "/gradio_api/component_server/", "/gradio_api/queue/join", "/gradio_api/upload"
STREAM = "/gradio_api/stream/7de8e66b"


class Block:
    """A component with two server functions."""

    def __init__(self) -> None:
        def exchange() -> None: ...

        self.server_fns = [exchange, download]


class Function:
    """An event of the page."""

    def __init__(self, kind: str) -> None:
        self.targets = [(1, kind)]


class Queue:
    """As much of Gradio's queue as says which events have not ended. Here every event does at once."""

    def __init__(self) -> None:
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self.pending_messages_per_session = AnyTab()


class AnyTab:
    """Has every tab."""

    def __contains__(self, tab: str) -> bool:
        return True


class Page:
    """As much of a `gr.Blocks` as says what can be called."""

    def __init__(self) -> None:
        self.blocks = {7: Block(), 8: object()}
        self.fns = {0: Function("load"), 3: Function("stream"), 4: Function("unload")}
        self.upload_file_set = {"/tmp/gradio/5.wav", "other"}  # noqa: S108 - not a file
        self._queue = Queue()


async def echo(request: Request) -> Response:
    """Answers with what Gradio would see."""
    body = await request.body()
    assert int(request.headers.get("content-length", 0)) == len(body)
    if request.url.path == UPLOAD:
        return JSONResponse([f"/tmp/gradio/{len(body)}.wav"])  # noqa: S108 - not a file
    return JSONResponse(
        {"path": request.url.path, "query": dict(request.query_params), "body": json.loads(body) if body else None}
    )


def client(owner: str = "", app: Any = None) -> TestClient:
    """A client whose requests come from `owner`, as the guard would have found out."""
    requests = app or page_requests()

    async def identified(scope: Any, receive: Any, send: Any) -> None:
        set_identity(scope, owner)
        await requests(scope, receive, send)

    return TestClient(identified)


def page_requests(page: Page | None = None, /, **limits: int) -> PageRequests:
    anything = Route("/{path:path}", echo, methods=["GET", "POST", "HEAD"])
    shown = page or Page()
    return PageRequests(Starlette(routes=[anything]), lambda: shown, replace(LIMITS, **limits))


def call(**changes: Any) -> dict[str, Any]:
    return {"data": {"a": 1}, "fn_name": "exchange", "component_id": 7, "session_hash": "hash", **changes}


def event(**changes: Any) -> dict[str, Any]:
    return {"data": [None, "German", "words"], "fn_index": 3, "trigger_id": 9, "session_hash": "hash", **changes}


def test_what_the_page_calls() -> None:
    assert PageCalls.of(Page()) == PageCalls(frozenset({(7, "exchange"), (7, "download")}), frozenset({3}))


def test_messages_of_the_page_reach_gradio() -> None:
    known = client()
    seen = known.post(CALL, json=call(other="field")).json()["body"]
    assert seen == call(session_hash=seen["session_hash"])
    for path in (JOIN, STREAM):
        seen = known.post(path, json=event(event_data={"x": [[]]})).json()["body"]
        assert seen == event(session_hash=seen["session_hash"])
    assert known.post(STREAM + "/close").json()["body"] is None
    assert known.get("/").status_code == 200
    assert known.post("/v1/audio/transcriptions", content=b"").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        *(call(component_id=8), call(fn_name="other"), call(session_hash=[]), call(data=[]), call(data={"a": []})),
        *(call(data={"a": {}}), call(session_hash="a/b"), call(session_hash=""), call(session_hash="a" * 65), [], None),
        call(component_id=10**30),
    ],
)
def test_calls_that_the_page_does_not_make(message: Any) -> None:
    response = client().post(CALL, json=message)
    assert response.status_code == 400
    assert "reload the page" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "message",
    [
        *(
            event(fn_index=0),
            event(fn_index=4),
            event(fn_index=99),
            event(fn_index=None),
            event(data=[]),
            event(data={}),
        ),
        *(event(data=[None, "German"]), event(data=[None, 1, "x"]), event(data=[[], "", ""]), event(session_hash=None)),
        *(event(data=[{"path": "/etc/passwd"}, "", ""]), event(data=[{"url": "http://x"}, "", ""])),
        *(event(data=["/etc/passwd", "", ""]), event(data=[None, "x" * 65, ""])),
    ],
)
def test_events_that_the_page_does_not_send(message: Any) -> None:
    for path in (JOIN, STREAM):
        response = client().post(path, json=message)
        assert response.status_code == 400
        assert "passwd" not in response.text  # no echo


def test_bodies_are_bounded() -> None:
    known = client()
    for path, largest in ((CALL, 2000), (JOIN, 2000), (UPLOAD, 1000)):
        body = json.dumps(call() if path == CALL else event()).encode()
        fits = known.post(path, content=body.ljust(largest))
        assert fits.status_code == 200
        announced = known.post(path, content=body.ljust(largest + 1))
        streamed = known.post(path, content=iter([body.ljust(largest), b" "]))
        assert announced.status_code == streamed.status_code == 413
        assert f"at most {largest} bytes" in announced.json()["error"]["message"]


def test_a_transcript_that_is_saved_may_be_longer_than_another_message() -> None:
    known = client()
    body = json.dumps(call(fn_name="download")).encode()
    assert known.post(CALL, content=body.ljust(5000)).status_code == 200
    for name, largest in (("download", 5000), ("exchange", 2000)):
        refused = known.post(CALL, content=json.dumps(call(fn_name=name)).encode().ljust(largest + 1))
        assert (refused.status_code, f"at most {largest} bytes" in refused.text) == (413, True)
    # The brackets in its JSON are in a string.
    saved = call(fn_name="download", data={"lines": '[["a\\"b[", 0, 1]]' * 60})
    assert known.post(CALL, json=saved).json()["body"]["data"] == saved["data"]


def test_brackets_are_counted_before_they_are_parsed() -> None:
    for count, status in ((99, 400), (100, 413)):  # two more are around them
        assert client().post(JOIN, json=event(data=[[]] * (count - 1))).status_code == status
    for end in ('"', "", '\\"'):
        assert client().post(CALL, content=b'{"a": "' + b"[" * 200 + end.encode() + b"[" * 99).status_code in (400, 413)
    assert client().post(CALL, content=b'{"a": "[' + b'\\"' + b"[" * 200 + b'"' + b"[" * 101).status_code == 413
    assert client().post(CALL, content=b'{"session_hash":' + b"[],[]," * 300).status_code == 413
    assert client().post(CALL, content=b"[" * 90).status_code == 400


TEXTS = st.text(alphabet='[{"\\\n/aé')
VALUES = st.recursive(TEXTS | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=12)


@given(VALUES)
def test_brackets_in_strings_do_not_count(value: Any) -> None:
    def brackets(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, dict | list) + sum(map(brackets, inner))

    outside = _outside_strings(json.dumps(value).encode())
    assert outside.count(b"[") + outside.count(b"{") == brackets(value)


def test_a_session_hash_belongs_to_who_sends_it() -> None:
    app = page_requests()

    def hashes(owner: str, session_hash: str = "hash") -> set[str]:
        known = client(owner, app)
        return {
            known.post(CALL, json=call(session_hash=session_hash)).json()["body"]["session_hash"],
            known.post(JOIN, json=event(session_hash=session_hash)).json()["body"]["session_hash"],
            known.get("/gradio_api/queue/data", params={"session_hash": session_hash}).json()["query"]["session_hash"],
        }

    [ada], [bob], [nobody], [other] = hashes("user ada"), hashes("user bob"), hashes(""), hashes("user ada", "other")
    assert len({ada, bob, nobody, other, "hash"}) == 5
    assert {ada} == hashes("user ada")


def test_a_file_belongs_to_who_uploads_it() -> None:
    app = page_requests()
    [signed] = client("user ada", app).post(UPLOAD, content=b"audio").json()
    file = event(data=[{"path": signed, "url": "http://evil.example", "meta": {"_type": "other"}}, "", ""])
    seen = client("user ada", app).post(JOIN, json=file).json()["body"]["data"][0]
    assert seen == {"path": "/tmp/gradio/5.wav", "meta": {"_type": "gradio.FileData"}}  # noqa: S108 - not a file
    assert client("user bob", app).post(JOIN, json=file).status_code == 400
    assert client("user ada").post(JOIN, json=file).status_code == 400  # after a restart


@pytest.mark.parametrize("limits", [{"bodies_bytes": 1500}, {"bodies_bytes_per_address": 1500}])
def test_unfinished_bodies_share_the_memory(limits: dict[str, int]) -> None:
    app = page_requests(**limits)
    body = json.dumps(event()).encode()
    known = client(app=app)
    assert known.post(JOIN, content=body.ljust(1500)).status_code == 200  # what is given back counts no longer
    assert known.post(JOIN, content=body.ljust(1500)).status_code == 200
    refused = known.post(JOIN, content=body.ljust(1501))
    assert (refused.status_code, "unanswered requests" in refused.text) == (429, True)


def test_long_contexts() -> None:
    known = client(app=page_requests(message_bytes=20_000))
    for length, status in ((10_000, 200), (10_001, 400)):
        assert known.post(JOIN, json=event(data=[None, "x" * 64, "x" * length])).status_code == status


def test_uploads_on_disk_are_counted_until_they_are_swept() -> None:
    for limits in ({"stored_bytes": 100}, {"stored_bytes_per_address": 100}):
        with client(app=page_requests(**limits)) as known:  # one event loop for all requests
            assert [known.post(UPLOAD, content=bytes(50)).status_code for _ in range(3)] == [200, 200, 429]
    with client(app=page_requests(stored_bytes=100, abandoned_seconds=0)) as swept:
        assert [swept.post(UPLOAD, content=bytes(100)).status_code for _ in range(3)] == [200, 200, 200]


def test_a_form_has_one_file_and_leaves_nothing_behind() -> None:
    page = Page()
    known = client(app=page_requests(page))
    two = known.post(UPLOAD, files=[("files", ("a.wav", b"a")), ("files", ("b.wav", b"b"))])
    assert (two.status_code, "one file at a time" in two.text) == (400, True)
    assert known.post(UPLOAD + "?upload_id=x", content=b"audio").status_code == 200
    assert page.upload_file_set == {"other"}
    assert known.post(JOIN + "?a=b", json=event()).json()["query"] == {}


def test_events_that_nobody_asks_for_are_counted() -> None:
    page = Page()
    app = page_requests(page, events_per_tab=2, recorders_per_address=3)
    pending = page._queue.pending_event_ids_session

    def join(tab: str) -> int:
        answer = client(app=app).post(JOIN, json=event(session_hash=tab))
        if answer.status_code == 200:
            pending.setdefault(answer.json()["body"]["session_hash"], set()).add(
                str(len(pending)) + tab + str(time.time())
            )
        return answer.status_code

    assert [join("a") for _ in range(3)] == [200, 200, 429]
    assert [join(tab) for tab in ("b", "c", "d")] == [200, 200, 429]
    pending.clear()
    assert join("d") == 200


# --- the whole server


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    limits = Limits(page=PageLimits(body_seconds=0.5))
    with serving(Service(small_config(), random_recognizer(), limits=limits), None) as server:
        yield server


def exchange_message(served: Served, http: httpx.Client, recording: str, **changes: Any) -> dict[str, Any]:
    config = page_config(http.get(served.url).text)
    [component] = [one["id"] for one in config["components"] if "exchange" in one["props"].get("server_fns", [])]
    post = {"recording": recording, "rate": 16000, "offset": 0, "audio": "", "last": None, "revision": 0, "wait": 0}
    return {
        "data": post | changes,
        "fn_name": "exchange",
        "component_id": component,
        "session_hash": "hash",
    }


def test_two_browsers_with_one_session_hash_do_not_share_a_recording(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with httpx.Client(timeout=60) as one, httpx.Client(timeout=60) as other, httpx.Client(timeout=60) as none:
        message = exchange_message(served, one, "abc")
        exchange_message(served, other, "abc")
        assert one.cookies
        assert one.post(served.url + CALL, json=message).json()["received"] == 0
        assert len(served.recordings) == 1
        goes_on = message | {"data": message["data"] | {"offset": 2}}
        for stranger in (other, none):
            assert stranger.post(served.url + CALL, json=goes_on).json() == {"gone": True}
        # Nor does a stranger end it, who says that the tab goes away.
        [(tab, _)] = served.recordings.ids()
        closed: list[str] = []
        monkeypatch.setattr(served.recordings, "tab_closed", closed.append)
        for stranger in (other, none, one):
            assert stranger.post(served.url + CALL, json=message | {"data": None, "fn_name": "leave"}).json() is None
        assert [hash == tab for hash in closed] == [False, False, True]
        ended = message | {"data": message["data"] | {"last": 0}}
        assert one.post(served.url + CALL, json=ended).json()["done"]


def test_the_page_saves_its_transcript(served: Served) -> None:
    lines = json.dumps([{"start": 0, "end": 1, "text": "Turn on the light."}])
    with httpx.Client(timeout=60) as http:
        message = exchange_message(served, http, "abc") | {"fn_name": "download"}

        def save(lines: str) -> Any:
            return http.post(served.url + CALL, json=message | {"data": {"format": "vtt", "lines": lines}}).json()

        saved = {"text": "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nTurn on the light.\n\n"}
        assert save(lines) == save(lines.ljust(PageLimits.message_bytes + 1)) == saved
        assert "cannot be read" in save("[1]")["error"]


def test_a_recording_of_the_page_has_words(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[SessionOptions] = []
    original = Service.open_session

    def open_session(self: Service, options: SessionOptions, *arguments: Any, **more: Any) -> Any:
        opened.append(options)
        return original(self, options, *arguments, **more)

    monkeypatch.setattr(Service, "open_session", open_session)
    with httpx.Client(timeout=60) as http:
        message = exchange_message(served, http, "ab12", last=0)
        assert http.post(served.url + CALL, json=message).json()["done"]
    assert [options.words for options in opened] == [True]


def test_a_tab_without_an_event_gets_no_stream(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    answer = httpx.get(f"{served.url}/gradio_api/queue/data?session_hash=zz", timeout=60)
    assert answer.status_code == 404
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", None, "x"])
def test_a_wait_that_is_no_number(served: Served, wait: Any) -> None:
    with httpx.Client(timeout=60) as http:
        message = exchange_message(served, http, "def", wait=wait)
        assert "cannot be read" in http.post(served.url + CALL, json=message).json()["error"]


@pytest.mark.slow
def test_a_body_that_does_not_come_is_not_waited_for(served: Served) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"{"
        time.sleep(3)
        yield b"}"

    with httpx.Client(timeout=60) as http:
        response = http.post(served.url + CALL, content=pieces(), headers={"content-type": "application/json"})
    assert response.status_code == 408
    assert "has not arrived" in response.text
