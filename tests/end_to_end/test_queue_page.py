"""The page while the server is full: it records, shows its position in the queue, and loses nothing."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Tab, serving, small_config
from tests.support.checkpoints import random_recognizer

pytestmark = MARKS


def test_it_waits_in_the_queue_with_its_microphone_open(chromium: Browser, certificates: Path) -> None:
    config = small_config(max_sessions=1, max_queue=2)
    service = Service(config, random_recognizer())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        admission = service.admission
        inside, waiting = admission.enter_at_once(), admission.enter()
        tab.button("Record").click()
        tab.wait_status("Waiting: 1 before you")
        assert "kept here" in tab.page.locator("#advice").inner_text()
        with Tab(chromium, served.url) as other:
            other.button("Record").click()
            other.wait_status("The only session of this server is in use, and 2 clients wait in line")
            assert other.button("Record").get_attribute("aria-disabled") == "false"
        inside.leave()
        tab.wait_status("Waiting: you are next")
        tab.capture(1.5)  # kept in the page
        waiting.leave()
        tab.wait_status("Listening")
        assert service.sessions.open_by_kind()["page"] == 1
        tab.capture(0.5)
        tab.stop()
        proof = tab.proof()
        assert service.sessions.open_by_kind()["page"] == 0
        assert len(served.recordings) == 1  # kept for its text
        assert proof["sha256"] == proof["serverSha256"]
        assert int(proof["bytes"]) > 2 * 2 * int(proof["rate"])
        assert admission.admitted == 0
        assert tab.problems == []


def test_a_recording_that_reaches_the_time_limit_stops_with_a_message(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(max_session_seconds=4.0), random_recognizer())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        for _ in range(2):  # another one may follow
            tab.button("Record").click()
            tab.wait_status("as long as this server allows")
            proof = tab.proof()
            assert int(proof["bytes"]) > 0
            assert proof["sha256"] == proof["serverSha256"]
        assert tab.problems == []
