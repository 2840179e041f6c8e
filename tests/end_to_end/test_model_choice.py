"""The page of a server with several models: the drop-down, what it chooses, and that it is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from qwen_asr.service.service import Service
from tests.support.accessibility import violations
from tests.support.browser import MARKS, Served, Tab, serving, small_config, unfinished_recording
from tests.support.checkpoints import save_other_demo
from tests.support.processes import until

pytestmark = MARKS


@pytest.fixture(scope="module")
def both(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the demo and another checkpoint."""
    other = save_other_demo(tmp_path_factory.mktemp("models") / "other")
    service = Service(small_config(asr_model_path=("demo", str(other)), device="cpu", quantize="none"))
    service.start()
    assert service.wait(120) == "ready", service.text
    with serving(service, certificates) as served:
        yield served


def test_a_recording_has_the_model_that_is_chosen_which_is_remembered(
    chromium: Browser, both: Served, axe: str
) -> None:
    with Tab(chromium, both.url) as tab:
        page = tab.page
        tab.wait_status("Ready")
        model = page.get_by_label("Model", exact=True)
        expect(model).to_have_value("demo")
        page.get_by_role("tab", name="Settings").click()
        page.get_by_label("Remember the fields above").check()
        model.click()
        page.get_by_role("option", name="other").click()
        page.wait_for_function("document.querySelector('#microphone').options?.model === 'other'")
        assert violations(page, axe) == []
        page.reload()
        tab.wait_status("Ready")
        expect(model).to_have_value("other")
        page.wait_for_function("document.querySelector('#microphone').options?.model === 'other'")
        # It is loaded now. The page waits for it, and its audio too.
        tab.record()
        recording = unfinished_recording(both)
        assert recording.options.model == "other"
        assert until(lambda: any("bedroom" in text for text in tab.texts()), 120)
        # Another choice is for the next recording.
        model.click()
        page.get_by_role("option", name="demo").click()
        page.wait_for_function("document.querySelector('#microphone').options?.model === 'demo'")
        tab.button("Stop").click()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert recording.options.model == "other"
        assert recording.refused is None
        tab.record()
        assert unfinished_recording(both).options.model == "demo"
        tab.button("Stop").click()
        tab.proof()
        assert tab.problems == []


def test_the_drop_down_is_in_the_language_of_the_page(chromium: Browser, both: Served) -> None:
    with Tab(chromium, both.url, locale="zh-CN") as tab:
        tab.wait_status("就绪")
        expect(tab.page.get_by_label("模型", exact=True)).to_have_value("demo")
        expect(tab.page.locator("#model-choice")).to_contain_text("从下一次录音或下一个文件起生效。")


def test_a_server_with_one_model_has_no_drop_down(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        expect(tab.page.locator("#language")).to_be_visible()
        expect(tab.page.locator("#model-choice")).to_have_count(0)
