"""The server gets exactly the bytes that the microphone gives, by SHA-256, on bad networks and slow recognizers."""

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

from qwen_asr.config.limits import Limits, PageLimits
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineUtterance
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Served, Tab, serving, small_config, start_chromium
from tests.support.checkpoints import random_recognizer
from tests.support.processes import until

pytestmark = MARKS

FORCE_RATE = """const Native = AudioContext;
window.AudioContext = class extends Native { constructor(options) { super({...options, sampleRate: %d}); } };"""


def check(tab: Tab, seconds: float, rate: int = 48_000) -> None:
    """Both sides have the same bytes, and at least those of `seconds`."""
    proof = tab.proof()
    assert proof["sha256"] == proof["serverSha256"]
    assert int(proof["rate"]) == rate
    assert int(proof["bytes"]) >= seconds * rate * 2
    assert tab.problems == []
    assert tab.status() == "Ready"


def remove_recordings(served: Served) -> None:
    """Removes what the tabs of earlier tests have left."""
    for tab, recording in served.recordings.ids():
        served.recordings.remove(tab, recording)


def test_plain(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(3)
        tab.stop()
        check(tab, 3)
        assert [url for url in tab.requests if not url.startswith((served.url, "blob:", "data:"))] == []


def test_44100_hertz(playwright: Playwright, served: Served, speech: dict[int, Path]) -> None:
    browser = start_chromium(playwright, speech[44_100])
    with Tab(browser, served.url, FORCE_RATE % 44_100) as tab:
        tab.record()
        tab.capture(2)
        tab.stop()
        check(tab, 2, 44_100)
    browser.close()


def test_offline_for_three_seconds(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(1)
        tab.offline(True)
        tab.wait_status("Reconnecting")
        assert tab.status() == "Reconnecting"
        expect(tab.page.locator("#advice")).to_have_text("Keep speaking: nothing is lost.")
        tab.capture(3)
        tab.offline(False)
        tab.wait_status("Listening")
        tab.capture(0.5)
        tab.stop()
        check(tab, 4.5)


def test_stop_while_offline(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(1)
        tab.offline(True)
        tab.capture(1)
        tab.stop()
        tab.wait_status("Reconnecting")
        tab.offline(False)
        check(tab, 2)


def test_three_tabs_at_once(chromium: Browser, served: Served) -> None:
    remove_recordings(served)
    tabs = [Tab(chromium, served.url) for _ in range(3)]
    for tab in tabs:
        tab.record()
    for tab in tabs:
        tab.capture(2)
    assert len(served.recordings) == 3
    for tab in tabs:
        tab.stop()
    for tab in tabs:
        check(tab, 2)
        tab.context.close()


def test_ten_tabs_of_one_browser(chromium: Browser, served: Served) -> None:
    """Over HTTP/1.1 they share six connections, so a tab must not hold one for as long as it is open."""
    remove_recordings(served)
    with Tab(chromium, served.url) as tab:
        tab.record()
        others = [Tab(chromium, served.url, beside=tab) for _ in range(9)]
        for other in others:
            other.wait_status("Ready")
        tab.capture(1)
        others[-1].record()
        others[-1].capture(1)
        for recording in (tab, others[-1]):
            recording.stop()
            check(recording, 1)


def test_a_tab_that_goes_away_frees_its_session(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(), random_recognizer(), limits=Limits(page=PageLimits(idle_seconds=3600)))
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        assert until(lambda: len(served.recordings) == 1)
        tab.page.on("dialog", lambda dialog: dialog.accept())  # whether to leave a page that records
        tab.page.goto("about:blank")
        assert until(lambda: len(served.recordings) == 0)


def test_a_server_that_lost_the_recording_gets_it_again(chromium: Browser, served: Served) -> None:
    remove_recordings(served)
    with Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(2)
        for key in served.recordings.ids():
            served.recordings.remove(*key)
        tab.capture(1)
        tab.stop()
        check(tab, 1)  # the hash begins where the text was final


def test_jitter_and_lost_replies(chromium: Browser, certificates: Path) -> None:
    network = BadNetwork()
    with serving(Service(small_config(), random_recognizer()), certificates, network.around) as served:
        with Tab(chromium, served.url) as tab:
            tab.record()
            network.bad = True
            assert until(lambda: network.lost > 1)
            tab.capture(1)
            tab.stop()
            check(tab, 1)
        assert network.delayed > 7


def test_a_server_that_stays_away_stops_the_recording_and_loses_nothing(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(), random_recognizer(), limits=Limits(page=PageLimits(backlog_seconds=2)))
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(1)
        tab.offline(True)
        expect(tab.button("Record")).to_be_disabled()  # it has stopped by itself
        tab.wait_status("Reconnecting")
        tab.offline(False)
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert int(proof["bytes"]) / 96_000 > 2
        assert "Recording was stopped" in tab.status()
        assert tab.button("Record").is_enabled()


def test_a_recognizer_slower_than_speech(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(), random_recognizer())
    assert isinstance(service.engine, WatchedEngine)
    service.engine.scheduler.close()
    service.engine.scheduler = slow = SlowScheduler(service.engine.recognizer, times_real_time=1.5)
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        tab.capture(4)
        tab.stop()
        check(tab, 4)
    assert slow.slept > 2


class BadNetwork:
    """ASGI middleware: a block and its reply each take up to 0.6 s, and every fourth reply is lost."""

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
                if lost:  # the server has taken the block, but the page sees a failure
                    message = {**message, "status": 502}
            await send(message)

        return late


class SlowScheduler(Scheduler):
    """A scheduler that sleeps before each step, in proportion to the new speech in it."""

    def __init__(self, recognizer: Any, times_real_time: float) -> None:
        super().__init__(recognizer)
        self.slept = 0.0
        self._factor = times_real_time
        self._covered: WeakKeyDictionary[EngineUtterance, int] = WeakKeyDictionary()
        self._one_at_a_time = ThreadPoolExecutor(1)

    def submit(
        self,
        utterance: EngineUtterance,
        on_start: Callable[[], None] | None = None,
        is_urgent: Callable[[], bool] = lambda: True,
    ) -> Future[Hypothesis]:
        """The hypothesis, after the sleep."""
        return self._one_at_a_time.submit(self._slowly, utterance, on_start)

    def close(self) -> None:
        """Waits for the steps that are running."""
        self._one_at_a_time.shutdown()
        super().close()

    def _slowly(self, utterance: EngineUtterance, on_start: Callable[[], None] | None) -> Hypothesis:
        if on_start is not None:
            on_start()
        fresh = utterance.length - self._covered.get(utterance, 0)
        self._covered[utterance] = utterance.length
        time.sleep(fresh / 16_000 * self._factor)
        self.slept += fresh / 16_000 * self._factor
        return super().submit(utterance).result()
