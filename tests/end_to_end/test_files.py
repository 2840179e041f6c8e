"""The File tab in a browser: progress, text, player, queue, links, downloads, and what is left on the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import srt
import webvtt
from playwright.sync_api import Browser, Locator, expect

from qwen_asr.service.service import Service
from qwen_asr.web.temporary_files import private_folder
from tests.support.accessibility import contrast, violations
from tests.support.browser import MARKS, Served, Tab, serving, small_config
from tests.support.checkpoints import spoken
from tests.support.processes import until
from tests.support.rest_client import SENTENCES, speech, wav

pytestmark = [*MARKS, pytest.mark.slow]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LONG_MS = 600_000


@pytest.fixture(scope="module")
def temporary_folder() -> Iterator[Path]:
    """The folder for all temporary files of the server, as `serve` makes it."""
    with private_folder() as folder:
        yield folder


class Holding:
    """ASGI middleware that can hold the answer to `long.wav` after its first line of text.

    The file is then under way until it is cancelled, however slow the browser is.
    """

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Holds them within."""
        self.go_on.clear()
        try:
            yield
        finally:
            self.go_on.set()

    def around(self, app: Any) -> Any:
        """The middleware."""

        async def holding(scope: Any, receive: Any, send: Any) -> None:
            size = int(dict(scope.get("headers", [])).get(b"content-length", 0))
            has_text = False

            async def sending(message: Any) -> None:
                nonlocal has_text
                if has_text:
                    await asyncio.to_thread(self.go_on.wait)
                has_text = has_text or b'"text"' in message.get("body", b"")
                await send(message)

            await app(scope, receive, sending if size > 10_000_000 else send)

        return holding


@pytest.fixture(scope="module")
def hold() -> Holding:
    return Holding()


@pytest.fixture(scope="module")
def demo(temporary_folder: Path, hold: Holding) -> Iterator[Served]:
    """A server with the demo, which transcribes and finds the times of words. Its links may lead to this machine."""
    service = Service(small_config(asr_model_path=("demo",), file_links="127.0.0.0/8", max_new_tokens=200))
    service.start()
    assert service.wait(120) == "ready"
    with serving(service, None, hold.around) as server:
        yield server


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings: `short.wav` has three sentences, `long.wav` ten minutes of them."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "short.wav").write_bytes(speech())
    (folder / "long.wav").write_bytes(ten_minutes())
    (folder / "text.wav").write_text("not audio")
    (folder / "page.html").write_text("<!doctype html><title>A page</title>")
    return folder


def ten_minutes() -> bytes:
    """A sentence every ten seconds. The pauses make it quick: silence costs little."""
    sentences = [np.pad(spoken(text), (8_000, 0)) for text in SENTENCES]
    return wav(np.concatenate([np.pad(one, (0, 160_000 - len(one))) for one in sentences * 20]))


# Notes each change of the first card: its state, the number of its lines, and its progress from 0 to 1.
NOTE_CHANGES = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const card = document.querySelector("#files .file");
    if (!card) return;
    seen.push([card.dataset.state, card.querySelectorAll(".line").length, card.querySelector("progress").value]);
  }).observe(document.querySelector("#files"), {subtree: true, childList: true, attributes: true, characterData: true});
}"""


class FileTab(Tab):
    """A page at its File tab."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        super().__init__(browser, url, **options)
        self.page.get_by_role("tab", name="File", exact=True).click()
        self.page.locator("#files .drop").wait_for()

    def choose(self, *files: Path) -> None:
        """Chooses files, as in the browser's dialog."""
        self.page.get_by_label("Choose files").set_input_files(list(files))

    def link(self, address: str) -> None:
        """Adds a link."""
        self.page.get_by_label("Link to a file").fill(address)
        self.button("Add link").click()

    def card(self, index: int = 0) -> Locator:
        """The card of a file."""
        return self.page.locator("#files .file").nth(index)

    def wait_for(self, state: str, index: int = 0, timeout: float = 120_000) -> None:
        """Waits until the file is in a state."""
        expect(self.card(index)).to_have_attribute("data-state", state, timeout=timeout)

    def lines(self, index: int = 0) -> list[str]:
        """The text of a file, line by line."""
        return self.card(index).locator(".line .text").all_inner_texts()

    def download(self, name: str, index: int = 0) -> str:
        """What a download holds."""
        with self.page.expect_download() as downloading:
            self.card(index).get_by_role("button", name=f"as {name}").click()
        return Path(downloading.value.path()).read_text(encoding="utf-8")


def start_of(word: Locator) -> float:
    """Where a word begins, in seconds."""
    return float(word.get_attribute("data-start") or 0)


def is_idle(served: Served, folder: Path) -> bool:
    """Whether the server holds nothing for any file: no session, no slot, and no temporary file, named or not."""
    service = served.service
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink():
            try:
                targets.append(str(link.readlink()))
            except OSError:  # closed meanwhile
                continue
    # The folder itself is open, because it is locked.
    stored = [path for path in targets if path.startswith(f"{folder}/")]
    named = [path for path in folder.rglob("*") if path.is_file()]
    return not (service.sessions.open_by_kind()["rest"] or service.admission.admitted or stored or named)


def test_ten_minutes(chromium: Browser, demo: Served, media: Path, temporary_folder: Path) -> None:
    with FileTab(chromium, demo.url) as tab:
        tab.page.evaluate(NOTE_CHANGES)
        tab.choose(media / "long.wav")
        expect(tab.card().locator(".line")).not_to_have_count(0, timeout=LONG_MS)
        # The page's other tab in between changes nothing.
        tab.page.get_by_role("tab", name="Live", exact=True).click()
        tab.page.get_by_role("tab", name="File", exact=True).click()
        tab.wait_for("done", timeout=LONG_MS)
        assert tab.lines() == list(SENTENCES) * 20
        expect(tab.card().locator(".state")).to_have_text("Done: 10:00 of audio")
        seen = tab.page.evaluate("seen")
        under_way = [(lines, value) for state, lines, value in seen if state == "transcribing" and 0 < value < 1]
        assert len({value for _, value in under_way}) > 2
        assert any(lines for lines, _ in under_way)  # text long before the end
        assert (tab.console_errors, tab.problems) == ([], [])
    assert until(lambda: is_idle(demo, temporary_folder))


def test_the_player_and_its_text_follow_each_other(chromium: Browser, demo: Served, media: Path) -> None:
    with FileTab(chromium, demo.url) as tab:
        tab.choose(media / "short.wav")
        tab.wait_for("done")
        card = tab.card()
        player = card.locator("audio")
        player.evaluate("element => { element.playbackRate = 1 / 16; }")  # so that a word lasts for seconds
        position = "element => element.currentTime"
        word = card.locator(".word", has_text="Monday")
        start = start_of(word)
        word.click()
        expect(word).to_have_class("word now")
        expect(card.locator(".line[aria-current=true]")).to_have_text("0:03The meeting is on Monday the tenth of May.")
        assert start <= player.evaluate(position) < start + 60
        player.evaluate("element => element.pause()")
        # The keyboard: into the text, to its second word, and play from there.
        card.get_by_role("region", name="Text of short.wav").focus()
        for _ in range(3):
            tab.page.keyboard.press("ArrowRight")
        second = card.locator(".word").nth(1)
        expect(second).to_be_focused()
        player.evaluate("element => { element.currentTime = 0; }")
        tab.page.keyboard.press("Enter")
        expect(second).to_have_class("word now")
        player.evaluate("element => element.pause()")
        tab.page.keyboard.press("ArrowLeft")
        expect(card.locator(".word").first).to_be_focused()
        tab.page.keyboard.press("Escape")
        expect(card.locator(".lines")).to_be_focused()
        # The time of a line, too.
        card.get_by_role("button", name="Play from 0:07").click()
        expect(card.locator(".line").nth(2)).to_have_attribute("aria-current", "true")
        assert (tab.console_errors, tab.problems) == ([], [])


def test_downloads_can_be_read_by_others(chromium: Browser, demo: Served, media: Path) -> None:
    with FileTab(chromium, demo.url) as tab:
        tab.choose(media / "short.wav")
        tab.wait_for("done")
        assert tab.download("TXT").splitlines() == list(SENTENCES)
        assert [cue.content for cue in srt.parse(tab.download("SRT"))] == list(SENTENCES)
        captions = webvtt.from_string(tab.download("VTT"))
        assert [caption.text for caption in captions.captions] == list(SENTENCES)
        assert '"words"' in tab.download("JSON")
        assert tab.problems == []


def test_a_queue_with_a_wrong_file_a_link_and_a_retry(
    chromium: Browser, demo: Served, media: Path, temporary_folder: Path, hold: Holding
) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(media))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere, FileTab(chromium, demo.url) as tab:
        thread = threading.Thread(target=elsewhere.serve_forever)
        thread.start()
        here = f"http://127.0.0.1:{elsewhere.server_port}"
        with hold():
            tab.choose(media / "long.wav", media / "text.wav", media / "short.wav")
            tab.link(f"{here}/short.wav")
            tab.wait_for("transcribing")
            assert [tab.card(index).get_attribute("data-state") for index in (1, 2, 3)] == ["waiting"] * 3
            assert tab.page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
            expect(tab.card().locator(".line")).not_to_have_count(0)
            tab.button("Cancel long.wav").click()
            tab.wait_for("cancelled")
        assert tab.lines()[0] == SENTENCES[0]
        tab.wait_for("failed", 1)
        expect(tab.card(1).locator(".state")).to_contain_text("cannot be read as audio")
        for index in (2, 3):
            tab.wait_for("done", index)
            assert tab.lines(index) == list(SENTENCES)
        assert tab.card(3).locator(".name").inner_text() == "short.wav"
        expect(tab.card(3).locator("audio")).to_be_visible()
        assert tab.page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))")
        assert until(lambda: is_idle(demo, temporary_folder))
        # Nothing is loaded from elsewhere by the page itself.
        assert all(address.startswith((demo.url, "blob:", "data:")) for address in tab.requests)
        with hold():
            tab.button("Retry long.wav").click()
            tab.wait_for("transcribing")
            assert tab.lines()[0] == SENTENCES[0]
            tab.button("Cancel long.wav").click()
            tab.wait_for("cancelled")
        tab.button("Clear finished").click()
        expect(tab.page.locator("#files .file")).to_have_count(0)
        elsewhere.shutdown()
        thread.join(60)
        assert (tab.console_errors, tab.problems) == ([], [])


def test_what_is_no_media_file_is_said_in_a_sentence(chromium: Browser, demo: Served, media: Path) -> None:
    with FileTab(chromium, demo.url) as tab:
        tab.link("nonsense")
        expect(tab.page.get_by_role("alert")).to_have_text(
            "This is not the address of a file. It begins with https:// or http://."
        )
        tab.link("http://10.0.0.1/a.wav")
        tab.wait_for("failed")
        expect(tab.card().locator(".state")).to_contain_text("not a public one")
        empty = media / "empty.wav"
        empty.write_bytes(b"")
        tab.choose(empty)
        expect(tab.card(1).locator(".state")).to_have_text("The file is empty. Choose another one.")
        assert tab.problems == []


def test_on_a_phone_nothing_sticks_out(chromium: Browser, demo: Served, media: Path) -> None:
    with FileTab(chromium, demo.url, **PHONE) as tab:
        tab.choose(media / "short.wav", media / "text.wav")
        tab.wait_for("done")
        tab.wait_for("failed", 1)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.page.evaluate(
            "[...document.querySelectorAll('#files :is(button, input, .lines)')].every((node) => {"
            "  const {left, right} = node.getBoundingClientRect(); return left >= 0 && right <= 390; })"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(
    chromium: Browser, demo: Served, media: Path, axe: str, scheme: Any, hold: Holding
) -> None:
    with hold(), FileTab(chromium, demo.url, color_scheme=scheme, bypass_csp=True) as tab:
        tab.choose(media / "short.wav", media / "text.wav", media / "long.wav")
        tab.wait_for("done")
        tab.wait_for("failed", 1)
        tab.wait_for("transcribing", 2)
        word, player = tab.card().locator(".word").nth(2), tab.card().locator("audio")
        word.click()
        # It has played on meanwhile, maybe into a pause between two words.
        player.evaluate("(element, start) => { element.pause(); element.currentTime = start; }", start_of(word) + 0.02)
        expect(word).to_have_class("word now")
        tab.button("Cancel long.wav").click()
        tab.wait_for("cancelled", 2)
        assert violations(tab.page, axe) == []
        assert contrast(tab.card().locator(".word.now")) >= 4.5
        for place in (".state", ".time", ".line.now .text"):
            assert contrast(tab.card().locator(place).first) >= 4.5
        expect(tab.page.locator("#files .announcer")).to_have_text("long.wav: Cancelled")


def test_all_words_follow_the_language_of_the_page(chromium: Browser, demo: Served, media: Path) -> None:
    with FileTab(chromium, demo.url) as tab:
        tab.choose(media / "short.wav", media / "text.wav")
        tab.wait_for("failed", 1)
        tab.page.evaluate("document.dispatchEvent(new CustomEvent('qwen-asr-settings', {detail: {language: 'zh'}}))")
        expect(tab.button("移除 short.wav")).to_be_visible()
        words = tab.page.evaluate("document.querySelector('#files').innerText")
        for kept in (
            "short.wav",
            "text.wav",
            *SENTENCES,
            "TXT",
            "SRT",
            "VTT",
            "JSON",
            "MB",
            "Invalid data found when processing input",
        ):
            words = words.replace(kept, "")
        words = words.replace("wav、flac、mp3、m4a、ogg、webm 或 mp4", "")
        assert not re.search("[A-Za-z]{2}", words), words


def test_files_can_be_dropped(chromium: Browser, demo: Served) -> None:
    with FileTab(chromium, demo.url) as tab:
        data = tab.page.evaluate_handle(
            """(text) => {
              const data = new DataTransfer();
              const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
              data.items.add(new File([bytes], "dropped.wav", {type: "audio/wav"}));
              return data;
            }""",
            base64.b64encode(wav(spoken(SENTENCES[0]))).decode(),
        )
        tab.page.dispatch_event("#files .lead", "dragenter", {"dataTransfer": data})
        expect(tab.page.locator("#files .drop")).to_have_class("drop over")
        tab.page.dispatch_event("#files .lead", "drop", {"dataTransfer": data})
        expect(tab.page.locator("#files .drop")).to_have_class("drop")
        tab.wait_for("done")
        assert tab.lines() == [SENTENCES[0]]
        assert tab.problems == []


def test_language_and_context_of_the_page_count(
    chromium: Browser, demo: Served, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    original = demo.service.session_options

    def session_options(**options: Any) -> Any:
        asked.append(options)
        return original(**options)

    monkeypatch.setattr(demo.service, "session_options", session_options)
    with FileTab(chromium, demo.url) as tab:
        tab.page.get_by_label("Language", exact=True).click()
        tab.page.get_by_role("option", name="English", exact=True).click()
        tab.page.get_by_label("Context").fill("Özdemir")
        tab.page.get_by_label("Context").blur()
        tab.page.wait_for_function("document.querySelector('#microphone').options?.context")
        tab.choose(media / "short.wav")
        tab.wait_for("done")
    assert asked == [{"language": "English", "context": "Özdemir", "model": ""}]
