"""The transcript in a browser: edits, Clear and Undo, what the browser keeps, downloads, several pages at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, expect

from qwen_asr.live.events import Event, Final, Partial
from tests.support.browser import MARKS, Served, Tab, unfinished_recording

pytestmark = MARKS


def deliver_to(served: Served) -> Callable[[list[Event]], None]:
    """The function that gives events to the one recording that is open."""
    return unfinished_recording(served).on_events


def final(number: int, text: str, second: int | None = None, **values: Any) -> Final:
    """A final of one second, `number` seconds in unless a `second` is given."""
    start = (number if second is None else second) * 16_000
    return Final(number, start, start + 16_000, "English", text, 0.0, **values)


def line(tab: Tab, text: str) -> Locator:
    """The line with that text."""
    return tab.page.locator("#transcript .utterance", has_text=text)


def wait_kept(tab: Tab) -> None:
    """Waits until the browser has stored all text."""
    expect(tab.page.locator("#microphone .kept")).to_have_attribute("data-storage", "saved")


def reload(tab: Tab) -> None:
    """Loads the page again, and waits for it."""
    tab.page.reload()
    tab.wait_status("Ready")


def say(tab: Tab, served: Served, *texts: str, start: int = 100) -> None:
    """Records, gets these finals from the server, and stops. The model's own lines are removed."""
    tab.record()
    deliver_to(served)([final(start + number, text) for number, text in enumerate(texts)])
    expect(line(tab, texts[-1])).to_be_visible()
    tab.stop()
    tab.proof()


def test_a_line_is_edited_with_the_keyboard_and_stays_edited(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        deliver = deliver_to(served)
        deliver([final(100, "Turn on the light."), final(101, "Good night.")])
        spoken = line(tab, "Turn on the light.")
        edit = spoken.get_by_role("button", name="Edit the line at 1:40", exact=True)
        edit.focus()
        tab.page.keyboard.press("Enter")
        field = tab.page.get_by_role("textbox", name="Text of the line", exact=False)
        expect(field).to_be_focused()
        expect(field).to_have_value("Turn on the light.")
        tab.page.keyboard.type("x")
        tab.page.keyboard.press("Escape")
        expect(field).to_have_count(0)
        expect(edit).to_be_focused()
        assert "Turn on the light." in tab.texts()
        tab.page.keyboard.press("F2")
        evil = "<img src=x onerror='document.body.dataset.hit=1'> off"
        field.fill(evil)
        tab.page.keyboard.press("Enter")
        edited = tab.page.locator(".utterance.edited")
        expect(edited.locator(".edit")).to_be_focused()
        expect(edited.locator(".words")).to_have_text(evil)
        expect(edited.locator(".mark")).to_have_text("edited")
        expect(edited.locator(".time")).to_have_text("1:40")
        assert tab.page.locator("body").get_attribute("data-hit") is None
        # What the server says later about it changes nothing.
        deliver([final(100, "Turn on the light again."), final(102, "The end.")])
        expect(line(tab, "The end.")).to_be_visible()
        expect(edited.locator(".words")).to_have_text(evil)
        # Leaving the field saves.
        line(tab, "Good night.").locator(".edit").click(force=True)
        field.fill("Good morning.")
        tab.button("Stop").click()
        expect(line(tab, "Good morning.")).to_have_class(re.compile("edited"))
        tab.proof()
        assert tab.problems == []


def test_clear_can_be_undone_until_a_new_recording_begins(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        expect(tab.button("Undo")).to_be_hidden()
        say(tab, served, "One.", "Two.")
        line(tab, "Two.").locator(".edit").click(force=True)
        tab.page.keyboard.type(" 2")
        tab.page.keyboard.press("Enter")
        before = tab.texts()
        tab.button("Clear").click()
        expect(tab.page.locator(".utterance")).to_have_count(0)
        expect(tab.page.locator("#transcript-notice")).to_have_text("Cleared. Undo brings the text back.")
        tab.button("Undo").focus()
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator(".utterance")).to_have_count(len(before))
        assert tab.texts() == before
        expect(tab.page.locator(".utterance.edited")).to_have_count(1)
        expect(tab.button("Undo")).to_be_hidden()
        expect(tab.button("Clear")).to_be_focused()
        wait_kept(tab)
        reload(tab)
        assert tab.texts() == before
        tab.button("Clear").click()
        tab.record()
        expect(tab.button("Undo")).to_be_hidden()
        # While it is recorded, what is cleared comes back before what is said meanwhile.
        deliver = deliver_to(served)
        deliver([final(100, "Three.")])
        expect(line(tab, "Three.")).to_be_visible()
        tab.button("Clear").click()
        deliver([final(101, "Four.")])
        expect(line(tab, "Four.")).to_be_visible()
        tab.button("Undo").click()
        texts = tab.texts()
        assert texts.index("Three.") < texts.index("Four.")
        tab.stop()
        tab.proof()
        tab.button("Clear").click()
        wait_kept(tab)
        reload(tab)
        expect(tab.button("Clear")).to_be_disabled()
        assert tab.texts() == []
        assert tab.problems == []


def test_the_text_survives_a_reload_and_the_times_go_on(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        deliver = deliver_to(served)
        deliver([final(100, "One."), Partial(101, 101 * 16_000, 102 * 16_000, "English", "Two and", 3, 0.0)])
        expect(line(tab, "Two and")).to_be_visible()
        deliver([final(102, "Three.")])
        expect(line(tab, "Three.")).to_be_visible()
        wait_kept(tab)
        before = tab.texts()
        assert "Two and" in before
        tab.page.on("dialog", lambda dialog: dialog.accept())  # it records
        reload(tab)
        assert tab.texts() == before
        assert "Two and" in tab.texts(".settled")  # nothing more comes for it
        tab.record()
        tab.page.locator("#clock", has_text=re.compile(r"1:4\d")).wait_for()
        deliver_to(served)([final(100, "Four.", 1)])
        expect(line(tab, "Four.").locator(".time")).to_have_text(re.compile(r"1:4\d"))
        tab.stop()
        tab.proof()
        wait_kept(tab)
        reload(tab)
        assert len(tab.texts()) > len(before)
        assert tab.texts()[: len(before)] == before
        assert tab.problems == []
        assert tab.console_errors == []
