"""`app.py` on Hugging Face Spaces, which are imitated by their environment, and its page in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
import torch
from playwright.sync_api import Browser, FilePayload, Locator, expect

from qwen_asr.web.access.response_headers import SPACE_FRAMES
from tests.support.accessibility import violations
from tests.support.browser import MARKS, Tab
from tests.support.checkpoints import random_parts, save_aligner, to_original_layout
from tests.support.processes import until
from tests.support.rest_client import SENTENCES
from tests.support.rest_client import speech as sentences
from tests.support.spaces import Space, require_spaces, space, zero_gpu_space
from tests.support.zero_gpu_scheduler import Scheduler, zero_gpu_scheduler

pytestmark = [*MARKS, pytest.mark.slow]

WORDS = re.compile(r"\w+( \w+)+\.")
"""Some words. Which they are is tested with files: a busy machine loses some of what the false microphone plays."""
TOKEN = ".".join(["", base64.urlsafe_b64encode(json.dumps({"user": "somebody"}).encode()).decode().rstrip("="), ""])
"""What Hugging Face's proxy adds to the requests of a visitor: a JWT. Its signature is for the scheduler."""


def check_live(tab: Tab) -> None:
    """Records what Chromium hears: all of it arrives, and words appear."""
    tab.record()
    tab.capture(7)
    tab.stop()
    proof = tab.proof()
    assert proof["sha256"] == proof["serverSha256"]
    assert WORDS.search(" ".join(tab.texts()))


def test_on_a_cpu_the_page_is_live_and_may_be_framed_by_hugging_face(chromium: Browser, tmp_path: Path) -> None:
    with space(tmp_path) as started, Tab(chromium, started.url) as tab:
        check_live(tab)
        assert frame_ancestors(started) == SPACE_FRAMES
        expect(tab.page.get_by_text("Live recording is not offered")).to_have_count(0)


def test_with_hardware_of_its_own_the_package_spaces_changes_nothing(chromium: Browser, tmp_path: Path) -> None:
    """A Gradio Space has the package with any hardware; without ZeroGPU the page is live, on the CPU here."""
    require_spaces()
    with space(tmp_path, SPACES_ZERO_GPU="false") as started, Tab(chromium, started.url) as tab:
        check_live(tab)


@pytest.mark.gpu
def test_on_a_gpu_the_page_is_live_on_it(chromium: Browser, tmp_path: Path) -> None:
    """A GPU Space differs from a CPU Space only in that torch finds CUDA, which nothing can imitate."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with space(tmp_path) as started, Tab(chromium, started.url) as tab:
        check_live(tab)
        assert "on cuda" in started.said()


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    with zero_gpu_scheduler() as one:
        yield one


@pytest.fixture(scope="module")
def zero_gpu(scheduler: Scheduler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with zero_gpu_space(tmp_path_factory.mktemp("zero-gpu"), scheduler) as started:
        yield started
    assert until(lambda: not any(Path(f"/proc/{process}").exists() for process in scheduler.processes))


@pytest.fixture
def visitor(chromium: Browser, zero_gpu: Space, scheduler: Scheduler) -> Iterator[Tab]:
    """The page of a visitor whom Hugging Face knows."""
    scheduler.reset()
    with Tab(chromium, zero_gpu.url, extra_http_headers={"X-IP-Token": TOKEN}) as tab:
        yield tab
        assert tab.problems == [], tab.console_errors


def choose_file(tab: Tab, content: bytes = b"", name: str = "speech.wav") -> None:
    """Chooses a file and presses the button."""
    tab.page.get_by_role("tab", name="File").click()
    chosen: FilePayload = {"name": name, "mimeType": "audio/wav", "buffer": content or sentences()}
    tab.page.locator("#file input[type=file]").set_input_files([chosen])
    expect(tab.page.locator("#file").get_by_text(name.partition(".")[0]).first).to_be_visible()
    tab.button("Transcribe the file").click()


def transcript(tab: Tab) -> Locator:
    return tab.page.locator("#text textarea")


def refusal(tab: Tab) -> str:
    """The sentence of the error that the page shows."""
    shown = tab.page.get_by_test_id("toast-text")
    expect(shown).to_have_count(1)
    return shown.inner_text()


def frame_ancestors(started: Space) -> str:
    policy = httpx.get(started.url).headers["content-security-policy"]
    found = re.search("frame-ancestors (.*)", policy)
    assert found is not None, policy
    return found[1]


def test_zero_gpu_says_that_it_is_not_live_and_may_be_framed(visitor: Tab, zero_gpu: Space) -> None:
    expect(visitor.page.get_by_text("Live recording is not offered here.")).to_be_visible()
    assert frame_ancestors(zero_gpu) == SPACE_FRAMES


def test_zero_gpu_transcribes_a_file_on_the_gpu_and_saves_it(visitor: Tab, scheduler: Scheduler) -> None:
    choose_file(visitor)
    expect(transcript(visitor)).to_have_value(" ".join(SENTENCES))
    [asked] = [given for path, given in scheduler.asked if path == "/schedule"]
    assert int(asked["durationSeconds"]) in (22, 33)  # of some GPUs a second counts as one and a half
    assert asked["token"] == TOKEN
    assert until(lambda: scheduler.paths() == ["/schedule", "/allow", "/release"])
    assert scheduler.asked[-1][1]["fail"] == "false"
    with visitor.page.expect_download() as saved:
        visitor.button("SRT").click()
    assert "00:00:0" in saved.value.path().read_text()
    assert SENTENCES[0] in saved.value.path().read_text()
    assert saved.value.suggested_filename == "transcript.srt"


def test_zero_gpu_transcribes_a_recording(visitor: Tab) -> None:
    visitor.button("Record").click()
    expect(visitor.page.get_by_text(re.compile(r"^0:(0[7-9]|[1-5]\d)$"))).to_be_visible()  # the recorder's clock
    visitor.button("Stop").click()
    visitor.button("Transcribe the recording").click()
    expect(transcript(visitor)).to_have_value(WORDS)


def test_zero_gpu_says_what_is_wrong_with_a_file_before_it_asks_for_a_gpu(visitor: Tab, scheduler: Scheduler) -> None:
    choose_file(visitor, b"not audio")
    assert refusal(visitor).startswith("The file cannot be read as audio")
    assert scheduler.asked == []


def test_zero_gpu_says_that_the_quota_is_used_up(visitor: Tab, scheduler: Scheduler) -> None:
    scheduler.left = 3
    choose_file(visitor)
    assert re.fullmatch(
        r"Your GPU time of today does not suffice for this clip\. You have exceeded your ZeroGPU quota \(\d+s "
        r"requested vs\. 3s left\)\. Try again in 0:10:00\. Transcribe a shorter one, or log in to Hugging Face .*",
        refusal(visitor),
    )
    scheduler.left = 100  # the page is still good
    visitor.button("Transcribe the file").click()
    expect(transcript(visitor)).to_have_value(" ".join(SENTENCES))


def test_zero_gpu_says_that_the_gpu_was_taken_back(visitor: Tab, scheduler: Scheduler) -> None:
    scheduler.takes_back = True
    choose_file(visitor, sentences(40))  # some minutes of speech, so that it is not done before
    assert refusal(visitor).startswith("The GPU was taken back before the clip was transcribed")
    assert until(lambda: scheduler.asked[-1] == ("/release", {"allowToken": "token", "fail": "true"}))


def test_zero_gpu_says_what_the_recognizer_refuses(visitor: Tab) -> None:
    visitor.page.get_by_label("Context").fill("<|im_end|>")
    choose_file(visitor)
    assert "is a control token of the model: remove it." in refusal(visitor)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_zero_gpu_is_accessible(visitor: Tab, axe: str, scheme: Literal["light", "dark"]) -> None:
    visitor.page.emulate_media(color_scheme=scheme)
    expect(visitor.page.locator("body.dark")).to_have_count(int(scheme == "dark"))
    choose_file(visitor)
    expect(visitor.button("SRT")).to_be_enabled()
    assert violations(visitor.page, axe) == []


def test_zero_gpu_speaks_chinese(chromium: Browser, zero_gpu: Space) -> None:
    with Tab(chromium, zero_gpu.url, locale="zh-CN") as tab:
        expect(tab.button("转写录音")).to_be_visible()
        expect(tab.page.get_by_text("此处不提供实时录音。")).to_be_visible()
        expect(tab.page.get_by_role("tab", name="文件")).to_be_visible()


def test_zero_gpu_takes_weights_in_16_bits_and_an_aligner(
    chromium: Browser, scheduler: Scheduler, tmp_path: Path
) -> None:
    """In Qwen's layout. They are random, so that the words have no meaning."""
    model, processor = random_parts()
    model.save_pretrained(tmp_path / "recognizer")
    processor.save_pretrained(tmp_path / "recognizer")
    to_original_layout(tmp_path / "recognizer")
    save_aligner(tmp_path / "aligner")
    options = {
        "QWEN_ASR_MODEL_PATH": str(tmp_path / "recognizer"),
        "QWEN_ASR_ALIGNER_MODEL_PATH": str(tmp_path / "aligner"),
        "QWEN_ASR_MAX_NEW_TOKENS": "20",
    }
    scheduler.reset()
    with zero_gpu_space(tmp_path, scheduler, **options) as started, Tab(chromium, started.url) as tab:
        assert "on cuda in bfloat16" in started.said()
        choose_file(tab)
        expect(tab.button("JSON")).to_be_enabled()
        with tab.page.expect_download() as saved:
            tab.button("JSON").click()
        found = json.loads(saved.value.path().read_text())
    assert [bool(utterance["words"]) for utterance in found["utterances"]] == [True] * len(SENTENCES)
