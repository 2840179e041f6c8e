"""Recording in the Live tab: the microphone's choices, changes while it records, interruptions, and the kept audio."""

from __future__ import annotations

import hashlib
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from qwen_asr.live.events import Final, Partial
from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Served, Tab, serving, small_config, unfinished_recording
from tests.support.checkpoints import random_recognizer
from tests.support.processes import until

pytestmark = MARKS

WATCH_MICROPHONE = """const native = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.wishes = [];
navigator.mediaDevices.getUserMedia = async (wish) => {
  window.wishes.push(JSON.parse(JSON.stringify(wish.audio)));
  if (window.gone && wish.audio.deviceId) throw new DOMException("gone", "OverconstrainedError");
  return (window.stream = await native(wish));
};"""
ADVICE = "#advice"
KEEP_ADVICE = """window.said = [];
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  const text = document.querySelector("#advice")?.textContent;
  if (text && text !== said.at(-1)) said.push(text);
}).observe(document.body, { childList: true, characterData: true, subtree: true }));"""


def was_said(tab: Tab, text: str) -> None:
    """Waits until the advice has said `text`, if only for a moment."""
    tab.page.wait_for_function("text => said.some((one) => one.includes(text))", arg=text)


def open_options(tab: Tab) -> None:
    tab.page.locator("#microphone-options summary").click()


def wish(tab: Tab) -> dict[str, Any]:
    """What the page has asked the browser for last."""
    return dict(tab.page.evaluate("wishes.at(-1)"))


def test_the_choices_reach_the_browser_at_the_next_record_and_are_remembered(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, WATCH_MICROPHONE) as tab:
        tab.record()
        defaults = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": True}
        assert wish(tab) == defaults | {"channelCount": {"ideal": 1}}
        open_options(tab)
        device = tab.page.get_by_label("Microphone to use")
        expect(device.locator("option")).not_to_have_count(1)  # their names are known from now on
        names = device.locator("option").all_inner_texts()
        assert names[0] == "The browser's default"
        device.select_option(label=names[-1])
        tab.page.get_by_label("Noise suppression").check()
        tab.page.get_by_label("Automatic level").uncheck()
        assert tab.page.evaluate("wishes.length") == 1
        tab.stop()
        tab.proof()
        tab.page.reload()
        tab.record()
        asked = wish(tab)
        assert (asked["noiseSuppression"], asked["autoGainControl"]) == (True, False)
        open_options(tab)
        assert tab.page.evaluate("stream.getAudioTracks()[0].label") == names[-1]
        expect(tab.page.get_by_label("Noise suppression")).to_be_checked()
        assert tab.page.get_by_label("Microphone to use").locator("option:checked").inner_text() == names[-1]
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.problems == []


def test_a_remembered_microphone_that_is_gone_is_replaced_by_the_default(chromium: Browser, served: Served) -> None:
    kept = {"microphoneId": "gone", "microphoneLabel": "USB of yesterday"}
    forget = f"localStorage.setItem('qwen-asr.settings', {json.dumps(json.dumps(kept))}); window.gone = true;"
    with Tab(chromium, served.url, forget + WATCH_MICROPHONE) as tab:
        tab.record()
        assert [one.get("deviceId") for one in tab.page.evaluate("wishes")] == [{"exact": "gone"}, None]
        open_options(tab)
        note = tab.page.locator("#microphone-note")
        expect(note).to_have_text("“USB of yesterday” is not connected: the browser's default is used.")
        # It is plugged in again, under another id.
        tab.page.evaluate("""() => {
          const list = navigator.mediaDevices.enumerateDevices.bind(navigator.mediaDevices);
          const added = { kind: "audioinput", deviceId: "new", label: "USB of yesterday" };
          navigator.mediaDevices.enumerateDevices = async () => [...await list(), added];
          navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
        }""")
        expect(tab.page.get_by_label("Microphone to use").locator("option", has_text="USB")).to_have_count(1)
        tab.stop()
        tab.proof()
        tab.page.evaluate("window.gone = false")
        tab.button("Record").click()
        tab.wait_status("Listening")  # with the default: Chromium does not have it really
        assert tab.page.evaluate("wishes[2].deviceId") == {"exact": "new"}
        tab.stop()
        tab.proof()


def test_the_level_is_shown_before_any_text(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        meter = tab.page.get_by_role("meter", name="Level of the microphone")
        expect(meter).to_be_hidden()
        tab.record()
        expect(tab.page.locator("#heard")).to_have_text("The microphone hears you.")
        tab.page.wait_for_function("document.querySelector('#level').getAttribute('aria-valuenow') > -40")
        assert "dB" in (meter.get_attribute("aria-valuetext") or "")
        expect(tab.page.locator("#lag")).to_contain_text("s behind")
        tab.stop()
        tab.proof()
        expect(meter).to_be_hidden()


def choose_language(tab: Tab, name: str) -> None:
    tab.page.get_by_label("Language", exact=True).click()
    tab.page.get_by_role("option", name=name, exact=True).click()


def test_language_context_and_pause_change_while_it_records(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, KEEP_ADVICE) as tab:
        tab.record()
        recording = unfinished_recording(served)
        choose_language(tab, "Spanish")
        was_said(tab, "Spanish from the next sentence on.")
        assert until(lambda: recording.options.language == "Spanish")
        first = recording._options_from
        assert first is not None
        recording.on_events([Partial(first, 0, 16_000, "Spanish", "Hola", 0, 0.0)])
        expect(tab.page.locator(ADVICE)).not_to_contain_text("from the next sentence on")
        recording.on_events([Final(first, 0, 16_000, "Spanish", "Hola.", 0.0)])
        tab.page.get_by_label("Context").fill("Señora Özdemir")
        was_said(tab, "The new context holds from the next sentence on.")
        assert until(lambda: recording.options.context == "Señora Özdemir")
        # The Settings tab writes the pause length here.
        change = "new CustomEvent('qwen-asr-settings', { detail: { pauseSeconds: 2.5 } })"
        tab.page.evaluate(f"document.dispatchEvent({change})")
        was_said(tab, "The new pause length holds from the next sentence on.")
        assert until(lambda: recording.options.endpoints.silence_seconds == 2.5)
        assert recording.options.language == "Spanish"
        tab.page.evaluate(f"document.dispatchEvent({change.replace('2.5', '50')})")
        expect(tab.page.locator(ADVICE)).to_contain_text("must be from 0.1 to 10")
        assert tab.status() == "Listening"
        tab.capture(0.5)
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.problems == []


def test_the_time_that_is_left_is_shown_and_its_end_is_announced(chromium: Browser, certificates: Path) -> None:
    service = Service(small_config(max_session_seconds=1000.0), random_recognizer())
    with serving(service, certificates) as served, Tab(chromium, served.url) as tab:
        tab.record()
        expect(tab.page.locator("#left")).to_have_text("16 min left")
        expect(tab.page.locator(ADVICE)).to_be_empty()
        recording = unfinished_recording(served)
        for seconds, left, warning in [
            (290, "4 min left", "less than 5 minutes"),
            (50, "less than 1 min left", "a minute"),
        ]:
            recording._time_limit_at = recording._clock() + seconds
            expect(tab.page.locator("#left")).to_have_text(left)
            expect(tab.page.locator(ADVICE)).to_contain_text(warning)
        tab.stop()
        tab.proof()
        expect(tab.page.locator("#left")).to_be_empty()


def saved_wav(tab: Tab, folder: Path) -> tuple[int, bytes]:
    """Presses WAV; returns the rate and the samples of the file."""
    with tab.page.expect_download() as download:
        tab.button("Download as WAV").click()
    path = folder / "saved.wav"
    download.value.save_as(path)
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), file.readframes(file.getnframes())


def test_the_kept_audio_is_what_was_sent_and_outlives_a_reload(
    chromium: Browser, served: Served, tmp_path: Path
) -> None:
    with Tab(chromium, served.url) as tab:
        expect(tab.button("Download as WAV")).to_be_disabled()
        tab.record()
        tab.capture(0.5)
        tab.stop()
        tab.proof()
        expect(tab.button("Download as WAV")).to_be_disabled()  # nobody has asked for it
        open_options(tab)
        tab.page.get_by_label("Keep the audio").check()
        expected = b""
        for _ in range(2):
            tab.record()
            tab.capture(2.5)
            tab.stop()
            proof = tab.proof()
            rate, samples = saved_wav(tab, tmp_path)
            assert rate == int(proof["rate"])
            recorded = samples[len(expected) :]
            assert samples.startswith(expected)
            assert len(recorded) == int(proof["bytes"])
            assert hashlib.sha256(recorded).hexdigest() == proof["serverSha256"] == proof["sha256"]
            expected = samples
        tab.page.reload()
        expect(tab.button("Download as WAV")).to_be_enabled()
        assert saved_wav(tab, tmp_path)[1] == expected
        tab.button("Clear").click()
        expect(tab.button("Download as WAV")).to_be_disabled()
        tab.page.evaluate("document.dispatchEvent(new Event('qwen-asr-restored'))")  # Undo
        assert saved_wav(tab, tmp_path)[1] == expected
        tab.button("Clear").click()
        tab.page.reload()
        tab.wait_status("Ready")
        expect(tab.button("Download as WAV")).to_be_disabled()
        count = """new Promise((resolve) => {
          const open = indexedDB.open("qwen-asr-audio");
          open.onsuccess = () => {
            const request = open.result.transaction("blocks").objectStore("blocks").count();
            request.onsuccess = () => resolve(request.result);
          };
        })"""
        assert until(lambda: tab.page.evaluate(count) == 0)
        assert tab.problems == []


def test_where_the_browser_cannot_store_it_says_so_and_records(
    chromium: Browser, served: Served, tmp_path: Path
) -> None:
    full = """IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };"""
    with Tab(chromium, served.url, full) as tab:
        open_options(tab)
        tab.page.get_by_label("Keep the audio").check()
        tab.record()
        expect(tab.page.locator(ADVICE)).to_contain_text("storage is full: the audio is no longer kept")
        tab.capture(0.5)
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.problems == []
    without = """Object.defineProperty(window, "indexedDB", { value: undefined });"""
    with Tab(chromium, served.url, without) as tab:
        open_options(tab)
        tab.page.get_by_label("Keep the audio").check()
        tab.record()
        tab.capture(1.5)
        expect(tab.page.locator("#kept")).to_contain_text("until this page is closed")
        tab.stop()
        proof = tab.proof()
        assert hashlib.sha256(saved_wav(tab, tmp_path)[1]).hexdigest() == proof["serverSha256"]


def test_alt_r_records_and_stops_also_from_the_context(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        button = tab.button("Record")
        assert button.get_attribute("aria-keyshortcuts") == "Alt+R"
        assert "Alt+R" in (button.get_attribute("title") or "")
        tab.page.get_by_label("Context").focus()
        tab.page.keyboard.press("r")
        tab.page.keyboard.press("Shift+Alt+R")
        tab.page.keyboard.press("Alt+r")
        tab.wait_status("Listening")
        tab.page.keyboard.press("Alt+r")
        tab.proof()
        expect(tab.page.get_by_label("Context")).to_have_value("r")
        expect(tab.page.get_by_label("Context")).to_be_focused()


def test_a_call_pauses_the_recording_which_goes_on_by_itself(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url, WATCH_MICROPHONE) as tab:
        tab.record()
        tab.capture(1)
        # What iOS does during a call: the track is muted, and no sound comes.
        tab.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('mute'))")
        tab.wait_status("Paused by a call, a locked screen or another app")
        expect(tab.page.get_by_role("meter")).to_be_hidden()
        tab.page.wait_for_timeout(1500)  # the length of the call
        tab.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('unmute'))")
        tab.wait_status("Listening")
        expect(tab.page.locator(ADVICE)).to_contain_text("The microphone was paused at 0:0")
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        expect(tab.page.locator(ADVICE)).to_contain_text("What was said then is missing.")  # it stays to be read


FAKE_WAKE_LOCK = """window.locks = [];
Object.defineProperty(navigator, "wakeLock", { value: { request: async () => {
  const lock = { held: true, release: async () => { lock.held = false; } };
  window.locks.push(lock);
  if (window.slow) await new Promise((resolve) => { window.grant = resolve; });
  return lock;
} } });
window.show = (visible) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => !visible });
  document.dispatchEvent(new Event("visibilitychange"));
};"""


@pytest.fixture
def awake(chromium: Browser, served: Served) -> Iterator[Tab]:
    with Tab(chromium, served.url, FAKE_WAKE_LOCK) as tab:
        yield tab


def test_the_screen_stays_awake_while_it_records(awake: Tab) -> None:
    awake.record()
    awake.page.wait_for_function("locks.length === 1")
    awake.page.evaluate("show(false); locks[0].held = false")  # the browser takes it from a hidden page
    awake.page.evaluate("show(true)")
    awake.page.wait_for_function("locks.length === 2")
    awake.page.evaluate("window.slow = true; show(true)")
    awake.page.wait_for_function("typeof grant === 'function'")
    awake.stop()
    awake.proof()
    awake.page.evaluate("grant()")  # it comes after Stop
    awake.page.wait_for_function("locks.every(({ held }) => !held)")
