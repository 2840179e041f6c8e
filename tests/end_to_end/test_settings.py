"""The Settings tab: each choice takes effect at once, is there on the next visit, and can be taken back."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Browser, Page, expect

from qwen_asr.live.events import Final
from tests.support.browser import MARKS, Served, Tab, unfinished_recording
from tests.support.processes import until

pytestmark = MARKS

STORED = "JSON.parse(localStorage.getItem('qwen-asr.settings') ?? '{}')"
BROKEN_STORAGE = (
    """Object.defineProperty(window, "localStorage", { get() { throw new DOMException("no", "SecurityError"); } });"""
)
LATE_LOAD = """addEventListener("DOMContentLoaded", () => {
  const load = pageSettings.load.bind(pageSettings);
  pageSettings.load = async (fields) => {
    const updates = load(fields);
    await new Promise((resolve) => { window.finishLoad = resolve; });
    return updates;
  };
});"""
LANGUAGES_SEEN = """addEventListener("DOMContentLoaded", () => {
  window.seen = [document.documentElement.lang];
  new MutationObserver(() => window.seen.push(document.documentElement.lang))
    .observe(document.documentElement, { attributeFilter: ["lang"] });
});"""


def open_settings(tab: Tab, name: str = "Settings") -> None:
    tab.page.get_by_role("tab", name=name).click()
    tab.page.locator("#page-language").wait_for()


def choose(page: Page, group: str, value: str) -> None:
    """Picks a choice of a group of radio buttons, by the value that is sent, which has no language."""
    page.locator(f"#{group} input[value='{value}']").check()


def stored(tab: Tab) -> dict[str, Any]:
    """What the browser keeps, without what is not chosen."""
    return {name: value for name, value in tab.page.evaluate(STORED).items() if value is not None}


def wait_stored(tab: Tab, **expected: Any) -> None:
    """Waits until the browser keeps exactly this: Gradio hands a choice on some time after the click."""
    assert until(lambda: stored(tab) == expected), stored(tab)


def test_the_page_changes_its_language_at_once_and_the_recording_goes_on(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        page = tab.page
        tab.record()
        recording = unfinished_recording(served)
        recording.on_events([Final(100, 0, 16_000, "English", "Turn on the light.", 0.0)])
        open_settings(tab)
        choose(page, "page-language", "zh")
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page).to_have_title("Qwen3-ASR 实时转写")
        expect(page.locator("header h1")).to_have_text("Qwen3-ASR 实时转写")
        expect(page.get_by_label("上下文", exact=True)).to_have_attribute("placeholder", "人名和术语（可选）")
        expect(page.locator("#settings h2")).to_have_text("设置")
        expect(page.locator("#pause-length")).to_contain_text("与服务器相同（0.8 秒）")
        # English names are what a recording gets, whatever they are called on the page.
        page.get_by_label("语言", exact=True).click()
        page.get_by_role("option", name="德语", exact=True).click()
        page.wait_for_function("document.querySelector('#microphone').options?.language === 'German'")
        page.get_by_role("tab", name="实时").click()
        assert tab.status() == "正在聆听"
        expect(page.get_by_role("button", name="麦克风有问题？")).to_be_visible()
        assert unfinished_recording(served) is recording
        tab.button("停止").click()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert "Turn on the light." in tab.texts()
        open_settings(tab, "设置")
        choose(page, "page-language", "en")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        assert tab.status() == "Ready"
        expect(page.get_by_role("tab", name="Live")).to_be_visible()
        assert tab.problems == []


def test_the_language_is_the_browsers_until_one_is_chosen(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, LANGUAGES_SEEN, locale="zh-TW") as tab:
        page = tab.page
        tab.wait_status("就绪")
        expect(page.get_by_role("tab", name="设置")).to_be_visible()
        assert set(page.evaluate("seen")) == {"zh-CN"}  # from the first moment on
        open_settings(tab, "设置")
        choose(page, "page-language", "en")
        expect(page.locator("#status")).to_have_text("Ready")  # in the tab that is not shown
        page.reload()
        tab.wait_status("Ready")
        expect(page.get_by_role("tab", name="Settings")).to_be_visible()
        assert set(page.evaluate("seen")) == {"en"}
        # Gradio's own words follow after the reload.
        page.get_by_role("button", name="Trouble with the microphone").click()
        expect(page.locator("#stock-recorder").get_by_role("button", name="Record")).to_be_visible()
    with Tab(chromium, served.url, locale="fr-FR") as tab:
        tab.wait_status("Ready")
        expect(tab.page.locator("html")).to_have_attribute("lang", "en")


def test_a_theme_that_is_chosen_outlasts_the_systems(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, color_scheme="light") as tab:
        page = tab.page
        body = page.locator("body")
        open_settings(tab)
        choose(page, "page-theme", "dark")
        expect(body).to_have_class("dark")
        page.emulate_media(color_scheme="dark")
        page.emulate_media(color_scheme="light")
        expect(body).to_have_class("dark")
        page.reload()
        tab.wait_status("Ready")
        expect(body).to_have_class("dark")
        open_settings(tab)
        expect(page.locator("#page-theme input[value='dark']")).to_be_checked()
        choose(page, "page-theme", "auto")
        expect(body).not_to_have_class("dark")
        page.emulate_media(color_scheme="dark")
        expect(body).to_have_class("dark")


def test_text_size_and_pause_length_are_kept(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        page = tab.page
        transcript = page.locator("#transcript")
        open_settings(tab)
        choose(page, "font-size", "2")
        choose(page, "pause-length", "1.5")
        expect(transcript).to_have_css("font-size", "32px")
        wait_stored(tab, fontSize=2, pauseSeconds=1.5)
        page.reload()
        tab.wait_status("Ready")
        expect(transcript).to_have_css("font-size", "32px")
        open_settings(tab)
        expect(page.locator("#pause-length input[value='1.5']")).to_be_checked()
        tab.button("Reset settings").click()
        expect(page.locator("#pause-length input[value='auto']")).to_be_checked()
        expect(transcript).to_have_css("font-size", "18.4px")
        wait_stored(tab)


def test_arrow_keys_choose_within_a_group_that_has_a_name(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        open_settings(tab)
        page = tab.page
        group = page.get_by_role("radiogroup", name="Text size", exact=True)
        expect(group.get_by_role("radio")).to_have_count(5)
        group.get_by_role("radio", name="Medium", exact=True).focus()
        for key, size in [("ArrowDown", 1.5), ("ArrowDown", 2), ("ArrowUp", 1.5)]:
            page.keyboard.press(key)
            wait_stored(tab, fontSize=size)
            expect(group.locator(f"input[value='{size}']")).to_be_focused()
        # One stop of the Tab key for each group, and the words follow the page's language.
        page.keyboard.press("Tab")
        expect(page.locator("#pause-length input[value=auto]")).to_be_focused()
        choose(page, "page-language", "zh")
        expect(page.get_by_role("radiogroup", name="文字大小", exact=True)).to_be_visible()
        page.locator("#font-size input[value='1.5']").focus()
        page.keyboard.press("ArrowUp")
        wait_stored(tab, fontSize=1.15, language="zh")
        assert tab.problems == []


def test_what_is_typed_while_the_page_still_loads_stays(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, LATE_LOAD) as tab:
        page = tab.page
        page.wait_for_function("Boolean(window.finishLoad)")
        page.get_by_label("Context", exact=True).fill("Frau Özdemir")
        page.evaluate("finishLoad()")
        tab.wait_status("Ready")
        page.wait_for_function("document.querySelector('#microphone').options?.context === 'Frau Özdemir'")
        expect(page.get_by_label("Context", exact=True)).to_have_value("Frau Özdemir")


def test_language_and_context_are_remembered_only_if_the_user_says_so(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        page = tab.page
        context, language = page.get_by_label("Context", exact=True), page.get_by_label("Language", exact=True)
        tab.wait_status("Ready")
        context.fill("Frau Özdemir")
        page.wait_for_function("document.querySelector('#microphone').options?.context")
        assert "Özdemir" not in json.dumps(stored(tab), ensure_ascii=False)
        page.reload()
        tab.wait_status("Ready")
        expect(context).to_have_value("")
        open_settings(tab)
        page.get_by_label("Remember the fields above").check()
        context.fill("Frau Özdemir")
        language.click()
        page.get_by_role("option", name="German", exact=True).click()
        page.wait_for_function(f"{STORED}.spokenLanguage === 'German'")
        page.reload()
        tab.wait_status("Ready")
        expect(context).to_have_value("Frau Özdemir")
        expect(language).to_have_value("German")
        page.wait_for_function("document.querySelector('#microphone').options?.language === 'German'")
        open_settings(tab)
        page.get_by_label("Remember the fields above").uncheck()
        page.wait_for_function(f"{STORED}.context === null && {STORED}.spokenLanguage === null")
        expect(context).to_have_value("Frau Özdemir")  # what is there stays; it is not kept


def test_without_storage_the_tab_says_so_and_works(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, BROKEN_STORAGE) as tab:
        tab.wait_status("Ready")
        open_settings(tab)
        note = tab.page.locator("#settings-not-kept")
        expect(note).to_contain_text("This browser keeps no settings for this page")
        choose(tab.page, "page-theme", "dark")
        expect(tab.page.locator("body")).to_have_class("dark")
        assert tab.problems == []
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        open_settings(tab)
        expect(tab.page.locator("#settings-not-kept")).to_be_hidden()


def test_on_a_phone_the_options_leave_room_for_the_text(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, viewport={"width": 390, "height": 844}) as tab:
        tab.wait_status("Ready")
        box = tab.page.locator("#options").bounding_box()
        assert box is not None
        assert box["height"] <= 90
        for name in ("Language", "Context"):
            assert (field := tab.page.get_by_label(name, exact=True).bounding_box())
            assert field["height"] >= 24
            assert field["x"] + field["width"] <= 390
