"""The Chromium and the server of all browser tests that need no special ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright
from scipy.signal import resample_poly

from tests.support.accessibility import axe_source
from tests.support.browser import Served, chromium_path, serving, small_config, start_chromium, write_wav
from tests.support.checkpoints import random_recognizer, spoken


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """The driver of browsers; skips, or fails in CI, where there is no Chromium.

    Of a module, not of the session: it runs an event loop in the tests' thread, where other tests run theirs.
    """
    chromium_path()
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Some seconds of speech as WAV files at 48 and 44.1 kHz."""
    folder = tmp_path_factory.mktemp("speech")
    sentences = ["Turn on the kitchen light.", "The meeting is on Monday the tenth of May."]
    gap = np.zeros(4_000, np.float32)
    samples = np.concatenate([part for text in sentences for part in (spoken(text), gap)])
    return {
        rate: write_wav(folder / f"{rate}.wav", resample_poly(samples, rate // 100, 160).astype(np.float32), rate)
        for rate in (48_000, 44_100)
    }


@pytest.fixture(scope="module")
def chromium(playwright: Playwright, speech: dict[int, Path]) -> Iterator[Browser]:
    """A Chromium that hears speech at 48 kHz."""
    browser = start_chromium(playwright, speech[48_000])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def quiet(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium that hears a room where nobody speaks: all text comes from the tests."""
    noise = np.random.default_rng(0).uniform(-0.004, 0.004, 30 * 16_000).astype(np.float32)
    browser = start_chromium(playwright, write_wav(tmp_path_factory.mktemp("quiet") / "room.wav", noise, 16_000))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the certificate of all servers."""
    return tmp_path_factory.mktemp("certs")


@pytest.fixture(scope="module")
def served(certificates: Path) -> Iterator[Served]:
    """A server over HTTPS with a small random model: its words have no meaning, everything else is real."""
    from qwen_asr.service.service import Service

    with serving(Service(small_config(), random_recognizer()), certificates) as server:
        yield server


@pytest.fixture(scope="session")
def axe(program: Callable[[str], str]) -> str:
    """The script of axe-core."""
    return axe_source(program("npm"))
