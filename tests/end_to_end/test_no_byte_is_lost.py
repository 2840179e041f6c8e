"""What the microphone gives is what the server gets, by SHA-256, whatever network and recognizer do."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from playwright.sync_api import Browser, Playwright, expect

from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Hypothesis, Utterance
from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Served, Tab, serving, small_config, start_chromium
from tests.support.checkpoints import random_recognizer
from tests.support.processes import until

pytestmark = MARKS

FORCE_RATE = """const Native = AudioContext;
window.AudioContext = class extends Native { constructor(options) { super({...options, sampleRate: %d}); } };"""


def check(tab: Tab, seconds: float, rate: int = 48_000) -> None:
    """Both sides have the same bytes, and about as many as the recording was long."""
    proof = tab.proof()
    assert proof["sha256"] == proof["serverSha256"]
    assert int(proof["rate"]) == rate
    assert int(proof["bytes"]) >= (seconds - 0.5) * rate * 2
    assert tab.problems == []
    assert tab.status() == "Ready"


def empty(served: Served) -> None:
    """Waits until the tabs of earlier tests are forgotten."""
    usual, served.recordings.leaving_seconds = served.recordings.leaving_seconds, 0.5
    assert until(lambda: len(served.recordings) == 0)
    served.recordings.leaving_seconds = usual


def test_plain(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(3)
        tab.stop()
        check(tab, 3)
        assert [url for url in tab.requests if not url.startswith((served.url, "blob:", "data:"))] == []


def test_44100_hertz(playwright: Playwright, served: Served, speech: dict[int, Path]) -> None:
    browser = start_chromium(playwright, speech[44_100])
    with Tab(browser, served.url, FORCE_RATE % 44_100) as tab:
        tab.record()
        time.sleep(2)
        tab.stop()
        check(tab, 2, 44_100)
    browser.close()


def test_offline_for_three_seconds(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(1)
        tab.offline(True)
        tab.wait_status("Reconnecting")
        assert tab.status() == "Reconnecting"
        expect(tab.page.locator("#advice")).to_have_text("Keep speaking: nothing is lost.")
        time.sleep(3)
        tab.offline(False)
        tab.wait_status("Listening")
        time.sleep(0.5)
        tab.stop()
        check(tab, 4.5)


def test_stop_while_offline(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(1)
        tab.offline(True)
        time.sleep(1)
        tab.stop()
        time.sleep(1)
        tab.wait_status("Reconnecting")
        tab.offline(False)
        check(tab, 2)


def test_three_tabs_at_once(chromium: Browser, served: Served) -> None:
    empty(served)
    tabs = [Tab(chromium, served.url) for _ in range(3)]
    for tab in tabs:
        tab.record()
    time.sleep(2)
    assert len(served.recordings) == 3
    for tab in tabs:
        tab.stop()
    for tab in tabs:
        check(tab, 2)
        tab.context.close()


def test_a_closed_tab_frees_its_session(chromium: Browser, served: Served) -> None:
    empty(served)
    tab = Tab(chromium, served.url)
    tab.record()
    assert until(lambda: len(served.recordings) == 1)
    tab.context.close()
    assert until(lambda: len(served.recordings) == 0)


def test_a_server_that_forgot_the_recording_is_given_it_again(chromium: Browser, served: Served) -> None:
    empty(served)
    with Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(2)
        for key in served.recordings.ids():
            served.recordings.remove(*key)
        time.sleep(1)
        tab.stop()
        check(tab, 1)  # what is hashed begins where the text was final


def test_jitter_and_lost_replies(chromium: Browser, certificates: Path) -> None:
    network = BadNetwork()
    with serving(Service(small_config(), random_recognizer()), certificates, network.around) as served:
        with Tab(chromium, served.url) as tab:
            tab.record()
            network.bad = True
            time.sleep(4)
            tab.stop()
            check(tab, 4)
        assert network.delayed > 3
        assert network.lost > 0


def test_a_server_that_stays_away_stops_the_recording_and_loses_nothing(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(), random_recognizer())
    with serving(service, certificates, backlog_seconds=2) as served, Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(1)
        tab.offline(True)
        expect(tab.button("Record")).to_be_disabled()  # it has stopped by itself
        tab.wait_status("Reconnecting")
        tab.offline(False)
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert 2.5 < int(proof["bytes"]) / 96_000 < 6
        assert "Recording was stopped" in tab.status()
        assert tab.button("Record").is_enabled()


def test_a_recognizer_slower_than_speech(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(), random_recognizer())
    service._scheduler = slow = SlowScheduler(random_recognizer(), times_real_time=1.5)
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        time.sleep(4)
        tab.stop()
        check(tab, 4)
    assert slow.slept > 2


class BadNetwork:
    """ASGI middleware: each way of a block of audio takes up to 0.6 s, and every fourth reply never arrives."""

    def __init__(self) -> None:
        self.bad = False
        self.delayed = 0
        self.lost = 0

    def around(self, app: Any) -> Any:
        """The middleware over `app`."""

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if not self.bad or "component_server" not in scope.get("path", ""):
                await app(scope, receive, send)
                return
            self.delayed += 1
            lost = self.delayed % 4 == 0
            self.lost += lost
            await asyncio.sleep(random.uniform(0, 0.6))
            await app(scope, receive, self._sender(send, lost))

        return wrapped

    @staticmethod
    def _sender(send: Callable[..., Any], lost: bool) -> Callable[..., Any]:
        async def late(message: Any) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(random.uniform(0, 0.6))
                if lost:  # the server has taken the block, but the page is told that it failed
                    message = {**message, "status": 502}
            await send(message)

        return late


class SlowScheduler(Scheduler):
    """The real one, each step preceded by a sleep in proportion to the speech that is new in it."""

    def __init__(self, recognizer: Any, times_real_time: float) -> None:
        super().__init__(recognizer)
        self.slept = 0.0
        self._factor = times_real_time
        self._covered: WeakKeyDictionary[Utterance, int] = WeakKeyDictionary()
        self._one_at_a_time = ThreadPoolExecutor(1)

    def submit(self, utterance: Utterance) -> Future[Hypothesis]:
        """As the real one's; slowly."""
        return self._one_at_a_time.submit(self._slowly, utterance)

    def close(self) -> None:
        """Waits for what is under way."""
        self._one_at_a_time.shutdown()
        super().close()

    def _slowly(self, utterance: Utterance) -> Hypothesis:
        fresh = utterance.length - self._covered.get(utterance, 0)
        self._covered[utterance] = utterance.length
        time.sleep(fresh / 16_000 * self._factor)
        self.slept += fresh / 16_000 * self._factor
        return super().submit(utterance).result()
