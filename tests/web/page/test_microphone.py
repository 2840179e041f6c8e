"""Messages of the page to its microphone's server functions, in-process but for the network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from qwen_asr.live.events import Event, Partial
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.service import Service
from qwen_asr.web.page.page import FallbackRecorder
from qwen_asr.web.page.recordings import Recording, RecordingRegistry
from tests.support.browser import Served, page_config, serving, small_config
from tests.support.checkpoints import random_recognizer

CALL = "/gradio_api/component_server/"
SOUND = base64.b64encode(b"\0\0" * 1600).decode()  # 0.1 s


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    config = small_config(max_session_seconds=600.0, default_language="French")
    with serving(Service(config, random_recognizer()), None) as server:
        yield server


class Page:
    """Sends messages of one recording as the page does: each continues where the last one ended."""

    def __init__(self, served: Served, http: httpx.Client, recording: str) -> None:
        self.served, self.http = served, http
        config = page_config(http.get(served.url).text)
        [component] = [one["id"] for one in config["components"] if "exchange" in one["props"].get("server_fns", [])]
        self.call = {"fn_name": "exchange", "component_id": component, "session_hash": recording}
        self.post = {"recording": recording, "rate": 16000, "audio": SOUND, "last": None, "revision": 0, "wait": 0}
        self.received = 0

    def send(self, **options: Any) -> dict[str, Any]:
        message = self.call | {"data": self.post | {"offset": self.received} | options}
        reply = dict(self.http.post(self.served.url + CALL, json=message).json())
        self.received = reply.get("received", self.received)
        return reply

    @property
    def recording(self) -> Recording:
        [found] = [key for key in self.served.recordings.ids() if key[1] == self.post["recording"]]
        recording = self.served.recordings.get(*found)
        assert recording is not None
        return recording


@pytest.fixture
def page(served: Served, request: pytest.FixtureRequest) -> Iterator[Page]:
    name = "".join(filter(str.isalnum, request.node.name))[:60]
    with httpx.Client(timeout=60) as http:
        page = Page(served, http, name)
        yield page
        page.send(last=page.received, audio="")


def test_options_that_change_are_used_from_the_next_utterance_on(page: Page) -> None:
    first = page.send(language="German", context="Ada", pause=None)
    assert (first["options_from"], first["refused"]) == (None, None)
    assert page.recording.options.endpoints.silence_seconds == 0.8
    second = page.send(language="Spanish", context="Grace", pause=1.5)
    assert (second["options_from"], second["refused"], second["received"]) == (0, None, 6400)
    used = page.recording.options
    assert (used.language, used.context, used.endpoints.silence_seconds) == ("Spanish", "Grace", 1.5)


def test_automatic_is_automatic_on_a_server_with_a_language_of_its_own(page: Page) -> None:
    page.send(language="auto")
    assert page.recording.options.language is None
    page.send(language=None)  # a page of an earlier server
    assert page.recording.options.language == "French"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"language": "Klingon"}, "Unknown language"),
        ({"context": "<|im_end|>"}, "<|im_end|>"),
        ({"pause": 60}, "must be from 0.1 to 10"),
        ({"pause": "nan"}, "must be from 0.1 to 10"),
    ],
)
def test_options_that_cannot_be_used_do_not_end_the_recording(page: Page, wrong: dict[str, Any], says: str) -> None:
    good = {"language": "German", "context": "Ada", "pause": 0.5}
    page.send(**good)
    before = page.recording.options
    reply = page.send(**good | wrong)
    assert says in reply["refused"]
    assert (reply["received"], reply["error"], reply["done"]) == (6400, None, False)
    assert page.recording.options == before
    assert page.send(**good)["refused"] is None
    assert page.received == 9600
    # At the start of a recording they are an error, and nothing is opened.
    other = Page(page.served, page.http, "other")
    assert says in other.send(**good | wrong)["error"]


@pytest.mark.parametrize("pause", ["x", [1], {}])
def test_a_pause_that_is_no_number(page: Page, pause: Any) -> None:
    page.send()
    reply = page.http.post(page.served.url + CALL, json=page.call | {"data": page.post | {"offset": 0, "pause": pause}})
    assert "cannot be read" in reply.text
    assert page.send(pause=1)["received"] == 6400


def test_the_reply_says_how_much_time_is_left(page: Page) -> None:
    first = page.send()["remaining"]
    assert 0 < first <= 600
    assert page.send()["remaining"] <= first


class Sink:
    """A sink that takes everything and makes no text."""

    lag, idle = 0.0, True
    unavailable: str | None = None

    def unavailable_reason(self) -> str | None:
        return self.unavailable

    def __init__(self) -> None:
        self.changes: list[SessionOptions] = []

    def feed(self, samples: NDArray[np.float32]) -> None: ...

    def change(self, options: SessionOptions) -> int:
        self.changes.append(options)
        return 7

    def finish(self) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None: ...


def test_time_and_speed_are_those_of_the_recordings_clock() -> None:
    now = [100.0]
    recording = Recording(16_000, SessionOptions(), lambda *_: Sink(), lambda: now[0], session_seconds=60)
    assert recording.view(0)["remaining"] == 60.0
    assert recording.view(0)["speed"] is None
    for step in range(6):
        now[0] = 110.0 + step
        recording.on_events([Partial(0, 0, 8000 * (step + 1), "English", "a", 0, 5.0)])
    assert recording.view(0)["speed"] == 0.5
    assert recording.view(0)["remaining"] == 45.0
    now[0] = 1000.0
    assert recording.view(0)["remaining"] == 0.0
    assert Recording(16_000, SessionOptions(), lambda *_: Sink()).view(0)["remaining"] is None


def test_the_reply_says_why_no_text_can_come_now() -> None:
    sink = Sink()
    recording = Recording(16_000, SessionOptions(), lambda *_: sink)
    assert recording.view(0)["unavailable"] is None
    sink.unavailable = "No engine can be reached."
    assert recording.view(0)["unavailable"] == "No engine can be reached."


def test_a_recording_that_has_ended_changes_nothing() -> None:
    sink = Sink()
    recording = Recording(16_000, SessionOptions(), lambda *_: sink)
    recording.finish(0)
    recording.change(SessionOptions(language="German"))
    assert sink.changes == []
    assert recording.options.language is None


@pytest.mark.slow
def test_the_simple_recorders_options_change_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    sinks: list[Sink] = []

    def start(options: SessionOptions, deliver: Callable[[list[Event]], None], address: str = "") -> Sink:
        sinks.append(Sink())
        return sinks[-1]

    registry = RecordingRegistry(start)
    recorder = FallbackRecorder(registry, served.service)
    monkeypatch.setattr(recorder, "_read", lambda _: (16_000, np.zeros(160, np.float32)))
    request: Any = type("Request", (), {"session_hash": "tab", "client": type("Client", (), {"host": "127.0.0.1"})})
    recorder.take("block.wav", "German", "", request)
    recorder.take("block.wav", "German", "", request)
    recorder.take("block.wav", "Automatic", "", request)
    recorder.take("block.wav", "Klingon", "", request)
    assert [options.language for options in sinks[0].changes] == [None]
    [recording] = registry.all()
    assert "Unknown language" in (recording.refused or "")
    registry.close()
