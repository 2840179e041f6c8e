"""The page in a browser, as users of a mouse, a keyboard, a screen reader and a phone meet it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Locator, Playwright, expect

from qwen_asr.errors import CheckpointNotFound
from qwen_asr.live.events import Event, Final, Partial
from qwen_asr.service.service import Service
from tests.support.browser import (
    MARKS,
    Served,
    Tab,
    serving,
    small_config,
    start_chromium,
    unfinished_recording,
    write_wav,
)
from tests.support.checkpoints import random_recognizer
from tests.support.processes import until

pytestmark = MARKS

LISTENING_RED = "rgb(217, 54, 62)"
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def deliver_to(served: Served) -> Callable[[list[Event]], None]:
    """The function that gives events to the one recording that is open."""
    return unfinished_recording(served).on_events


def test_text_is_text_and_only_what_changed_is_touched(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        deliver = deliver_to(served)
        evil = "<img src=x onerror='document.body.dataset.hit=1'> ${1+1} {{value}}"
        deliver([Final(100, 0, 16_000, "English", evil, 0.0)])
        deliver([Partial(101, 16_000, 32_000, "English", "Turn on the light", 7, 0.0)])
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
        deliver([Final(101, 16_000, 40_000, "English", "Turn on the lights.", 0.0)])
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
        deliver_to(served)(
            [Final(100, 0, 16_000, "English", "One.", 0.0), Final(101, 0, 16_000, "English", "Two.", 0.0)]
        )
        expect(tab.page.locator("#transcript .utterance", has_text="Two.")).to_be_visible()
        tab.stop()
        tab.proof()
        texts = tab.texts()
        tab.button("Copy").click()
        expect(tab.button("Copied")).to_be_visible()
        assert tab.page.evaluate("navigator.clipboard.readText()").splitlines() == texts


def test_language_and_context_reach_the_session(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        options = tab.page.get_by_label("Language", exact=True)
        options.click()
        names = tab.page.get_by_role("option").all_inner_texts()
        assert names[0].endswith("Automatic")
        assert len(names) == 31
        tab.page.get_by_role("option", name="German", exact=True).click()
        tab.page.get_by_label("Context").fill("Grünau, Frau Özdemir")
        tab.page.get_by_label("Context").blur()
        tab.page.wait_for_function("document.querySelector('#microphone').options?.context")
        tab.record()
        opened = unfinished_recording(served).options
        assert (opened.language, opened.context) == ("German", "Grünau, Frau Özdemir")
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
        deliver_to(served)(
            [Final(n, n * 16_000, n * 16_000, "English", f"Sentence {n}. " * 6, 0.0) for n in range(100, 130)]
        )
        expect(tab.page.locator("#transcript .utterance", has_text="Sentence 129")).to_be_attached()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        stop = tab.button("Stop").bounding_box()
        assert stop is not None
        assert stop["y"] + stop["height"] <= 740  # still on the screen, however long the text is
        tab.stop()
        tab.proof()


def test_a_phone_on_its_side_shows_text_while_it_listens(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, **{**PHONE, "viewport": {"width": 740, "height": 360}}) as tab:
        tab.record()
        deliver_to(served)(
            [Final(n, n * 16_000, n * 16_000, "English", f"Sentence {n}.", 0.0) for n in range(100, 130)]
        )
        newest = tab.page.locator("#transcript .utterance", has_text="Sentence 129").bounding_box()
        stop = tab.button("Stop").bounding_box()
        controls = tab.page.locator(".controls").bounding_box()
        assert newest
        assert stop
        assert controls
        assert newest["y"] >= 60
        assert newest["y"] + newest["height"] <= controls["y"]
        assert stop["y"] + stop["height"] <= 360
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 740
        tab.stop()
        tab.proof()


def test_the_keyboard_focus_stays_on_the_button_from_record_to_stop(chromium: Browser, served: Served) -> None:
    held = """const native = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => {
      window.opened = (window.opened || 0) + 1;
      await new Promise((resolve) => { window.letOpen = resolve; });
      return native(wish);
    };"""
    with Tab(chromium, served.url, held) as tab:
        tab.wait_status("Ready")
        button = tab.page.locator("#microphone .record")
        button.focus()
        tab.page.keyboard.press("Space")
        tab.wait_status("Waiting for the microphone")
        expect(button).to_be_disabled()
        tab.page.keyboard.press("Space")  # too early: it is opened once, and not stopped
        tab.page.evaluate("letOpen()")
        tab.wait_status("Listening")
        expect(button).to_be_focused()
        expect(button).to_have_accessible_name("Stop")
        tab.page.keyboard.press("Space")
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        expect(button).to_be_focused()
        expect(tab.button("Record")).to_be_enabled()
        assert tab.page.evaluate("opened") == 1


def test_a_language_is_found_by_typing(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        language = tab.page.get_by_label("Language", exact=True)
        language.click()
        tab.page.keyboard.type("germ")
        expect(tab.page.get_by_role("option")).to_have_text(["German"], use_inner_text=True)
        tab.page.keyboard.press("Enter")
        expect(language).to_have_value("German")
        tab.page.wait_for_function("document.querySelector('#microphone').options?.language === 'German'")


def test_copy_and_clear_need_text_and_clear_resets_the_clock(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        expect(tab.button("Copy")).to_be_disabled()
        expect(tab.button("Clear")).to_be_disabled()
        tab.record()
        tab.capture(2)
        deliver_to(served)([Final(100, 0, 16_000, "English", "One.", 0.0)])
        expect(tab.button("Copy")).to_be_enabled()
        expect(tab.button("Clear")).to_be_enabled()
        tab.stop()
        tab.proof()
        tab.button("Clear").click()
        expect(tab.button("Clear")).to_be_disabled()
        expect(tab.button("Copy")).to_be_disabled()
        tab.record()
        deliver_to(served)([Final(100, 0, 16_000, "English", "Two.", 0.0)])
        expect(tab.page.locator(".utterance", has_text="Two.").locator(".time")).to_have_text("0:00")
        tab.stop()
        tab.proof()


def test_a_microphone_that_gives_no_sound_is_reported(playwright: Playwright, served: Served, tmp_path: Path) -> None:
    muted = start_chromium(playwright, write_wav(tmp_path / "muted.wav", np.zeros(48_000, np.float32), 48_000))
    keep = """const Native = AudioContext;
    window.AudioContext = class extends Native { kept = (window.heard = this); };"""
    with Tab(muted, served.url, keep) as tab:
        tab.record()
        advice = tab.page.locator("#advice")
        assert advice.inner_text() == ""
        expect(advice).to_have_text(
            "No sound from the microphone: is it muted?",
        )
        assert tab.status() == "Listening"
        tab.page.evaluate("heard.suspend()")
        tab.wait_status("paused")
        time.sleep(3)  # of the page's clock, in which no sound comes
        tab.page.evaluate("heard.resume()")
        tab.wait_status("Listening")
        expect(advice).to_contain_text("The microphone was paused at 0:0")
        tab.stop()
        tab.proof()
        expect(advice).to_have_text(re.compile(r"^The microphone was paused at 0:0\d for \d+ s\. [^.]* missing\.$"))
    muted.close()


def test_a_missing_microphone_is_reported(playwright: Playwright, served: Served) -> None:
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
        tab.capture(1)
        # A script cannot pull a plug; the browser's own signal for it is this event.
        tab.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        tab.wait_status("unplugged")
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]


def test_an_insecure_address_points_to_https(playwright: Playwright) -> None:
    config = small_config(allowed_hosts=("page.test",))
    with serving(Service(config, random_recognizer()), None) as served:
        # localhost is trusted by browsers, a name is not.
        url = served.url.replace("localhost", "page.test")
        browser = start_chromium(playwright, None, flags=["--host-resolver-rules=MAP page.test 127.0.0.1"])
        with Tab(browser, url) as tab:
            tab.wait_status("https://")
            expect(tab.page.locator("#stock")).to_be_hidden()  # it gets no microphone there either
            assert tab.button("Record").is_disabled()
        browser.close()


def test_the_page_opens_while_the_checkpoint_loads_and_shows_why_it_fails(
    chromium: Browser, certificates: Path
) -> None:
    service = Service(small_config())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.wait_status("Loading")
        assert tab.button("Record").is_disabled()
        service._progress("Fetching a checkpoint")
        tab.wait_status("Fetching a checkpoint …")
        service.models._failed(service.models.default, CheckpointNotFound("There is no folder x. Give another."))
        tab.wait_status("There is no folder x. Give another.")
        assert tab.button("Record").is_disabled()


RECORDERS_MODULE = re.compile(r"\/assets\/module-[^\/]*\.js$")
"""A script that Gradio's recorder loads. If Record is pressed before it is there, nothing is recorded."""


def show_simple_recorder(tab: Tab) -> Locator:
    tab.page.get_by_role("button", name="Trouble with the microphone").click()
    return tab.page.locator("#stock-recorder")


def test_the_simple_recorder_feeds_the_same_page(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        recorder = show_simple_recorder(tab)
        recorder.get_by_role("button", name="Record").wait_for()
        tab.page.wait_for_function(
            f"performance.getEntriesByType('resource').some(({{ name }}) => /{RECORDERS_MODULE.pattern}/.test(name))"
        )
        tab.page.wait_for_timeout(1000)  # the recorder initializes, which cannot be seen from here
        recorder.get_by_role("button", name="Record").click()
        tab.wait_status("Listening")
        big = tab.page.locator("#microphone .record")
        expect(big).to_have_accessible_name("Record")
        expect(big).to_be_disabled()
        expect(big).not_to_have_css("background-color", LISTENING_RED)
        expect(big.locator(".dot")).to_have_css("border-radius", "50%")
        recording = unfinished_recording(served)
        assert until(lambda: recording.received / 2 / recording.rate > 3)
        recorder.get_by_role("button", name="Stop").click()
        tab.wait_status("Ready")
        assert recording.done
        assert len(tab.texts()) > 0
        # Again: the recording that has ended is not taken for the new one.
        said = len(tab.texts())
        recorder.get_by_role("button", name="Record").click()
        tab.wait_status("Listening")
        assert unfinished_recording(served) is not recording
        time.sleep(1)
        assert tab.status() == "Listening"
        assert len(tab.texts()) >= said
        recorder.get_by_role("button", name="Stop").click()
        tab.wait_status("Ready")


def test_a_simple_recorder_that_was_pressed_too_early_records_when_it_is_pressed_again(
    chromium: Browser, served: Served
) -> None:
    with Tab(chromium, served.url) as tab:
        tab.page.route(RECORDERS_MODULE, lambda _: None)
        tab.page.reload()
        recorder = show_simple_recorder(tab)
        recorder.get_by_role("button", name="Record").click()
        tab.page.locator("#status", has_text="Stop it there, allow the microphone, and record again").wait_for()
        tab.page.unroute(RECORDERS_MODULE)  # the requests that were held are answered now
        recorder.get_by_role("button", name="Stop").click()
        tab.page.wait_for_timeout(1000)
        recorder.get_by_role("button", name="Record").click()
        tab.wait_status("Listening")
        recording = unfinished_recording(served)
        recorder.get_by_role("button", name="Stop").click()
        tab.wait_status("Ready")
        assert recording.done


def test_a_simple_recorder_that_sends_nothing_ends_with_a_message(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        tab.page.evaluate("document.querySelector('#microphone').dispatchEvent(new Event('fallback-start'))")
        tab.wait_status("Listening")
        tab.page.locator("#status", has_text="No sound came from the simple recorder").wait_for()
        expect(tab.button("Record")).to_be_enabled()
