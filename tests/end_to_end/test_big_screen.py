"""Captions for a room: the newest two lines, large and of high contrast, while the recording goes on."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from qwen_asr.live.events import Failed, Final, Partial
from qwen_asr.web.page.recordings import Recording
from tests.support.accessibility import contrast
from tests.support.browser import MARKS, Served, Tab, unfinished_recording

pytestmark = MARKS

NO_FULL_SCREEN = "delete Element.prototype.requestFullscreen;"
SENTENCE = "The meeting is on Monday the tenth of May. "
# What of an element lies within the window of the two lines, by the lines of text.
VISIBLE_LINES = """(shown) => {
  const range = document.createRange();
  range.selectNodeContents(shown);
  const window = shown.parentElement.getBoundingClientRect();
  const middles = [...range.getClientRects()].map(({ top, bottom }) => (top + bottom) / 2);
  return new Set(middles.filter((y) => y > window.top && y < window.bottom).map(Math.round)).size;
}"""


def final(number: int, text: str) -> Final:
    return Final(number, 0, 16_000, "English", text, 0.0)


def partial(number: int, text: str, settled: int) -> Partial:
    return Partial(number, 0, 16_000, "English", text, settled, 0.0)


def screen(tab: Tab) -> Locator:
    return tab.page.get_by_role("dialog", name="Captions")


def open_screen(tab: Tab) -> Recording:
    """Opens the big screen in a recording, without anything that was said before."""
    tab.record()
    tab.button("Big screen").click()
    expect(screen(tab)).to_be_visible()
    return unfinished_recording(tab_served(tab))


def tab_served(tab: Tab) -> Served:
    return tab.served  # type: ignore[attr-defined]  # set by the fixture below


@pytest.fixture
def tab(quiet: Browser, served: Served, request: pytest.FixtureRequest) -> Any:
    """A tab, with the options of the context and the script that the test is parametrized with."""
    options = dict(getattr(request, "param", {}))
    with Tab(quiet, served.url, options.pop("script", ""), **options) as tab:
        tab.served = served  # type: ignore[attr-defined]  # for `open_screen`
        yield tab
    for key in served.recordings.ids():  # the next test finds its own recording alone
        served.recordings.remove(*key)


def test_it_shows_the_newest_text_and_the_recording_goes_on(tab: Tab) -> None:
    recording = open_screen(tab)
    assert tab.page.evaluate("document.fullscreenElement?.className") == "big-screen"
    recording.on_events([final(100, SENTENCE * 4)])
    recording.on_events([partial(101, "Turn on the kitchen light", 7)])
    shown = screen(tab).locator(".lines p")
    expect(shown.last.locator(".settled")).to_have_text("Turn on")
    expect(shown.last.locator(".tentative")).to_have_text(" the kitchen light")
    tab.page.wait_for_timeout(600)  # the lines have rolled
    assert screen(tab).locator(".lines").evaluate(VISIBLE_LINES) == 2
    box, window = shown.last.bounding_box(), screen(tab).locator(".window").bounding_box()
    assert box
    assert window
    assert abs(box["y"] + box["height"] - window["y"] - window["height"]) < 2
    # Old utterances go, the newest three stay; one that failed is no speech.
    recording.on_events([final(101, "Turn on the kitchen light.")])
    recording.on_events([final(number, f"Number {number}.") for number in (102, 103)])
    recording.on_events([Failed(104, 0, 16_000, "It failed.", 0.0)])
    expect(shown).to_have_text(["Turn on the kitchen light.", "Number 102.", "Number 103."])
    tab.page.keyboard.press("Escape")
    expect(screen(tab)).to_have_count(0)
    expect(tab.button("Big screen")).to_be_focused()
    assert tab.page.evaluate("document.fullscreenElement") is None
    assert tab.status() == "Listening"
    tab.stop()
    proof = tab.proof()
    assert proof["sha256"] == proof["serverSha256"]
    assert tab.problems == []


def test_lines_never_jump_back(tab: Tab) -> None:
    recording = open_screen(tab)
    tab.page.evaluate(
        """() => {
          const lines = document.querySelector(".big-screen .lines");
          window.offsets = [];
          const note = () => offsets.push(-new DOMMatrix(lines.style.transform).f);
          new MutationObserver(note).observe(lines, { attributeFilter: ["style"] });
        }"""
    )
    long, short = SENTENCE * 5, SENTENCE * 2
    for text in (short, long, short, long, long + SENTENCE):
        recording.on_events([partial(100, text, 0)])
        expect(screen(tab).locator(".tentative").last).to_have_text(text)
    tab.page.wait_for_timeout(100)
    offsets = tab.page.evaluate("offsets")
    assert offsets == sorted(offsets)
    assert offsets[-1] > 0
    # What was said before goes out of the page, and no line on the screen moves for it.
    bottom = "(lines) => lines.getBoundingClientRect().bottom"
    recording.on_events([final(100, long), final(101, "One."), final(102, "Two.")])
    lines = screen(tab).locator(".lines")
    expect(lines).to_contain_text("Two.")
    tab.page.wait_for_timeout(600)
    before = lines.evaluate(bottom)
    recording.on_events([final(103, "Three.")])
    expect(lines.locator("p")).to_have_text(["One.", "Two.", "Three."])
    tab.page.wait_for_timeout(600)
    assert abs(lines.evaluate(bottom) - before) < 2


def test_it_opens_and_closes_with_keys_and_its_button(tab: Tab) -> None:
    tab.wait_status("Ready")
    tab.page.get_by_role("tab", name="Settings").click()
    tab.page.keyboard.press("Alt+Enter")  # from wherever one is
    expect(screen(tab)).to_be_visible()
    leave = screen(tab).get_by_role("button", name="Leave")
    expect(leave).to_be_focused()
    tab.page.keyboard.press("Tab")
    expect(leave).to_be_focused()
    tab.page.keyboard.press("Enter")
    expect(screen(tab)).to_have_count(0)
    tab.page.keyboard.press("Alt+Enter")
    expect(screen(tab)).to_be_visible()
    tab.page.keyboard.press("Alt+Enter")
    expect(screen(tab)).to_have_count(0)
    expect(tab.page.get_by_role("tab", name="Settings")).to_be_focused()


@pytest.mark.parametrize("tab", [{"script": NO_FULL_SCREEN}], indirect=True)
def test_without_full_screen_it_fills_the_window(tab: Tab) -> None:
    open_screen(tab)
    box = screen(tab).bounding_box()
    assert box == {"x": 0, "y": 0, "width": 1280, "height": 720}
    tab.page.keyboard.press("Escape")
    expect(screen(tab)).to_have_count(0)


def test_a_problem_is_visible_and_a_screen_reader_hears_text_once(tab: Tab) -> None:
    recording = open_screen(tab)
    status = screen(tab).get_by_role("status")
    expect(status).to_contain_text("Listening")
    heard = """() => {
      window.heard = [];
      const node = document.querySelector(".big-screen .announcer");
      new MutationObserver(() => heard.push(node.textContent)).observe(node, { childList: true });
    }"""
    tab.page.evaluate(heard)
    recording.on_events([partial(100, "Turn on the", 4)])
    recording.on_events([final(100, "Turn on the light.")])
    expect(screen(tab).locator(".settled").last).to_have_text("Turn on the light.")
    recording.on_events([partial(101, "Now", 0)])
    expect(screen(tab).locator(".tentative").last).to_have_text("Now")
    assert tab.page.evaluate("heard") == ["Turn on the light."]
    tab.offline(True)
    expect(status).to_contain_text("Reconnecting")
    expect(status).to_contain_text("Keep speaking: nothing is lost.")
    tab.offline(False)
    expect(status).to_contain_text("Listening")


SIZES: list[dict[str, Any]] = [
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    {"viewport": {"width": 844, "height": 390}, "color_scheme": "dark"},
    {"viewport": {"width": 3840, "height": 2160}, "color_scheme": "dark"},
]


@pytest.mark.parametrize("tab", SIZES, indirect=True, ids=["phone", "phone on its side", "4K"])
def test_it_fits_every_screen_with_a_contrast_of_seven(tab: Tab) -> None:
    recording = open_screen(tab)
    recording.on_events([final(100, SENTENCE), partial(101, SENTENCE * 3, 9)])
    words = screen(tab).locator(".lines p").last
    expect(words).to_contain_text("The meeting")
    size = tab.page.viewport_size
    assert size
    letters = float(words.evaluate("it => parseFloat(getComputedStyle(it).fontSize)"))
    assert 0.05 * size["width"] <= letters <= 0.1 * size["width"]
    window, leave = screen(tab).locator(".window").bounding_box(), screen(tab).get_by_role("button").bounding_box()
    assert window
    assert leave
    assert window["y"] >= 0
    assert window["y"] + window["height"] <= leave["y"]
    assert leave["y"] + leave["height"] <= size["height"]
    assert screen(tab).evaluate("it => it.scrollWidth <= innerWidth")
    for part in (".settled", ".tentative"):
        assert contrast(words.locator(part)) >= 7
    assert contrast(screen(tab).get_by_role("status")) >= 7


@pytest.mark.parametrize("tab", [{"reduced_motion": "reduce"}], indirect=True)
def test_nothing_rolls_for_those_who_want_no_motion(tab: Tab) -> None:
    recording = open_screen(tab)
    recording.on_events([partial(100, SENTENCE * 5, 0)])
    lines = screen(tab).locator(".lines")
    expect(lines).not_to_have_css("transform", "none")
    expect(lines).to_have_css("transition-duration", "0s")
