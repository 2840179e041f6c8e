"""The transcript in a browser: edits, Clear and Undo, what the browser keeps, downloads, several pages at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import srt
from playwright.sync_api import Browser, BrowserContext, Error, Locator, Playwright, expect

from qwen_asr.live.events import Event, Final, Partial
from qwen_asr.service.service import Service
from qwen_asr.web.page.recordings import Recording
from tests.support.browser import (
    MARKS,
    Served,
    Tab,
    chromium_flags,
    chromium_path,
    serving,
    small_config,
    unfinished_recording,
)
from tests.support.checkpoints import demo_recognizer, random_recognizer
from tests.support.processes import until

pytestmark = MARKS

PASSWORDS = {"ada": "analytical-engine-1843", "bob": "tall-builder-of-1999"}


def deliver_to(served: Served) -> Callable[[list[Event]], None]:
    """The function that gives events to the one recording that is open."""
    return unfinished_recording(served).on_events


@pytest.fixture(autouse=True)
def alone(served: Served) -> None:
    """The recordings of the pages before are gone."""
    for tab, recording in served.recordings.ids():
        served.recordings.remove(tab, recording)


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


def test_settled_text_stays_still_and_what_is_taken_back_is_marked(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        deliver = deliver_to(served)

        def partial(text: str, stable: int) -> Partial:
            return Partial(101, 101 * 16_000, 102 * 16_000, "English", text, stable, 0.0)

        deliver([final(100, "Good morning."), partial("Turn of the kitchen", 7)])
        spoken = tab.page.locator(".utterance", has_text="the kitchen")
        expect(spoken).to_be_visible()
        # The reader has selected "of"; its place is known.
        place = """() => {
          const {x, y, width} = getSelection().getRangeAt(0).getBoundingClientRect();
          const transcript = document.querySelector("#transcript");
          return [String(getSelection()), x, y - transcript.getBoundingClientRect().y + transcript.scrollTop, width];
        }"""
        spoken.locator(".settled").evaluate("e => getSelection().setBaseAndExtent(e.firstChild, 5, e.firstChild, 7)")
        before = tab.page.evaluate(place)
        assert before[0] == "of"
        tab.page.evaluate(
            "new MutationObserver(([{target}]) => { (window.announced ||= []).push(target.textContent); })"
            ".observe(document.querySelector('#microphone .announcer'), {childList: true})"
        )
        deliver([partial("Turn of the kitchen light please", 19)])
        expect(spoken.locator(".settled")).to_have_text("Turn of the kitchen")
        assert tab.page.evaluate(place) == [before[0], *map(pytest.approx, before[1:])]
        deliver([final(101, "Turn on the kitchen light, please.", corrected=True)])
        word = spoken.locator("mark.corrected")
        expect(word).to_have_text("on")
        expect(word).to_have_attribute("title", "Corrected. Before: of")
        expect(spoken.locator(".mark")).to_have_text("corrected")
        assert "underline" in word.evaluate("e => getComputedStyle(e).textDecoration")  # not by colour alone
        expect(tab.page.locator("#microphone .announcer")).to_have_text("Turn on the kitchen light, please.")
        deliver([final(101, "Turn on the kitchen light, please.", corrected=True), final(102, "The end.")])
        expect(tab.page.locator("#microphone .announcer")).to_have_text("The end.")
        assert tab.page.evaluate("announced").count("Turn on the kitchen light, please.") == 1
        tab.stop()
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


def test_the_text_survives_a_reload_and_the_times_go_on(quiet: Browser, served: Served) -> None:
    with Tab(quiet, served.url) as tab:  # whose microphone is silent: no line of the model comes between
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
        for key in served.recordings.ids():
            served.recordings.remove(*key)  # as the server does some seconds after the page has gone
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


def test_a_final_survives_the_crash_of_its_page(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.record()
        deliver_to(served)([final(100, "Kept.")])
        expect(line(tab, "Kept.")).to_be_visible()
        with contextlib.suppress(Error):  # it answers nothing any more
            tab.page.goto("chrome://crash")
        after = Tab(chromium, served.url, beside=tab)
        expect(line(after, "Kept.").locator(".time")).to_have_text("1:40")


@contextlib.contextmanager
def own_chromium(playwright: Playwright, folder: Path, sound: Path) -> Iterator[tuple[Browser, Callable[[], None]]]:
    """A Chromium that keeps what it stores in the folder, and a function that kills it."""
    port = folder / "DevToolsActivePort"
    port.unlink(missing_ok=True)
    flags = chromium_flags(
        sound, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--ignore-certificate-errors"
    )
    process = subprocess.Popen(
        [chromium_path(), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    try:
        assert until(lambda: port.exists() and port.read_text())
        browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port.read_text().split()[0]}")
        yield browser, kill
    finally:
        if process.poll() is None:
            kill()


def test_the_text_survives_the_death_of_the_browser(
    playwright: Playwright, served: Served, speech: dict[int, Path], tmp_path: Path
) -> None:
    with own_chromium(playwright, tmp_path, speech[48_000]) as (browser, kill):
        first = Tab(browser, served.url, inside=browser.contexts[0])
        first.record()
        deliver_to(served)([final(100, "Kept.")])
        expect(line(first, "Kept.")).to_be_visible()
        wait_kept(first)
        kill()
    with own_chromium(playwright, tmp_path, speech[48_000]) as (browser, _):
        second = Tab(browser, served.url, inside=browser.contexts[0])
        expect(line(second, "Kept.").locator(".time")).to_have_text("1:40")
        assert second.problems == []


def test_tabs_do_not_mix_their_texts(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        say(tab, served, "One.")
        wait_kept(tab)
        other = Tab(chromium, served.url, beside=tab)
        other.wait_status("Ready")
        assert other.texts() == []
        say(other, served, "Two.")
        wait_kept(other)
        # A tab that is opened from another has a copy of its session.
        with tab.context.expect_page() as opened:
            tab.page.evaluate("window.open(location.href)")
        copy = opened.value
        copy.locator("#status", has_text="Ready").wait_for()
        expect(copy.locator("#microphone .record")).to_be_enabled()
        assert copy.locator(".utterance").count() == 0
        copy.close()
        for one, expected, missing in [(tab, "One.", "Two."), (other, "Two.", "One.")]:
            reload(one)
            expect(line(one, expected)).to_be_visible()
            expect(line(one, missing)).to_have_count(0)
        # A new tab goes on with the text of the one that was closed.
        other.page.close()
        third = Tab(chromium, served.url, beside=tab)
        expect(line(third, "Two.")).to_be_visible()
        expect(line(third, "One.")).to_have_count(0)
        assert [*tab.problems, *other.problems, *third.problems] == []


def test_without_storage_everything_else_works(chromium: Browser, served: Served) -> None:
    refused = "indexedDB.open = () => { throw new DOMException('It is switched off.', 'SecurityError'); };"
    with Tab(chromium, served.url, refused) as tab:
        notice = tab.page.locator("#transcript-notice")
        tab.wait_status("Ready")
        expect(notice).to_be_empty()  # there is no text that could be lost
        say(tab, served, "One.")
        expect(notice).to_contain_text("This browser does not keep the text")
        expect(tab.page.locator(".kept")).to_be_empty()
        tab.button("Clear").click()
        tab.button("Undo").click()
        expect(line(tab, "One.")).to_be_visible()
        assert tab.problems == []
        assert tab.console_errors == []


@pytest.fixture(scope="module")
def closed(certificates: Path) -> Iterator[Served]:
    """A server with two users."""
    users = tuple(f"{user}:{password}" for user, password in PASSWORDS.items())
    with serving(Service(small_config(auth=users), random_recognizer()), certificates) as served:
        yield served


def log_in(context: BrowserContext, url: str, user: str) -> None:
    page = context.new_page()
    page.goto(url)
    page.locator("[name=username]").fill(user)
    page.locator("[name=password]").fill(PASSWORDS[user])
    page.keyboard.press("Enter")
    page.locator("#status", has_text="Ready").wait_for()
    page.close()


def test_nobody_sees_the_text_of_another_user(chromium: Browser, closed: Served) -> None:
    context = chromium.new_context(ignore_https_errors=True)
    log_in(context, closed.url, "ada")
    ada = Tab(chromium, closed.url, inside=context)
    expect(ada.page.locator(".kept")).to_have_text("This browser keeps the text until you press Clear or log out.")
    say(ada, closed, "One.")
    wait_kept(ada)
    # Her login ends by itself. What the next user says is not mixed with hers, and hers comes back to her alone.
    context.clear_cookies()
    log_in(context, closed.url, "bob")
    reload(ada)
    assert ada.texts() == []
    context.clear_cookies()
    log_in(context, closed.url, "ada")
    ada.page.close()
    again = Tab(chromium, closed.url, inside=context)
    expect(line(again, "One.")).to_be_visible()
    other = Tab(chromium, closed.url, inside=context)
    say(other, closed, "Two.")
    wait_kept(other)
    # She logs out: nothing is kept, and her other tab shows nothing any more.
    again.button("Log out").click()
    for tab in (again, other):
        tab.page.locator("[name=password]").wait_for()
    log_in(context, closed.url, "ada")
    reload(again)
    expect(again.button("Record")).to_be_enabled()
    assert again.texts() == []
    context.close()


def test_the_transcript_is_saved_as_files(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        formats = ["TXT", "SRT", "VTT", "JSON"]
        for name in formats:
            expect(tab.button(f"Download as {name}")).to_be_disabled()
        tab.record()
        deliver_to(served)([final(100, "Turn on the light."), final(101, "Good night.")])
        expect(line(tab, "Good night.")).to_be_visible()
        tab.stop()
        tab.proof()
        line(tab, "Good night.").locator(".edit").click(force=True)
        tab.page.keyboard.press("Control+A")
        tab.page.keyboard.type("Good <i>morning</i>.")
        tab.page.keyboard.press("Enter")
        files = {}
        for name in formats:
            with tab.page.expect_download() as started:
                tab.button(f"Download as {name}").click()
            assert re.fullmatch(
                rf"transcript-\d{{4}}-\d\d-\d\d-\d{{6}}\.{name.lower()}", started.value.suggested_filename
            )
            files[name] = Path(started.value.path()).read_text(encoding="utf-8")
        cues = list(srt.parse(files["SRT"]))
        said = [(cue.start.total_seconds(), cue.content) for cue in cues if cue.start.total_seconds() >= 100]
        assert said == [(100, "Turn on the light."), (101, "Good <i>morning</i>.")]
        assert files["VTT"].startswith("WEBVTT")
        assert "Good <i>morning</i>." in files["TXT"].splitlines()
        assert "Good <i>morning</i>." in files["JSON"]
        assert tab.problems == []
        assert tab.console_errors == []
        assert [url for url in tab.requests if not url.startswith((served.url, "blob:", "data:"))] == []
        # A server that is away is told, and nothing is lost.
        tab.page.route(re.compile("component_server"), lambda route: route.abort())
        tab.button("Download as SRT").click()
        expect(tab.page.locator("#transcript-notice")).to_contain_text("The file could not be made")
        expect(line(tab, "Turn on the light.")).to_be_visible()


SPEAKERS = {"German": "Grünau", "French": "Besançon", "Chinese": "杭州"}


def test_three_speakers_never_see_the_text_of_each_other(chromium: Browser, served: Served) -> None:
    context = chromium.new_context(ignore_https_errors=True)
    tabs = {}
    for language, spoken in SPEAKERS.items():
        tab = tabs[language] = Tab(chromium, served.url, inside=context)
        tab.page.get_by_label("Language", exact=True).click()
        tab.page.get_by_role("option", name=language, exact=True).click()
        tab.page.get_by_label("Context").fill(spoken)
        tab.page.get_by_label("Context").blur()
        tab.page.wait_for_function(
            "([language, context]) => { const { options } = document.querySelector('#microphone');"
            " return options?.language === language && options.context === context; }",
            arg=[language, spoken],
        )
    for tab in tabs.values():
        tab.record()

    def by_speaker() -> dict[tuple[str | None, str], Recording]:
        opened = [recording for recording in served.recordings.all() if not recording.done]
        return {(recording.options.language, recording.options.context): recording for recording in opened}

    assert until(lambda: set(by_speaker()) == set(SPEAKERS.items()))
    recordings = by_speaker()
    for number in range(5):
        for (name, context_text), recording in recordings.items():
            recording.on_events([final(100 + number, f"{context_text} {number} {name}")])
    for (language, spoken), tab in zip(SPEAKERS.items(), tabs.values(), strict=True):
        expect(line(tab, f"{spoken} 4 {language}")).to_be_visible()
        tab.stop()
        tab.proof()
        wait_kept(tab)
    for (language, spoken), tab in zip(SPEAKERS.items(), tabs.values(), strict=True):
        for _ in range(2):
            own = [text for text in tab.texts() if any(name in text for name in SPEAKERS)]
            assert own == [f"{spoken} {number} {language}" for number in range(5)]
            reload(tab)
        assert tab.problems == []
        assert tab.console_errors == []
    context.close()


def test_real_speech_from_the_recording_to_the_subtitles_and_on(chromium: Browser, certificates: Path) -> None:
    with serving(Service(small_config(), demo_recognizer()), certificates) as served, Tab(chromium, served.url) as tab:
        finals = tab.page.locator(".utterance[data-final=true]")
        tab.record()
        expect(finals.first).to_be_visible()
        tab.stop()
        tab.proof()
        finals.first.locator(".edit").click()
        tab.page.keyboard.press("Control+A")
        tab.page.keyboard.type("Turn off the lamp.")
        tab.page.keyboard.press("Enter")
        with tab.page.expect_download() as started:
            tab.button("Download as SRT").click()
        before = tab.texts()
        assert before[0] == "Turn off the lamp."
        cues = list(srt.parse(Path(started.value.path()).read_text(encoding="utf-8")))
        assert " ".join(cue.content for cue in cues).split() == " ".join(before).split()
        spoken = tab.captured()
        times = [time.total_seconds() for cue in cues for time in (cue.start, cue.end)]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= spoken + 0.01
        wait_kept(tab)
        reload(tab)
        assert tab.texts() == before
        assert finals.first.get_attribute("class") == "utterance edited"
        tab.record()
        expect(finals.nth(len(before))).to_be_visible()
        tab.stop()
        tab.proof()
        titles = tab.page.locator(".utterance time").evaluate_all("all => all.map((time) => parseFloat(time.title))")
        assert titles[: len(before)] == sorted(titles[: len(before)])
        assert min(titles[len(before) :]) >= spoken - 0.01
        assert tab.texts()[: len(before)] == before
        assert tab.problems == []
        assert tab.console_errors == []
