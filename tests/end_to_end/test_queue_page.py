"""The page while all places are taken: it records, says how many are before it, and loses nothing."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Tab, serving, small_config
from tests.support.checkpoints import random_recognizer

pytestmark = MARKS


def test_it_waits_its_turn_with_its_microphone_open(chromium: Browser, certificates: Path) -> None:
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
            other.wait_status("The only place of this server is taken, and 2 wait already")
            assert other.button("Record").get_attribute("aria-disabled") == "false"
        inside.leave()
        tab.wait_status("Waiting: you are next")
        tab.page.wait_for_timeout(1_500)  # of speech, which nobody but the page hears
        waiting.leave()
        tab.page.locator("#status", has_text="Listening").wait_for(timeout=5_000)  # before a post's 8 s are over
        assert service.sessions.open_by_kind()["page"] == 1
        tab.page.wait_for_timeout(500)
        tab.stop()
        proof = tab.proof()
        assert service.sessions.open_by_kind()["page"] == 0
        assert len(served.recordings) == 1  # it is kept for its text
        assert proof["sha256"] == proof["serverSha256"]
        assert int(proof["bytes"]) > 2 * 1.5 * int(proof["rate"])
        assert admission.inside == 0
        assert tab.problems == []


def test_a_recording_that_lasts_too_long_stops_and_says_so(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(max_session_seconds=4.0), random_recognizer())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        tab.wait_status("as long as this server allows")
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert int(proof["bytes"]) > 2 * 4 * int(proof["rate"]) * 0.8
        tab.record()  # and goes on, if one wants
        tab.stop()
        tab.wait_status("Ready")
        assert tab.problems == []
