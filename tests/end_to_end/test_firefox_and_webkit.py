"""Somebody speaks a sentence in Firefox and in WebKitGTK, the engine of Safari, and its text appears on the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Served, serving, small_config, write_wav
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.other_browsers import Desktop, RunScript, firefox, webkit
from tests.support.processes import until

pytestmark = [*MARKS, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

SENTENCE = "The meeting is on Monday the tenth of May."
TRIES = 6
"""On a busy machine the sound server drops samples on the way to the browser, which then hears another sentence."""
LINES = "return [...document.querySelectorAll('#transcript .utterance .words')].map((words) => words.textContent)"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the demo, over HTTPS."""
    with serving(Service(small_config(), demo_recognizer()), tmp_path_factory.mktemp("certs")) as server:
        yield server


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence as a WAV file."""
    return write_wav(tmp_path_factory.mktemp("sentence") / "sentence.wav", spoken(SENTENCE), 16_000)


@pytest.fixture
def desktop(tmp_path: Path, program: Callable[[str], str]) -> Iterator[Desktop]:
    """A screen and a sound server."""
    folder = tmp_path / "home"
    folder.mkdir()
    desktop = Desktop(folder, program)
    yield desktop
    desktop.close()


@pytest.mark.parametrize("browser", [firefox, webkit], ids=lambda browser: browser.__name__)
def test_speech_becomes_text(
    browser: Callable[..., Any], desktop: Desktop, demo: Served, sentence: Path, program: Callable[[str], str]
) -> None:
    with browser(desktop, f"{demo.url}/?debug", program) as run:
        wait_for(run, "Ready")
        press(run, "Record")
        wait_for(run, "Listening")
        assert any(SENTENCE in lines_after(run, desktop, sentence) for _ in range(TRIES)), run(LINES)
        press(run, "Stop")
        assert until(lambda: "serverSha256" in proof(run))
        assert proof(run)["sha256"] == proof(run)["serverSha256"]  # not a sample is missing
        wait_for(run, "Ready")
        assert SENTENCE in run(LINES)


def lines_after(run: RunScript, desktop: Desktop, sound: Path) -> list[str]:
    """Plays the sound into the microphone. Returns the lines of the transcript once a final one has been added."""
    final = "return document.querySelectorAll('#transcript .utterance[data-final=true]').length"
    before = run(final)
    desktop.play(sound)
    assert until(lambda: run(final) > before)
    return list(run(LINES))


def press(run: RunScript, name: str) -> None:
    """Presses the big button, which has this name now."""
    assert until(lambda: run("return document.querySelector('.record .name')?.textContent") == name)
    assert until(lambda: run("return document.querySelector('.record').getAttribute('aria-disabled')") == "false")
    run("document.querySelector('.record').click()")


def wait_for(run: RunScript, status: str) -> None:
    """Waits until the status has this text."""
    assert until(lambda: status in str(run("return document.querySelector('#status')?.textContent")))


def proof(run: RunScript) -> dict[str, str]:
    """What the page has published about the last recording."""
    return dict(json.loads(run("return JSON.stringify(document.querySelector('#microphone').dataset)")))
