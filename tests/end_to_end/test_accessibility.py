"""The page for everybody: axe-core on every tab and in every state, the keyboard, a screen reader, zoom, motion.

The tabs are those that the page has, so a new one is checked without a change here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from qwen_asr.live.events import Event, Failed, Final, Partial
from qwen_asr.web.access.login import WRONG, login_page
from qwen_asr.web.page.trust import read_template, trust_page
from tests.support.accessibility import contrast, violations
from tests.support.browser import MARKS, Served, Tab, unfinished_recording

pytestmark = MARKS

# The first press of Record meets no microphone.
NO_MICROPHONE_FIRST = """const native = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
let first = true;
navigator.mediaDevices.getUserMedia = async (wish) => {
  if (!first) return native(wish);
  first = false;
  throw new DOMException("none", "NotFoundError");
};"""
SPOKEN: list[Event] = [
    Final(100, 0, 16_000, "English", "Turn on the kitchen light.", 0.0),
    Failed(101, 16_000, 32_000, "The recognizer failed on this part; the log says why.", 0.0),
    Partial(102, 32_000, 48_000, "English", "The meeting is on Monday", 11, 0.0),
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# WCAG 2.2, 1.4.12: text that somebody spaces like this must still be whole.
SPACED = """* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important; }
p { margin-bottom: 2em !important; }"""
# What has the keyboard's focus: how it is called, and whether that can be seen.
FOCUSED = """() => {
  const { activeElement: it } = document;
  if (!it || it === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(it);
  const name = it.getAttribute("aria-label") || it.labels?.[0]?.innerText || it.innerText || it.id;
  const visible = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  return { name: name.trim().split("\\n")[0], visible };
}"""


@pytest.fixture(autouse=True)
def _no_recording_is_left(served: Served) -> Iterator[None]:
    yield
    for key in served.recordings.ids():
        served.recordings.remove(*key)


def speak(tab: Tab, served: Served) -> None:
    """Records, with text of every kind in the transcript."""
    tab.record()
    unfinished_recording(served).on_events(SPOKEN)
    expect(tab.page.locator("#transcript .tentative", has_text="is on Monday")).to_be_attached()
    tab.page.evaluate("Promise.all(document.getAnimations().map((it) => it.finished.catch(() => {})))")


def tab_names(tab: Tab) -> list[str]:
    return tab.page.get_by_role("tab").all_inner_texts()


def show(tab: Tab, name: str) -> None:
    tab.page.get_by_role("tab", name=name, exact=True).click()
    expect(tab.page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
    # Gradio makes the components of a tab when it is shown first.
    tab.page.get_by_role("tabpanel").get_by_role("heading", level=2).first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(quiet: Browser, served: Served, axe: str, viewport: Any, scheme: Any) -> None:
    found: dict[str, list[str]] = {}
    with Tab(quiet, served.url, NO_MICROPHONE_FIRST, viewport=viewport, color_scheme=scheme) as tab:
        tab.wait_status("Ready")
        for name in tab_names(tab):
            show(tab, name)
            found[f"{name}, nothing yet"] = violations(tab.page, axe)
            assert contrast(tab.page.get_by_role("tab", name=name, exact=True)) >= 4.5  # axe-core cannot tell
        show(tab, "Live")
        tab.page.get_by_label("Language", exact=True).click()
        tab.page.get_by_role("option", name="German", exact=True).wait_for()
        found["a list that is open"] = violations(tab.page, axe)
        tab.page.keyboard.press("Escape")
        tab.page.get_by_role("button", name="Trouble with the microphone").click()
        tab.page.locator("#stock-recorder").get_by_role("button", name="Record").wait_for()
        found["the simple recorder"] = violations(tab.page, axe)
        tab.button("Record").first.click()
        tab.wait_status("No microphone was found")
        found["an error"] = violations(tab.page, axe)
        tab.page.get_by_role("button", name="Trouble with the microphone").click()
        expect(tab.page.locator("#stock-recorder")).to_be_hidden()
        speak(tab, served)
        for name in tab_names(tab):
            show(tab, name)
            found[f"{name}, while recording"] = violations(tab.page, axe)
        show(tab, "Live")
        for part in (".settled", ".tentative", "time", ".failed .settled"):
            assert contrast(tab.page.locator(f"#transcript {part}").last) >= 4.5, part
        tab.page.keyboard.press("Alt+Enter")
        tab.page.get_by_role("dialog").wait_for()
        found["the big screen"] = violations(tab.page, axe)
        tab.page.keyboard.press("Escape")
        tab.offline(True)
        tab.wait_status("Reconnecting")
        found["a lost connection"] = violations(tab.page, axe)
    assert {state: lines for state, lines in found.items() if lines} == {}


def test_axe_finds_nothing_in_chinese(quiet: Browser, served: Served, axe: str) -> None:
    with Tab(quiet, served.url, locale="zh-CN") as tab:
        tab.wait_status("就绪")
        for name in tab_names(tab):
            show(tab, name)
            assert violations(tab.page, axe) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_axe_finds_nothing_in_the_pages_around_it(quiet: Browser, axe: str, language: str, scheme: Any) -> None:
    asked = {"type": "http", "headers": [(b"accept-language", language.encode())]}
    login = bytes(login_page(asked, 401, WRONG).body).decode()
    trust = trust_page(read_template(language), "AB:" * 31 + "AB", ["https://192.168.1.2:8000"])
    page = quiet.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for html in (login, trust):
        page.set_content(html)
        assert violations(page, axe) == []
    page.close()


def test_headings_landmarks_and_title(quiet: Browser, served: Served) -> None:
    with Tab(quiet, served.url) as tab:
        tab.wait_status("Ready")
        expect(tab.page).to_have_title("Qwen3-ASR live")
        expect(tab.page.get_by_role("main")).to_have_count(1)
        expect(tab.page.get_by_role("main").get_by_role("heading", level=1)).to_have_text("Qwen3-ASR live")
        for name in tab_names(tab):
            show(tab, name)
            expect(tab.page.get_by_role("heading", level=1)).to_have_count(1)
            expect(tab.page.get_by_role("heading", level=2).first).to_be_visible()


def test_the_keyboard_reaches_everything_in_order_and_one_sees_where_it_is(quiet: Browser, served: Served) -> None:
    with Tab(quiet, served.url) as tab:
        tab.wait_status("Ready")
        order = []
        for name in tab_names(tab):
            show(tab, name)
            tab.page.get_by_role("heading", level=1).click()  # the focus begins here
            stops = []
            for _ in range(80):
                tab.page.keyboard.press("Tab")
                stop = tab.page.evaluate(FOCUSED)
                if stop is None:
                    break  # past the end: there is no trap
                stops.append(stop)
            else:
                pytest.fail(f"the focus never leaves the tab {name}: {stops}")
            assert [stop for stop in stops if not stop["visible"]] == []
            order.append([stop["name"] for stop in stops])
        live, settings = order[0], order[-1]
        assert live[:2] == ["Language", "Context"]
        wanted = ["Live", "Settings", "Record", "Big screen", "Copy", "Clear", "Transcript"]
        assert [name for name in live if name in wanted] == wanted
        assert [name.partition(" ")[0] for name in live[-2:]] == ["Trouble", "Use"]  # the two sections
        assert settings[-2:] == ["Remember the fields above", "Reset settings"]


def test_a_screen_reader_hears_settled_text_once(quiet: Browser, served: Served) -> None:
    with Tab(quiet, served.url) as tab:
        tab.record()
        announcer = tab.page.locator("#microphone .announcer")
        expect(announcer).to_have_attribute("aria-live", "polite")
        announcer.evaluate(
            """(node) => {
              window.heard = [];
              new MutationObserver(() => heard.push(node.textContent)).observe(node, { childList: true });
            }"""
        )
        deliver = unfinished_recording(served).on_events
        for count in range(1, 5):
            deliver([Partial(100, 0, 16_000, "English", "Turn on the light"[: 4 * count], 2, 0.0)])
            expect(tab.page.locator("#transcript .words")).to_have_text("Turn on the light"[: 4 * count])
        deliver([Final(100, 0, 16_000, "English", "Turn on the light.", 0.0)])
        deliver([Final(101, 16_000, 32_000, "English", "Thank you.", 0.0)])
        deliver([Partial(102, 32_000, 48_000, "English", "And", 3, 0.0)])
        expect(tab.page.locator("#transcript .utterance")).to_have_count(3)
        heard = tab.page.evaluate("heard")
        assert heard[-1] == "Thank you."
        assert set(heard) <= {"Turn on the light.", "Thank you."}
        assert len(heard) <= 2
        # The transcript itself is no live region: it would be read with each word.
        assert tab.page.locator("#transcript").get_attribute("aria-live") is None


def test_nothing_is_lost_at_200_percent_or_with_wide_spacing(quiet: Browser, served: Served) -> None:
    zoomed: dict[str, Any] = {"viewport": {"width": 320, "height": 512}, "device_scale_factor": 2}  # 640 × 1024 pixels
    with Tab(quiet, served.url, **zoomed) as tab:
        speak(tab, served)
        for style in ("", SPACED):
            if style:
                tab.page.add_style_tag(content=style)
            for name in tab_names(tab):
                show(tab, name)
                assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320, name
            show(tab, "Live")
            button = tab.button("Stop").bounding_box()
            assert button
            assert button["x"] >= 0
            assert button["x"] + button["width"] <= 320


def test_nothing_moves_for_those_who_want_no_motion(quiet: Browser, served: Served) -> None:
    with Tab(quiet, served.url, reduced_motion="reduce") as tab:
        speak(tab, served)
        for selector in (".utterance", ".record", ".dot"):
            style = tab.page.locator(f"#microphone {selector}").first
            expect(style).to_have_css("animation-name", "none")
            expect(style).to_have_css("transition-duration", "0s")
