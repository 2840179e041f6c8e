"""The page as a person, a screen reader and a phone meet it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Playwright, expect

from qwen_asr.errors import CheckpointNotFound
from qwen_asr.live.events import Event, Final, Partial
from qwen_asr.web.service import Service
from tests.browser import MARKS, Served, Tab, serving, small_config, start_chromium, talking
from tests.checkpoints import random_recognizer

pytestmark = MARKS

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def say(served: Served) -> Callable[[list[Event]], None]:
    """What tells events to the one recording that is open."""
    return talking(served)._tell


def test_text_is_text_and_only_what_changed_is_touched(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        tell = say(served)
        evil = "<img src=x onerror='document.body.dataset.hit=1'> ${1+1} {{value}}"
        tell([Final(100, 0, 16_000, "English", evil, 0.0)])
        tell([Partial(101, 16_000, 32_000, "English", "Turn on the light", 7, 0.0)])
        line = tab.page.locator("#transcript .utterance", has_text="Turn on")
        expect(line.locator(".settled")).to_have_text("Turn on")
        expect(line.locator(".tentative")).to_have_text(" the light")
        assert evil in tab.texts(".settled")
        assert tab.page.locator("body").get_attribute("data-hit") is None
        # Not by colour alone.
        assert line.locator(".tentative").evaluate("e => getComputedStyle(e).fontStyle") == "italic"
        assert "dotted" in line.locator(".tentative").evaluate("e => getComputedStyle(e).textDecoration")
        # The element of the first utterance is still the same one when another changes.
        tab.page.evaluate("document.querySelector('.utterance').mark = 1")
        tell([Final(101, 16_000, 40_000, "English", "Turn on the lights.", 0.0)])
        expect(line.locator(".settled")).to_have_text("Turn on the lights.")
        assert tab.page.evaluate("document.querySelector('.utterance').mark") == 1
        tab.stop()
        tab.proof()
        tab.button("Clear").click()
        expect(tab.page.locator("#transcript .utterance")).to_have_count(0)
        assert tab.problems == []


def test_copy_gives_the_text(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab.record()
        say(served)([Final(100, 0, 16_000, "English", "One.", 0.0), Final(101, 0, 16_000, "English", "Two.", 0.0)])
        expect(tab.page.locator("#transcript .utterance", has_text="Two.")).to_be_visible()
        tab.stop()
        tab.proof()
        texts = tab.texts()
        tab.button("Copy").click()
        expect(tab.button("Copied")).to_be_visible()
        assert tab.page.evaluate("navigator.clipboard.readText()").splitlines() == texts


def test_language_and_context_reach_the_session(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        options = tab.page.get_by_label("Language")
        options.click()
        names = tab.page.get_by_role("option").all_inner_texts()
        assert names[0].endswith("Automatic")
        assert len(names) == 31
        tab.page.get_by_role("option", name="German", exact=True).click()
        tab.page.get_by_label("Context").fill("Grünau, Frau Özdemir")
        tab.page.get_by_label("Context").blur()
        tab.page.wait_for_function("document.querySelector('#microphone').wishes?.context")
        tab.record()
        wishes = talking(served).wishes
        assert (wishes.language, wishes.context) == ("German", "Grünau, Frau Özdemir")
        tab.stop()
        tab.proof()


def test_a_phone_has_one_big_button_and_nothing_sticks_out(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, **PHONE) as tab:
        tab.button("Record").wait_for()
        box = tab.button("Record").bounding_box()
        assert box is not None
        assert box["height"] >= 56
        assert box["width"] >= 250
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        tab.record()
        say(served)([Final(n, n * 16_000, n * 16_000, "English", f"Sentence {n}. " * 6, 0.0) for n in range(100, 130)])
        expect(tab.page.locator("#transcript .utterance", has_text="Sentence 129")).to_be_attached()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        stop = tab.button("Stop").bounding_box()
        assert stop is not None
        assert stop["y"] + stop["height"] <= 740  # still under the thumb, however long the text
        tab.stop()
        tab.proof()


def test_what_is_wrong_with_the_microphone_is_said(playwright: Playwright, served: Served) -> None:
    without = start_chromium(playwright, None)
    with Tab(without, served.url) as tab:
        tab.button("Record").click()
        tab.wait_status("No microphone was found")
        assert tab.button("Record").is_enabled()
    without.close()


def test_a_microphone_that_is_denied_or_unplugged(
    playwright: Playwright, chromium: Browser, served: Served, speech: dict[int, Path]
) -> None:
    asking = start_chromium(playwright, speech[48_000], asks=True)
    with Tab(asking, served.url, permissions=[]) as tab:
        tab.button("Record").click()
        tab.wait_status("does not let this page use the microphone")
    asking.close()
    keep_track = """const native = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => (window.stream = await native(wish));"""
    with Tab(chromium, served.url, keep_track) as tab:
        tab.record()
        time.sleep(1)
        # A script cannot pull a plug; the browser's own signal for it is this event.
        tab.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        tab.wait_status("unplugged")
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]


def test_an_insecure_address_says_where_to_go(playwright: Playwright) -> None:
    with serving(Service(small_config(), random_recognizer()), None) as served:
        # localhost is trusted by browsers, a name is not.
        url = served.url.replace("localhost", "page.test")
        browser = start_chromium(playwright, None, flags=["--host-resolver-rules=MAP page.test 127.0.0.1"])
        with Tab(browser, url) as tab:
            tab.wait_status("https://")
            assert tab.button("Record").is_disabled()
        browser.close()


def test_the_page_is_there_while_the_checkpoint_loads_and_says_why_it_fails(
    chromium: Browser, certificates: Path
) -> None:
    service = Service(small_config())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.wait_status("Loading")
        assert tab.button("Record").is_disabled()
        service._progress("Fetching a checkpoint")
        tab.wait_status("Fetching a checkpoint …")
        service._fail(CheckpointNotFound("There is no folder x. Give another."))
        tab.wait_status("There is no folder x. Give another.")
        assert tab.button("Record").is_disabled()


def test_the_simple_recorder_feeds_the_same_page(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.page.get_by_role("button", name="Trouble with the microphone").click()
        tab.page.locator("#stock-recorder").get_by_role("button", name="Record").click()
        tab.wait_status("Listening")
        speaker = talking(served)
        time.sleep(5)
        tab.page.locator("#stock-recorder").get_by_role("button", name="Stop").click()
        tab.wait_status("Ready")
        assert speaker.done
        assert speaker.received / 2 / speaker.wishes.rate > 3
        assert len(tab.texts()) > 0
