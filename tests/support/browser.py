"""A real Chromium that hears a WAV file as its microphone, and a real server for it: what browser tests share."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, expect

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.tls.certificates import ServerCertificate
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.tls.self_signed import ensure_self_signed
from qwen_asr.web.app import bind, create_app, create_server
from qwen_asr.web.page.recordings import Recording, RecordingRegistry
from tests.support.processes import until

MARKS = [
    pytest.mark.browser,
    # Gradio's own, on its own threads: an option of pandas that is going away, files that it leaves to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file .*audio:ResourceWarning"),
]
PATIENCE = 60_000  # ms; a busy machine is slow, and no test is about speed
expect.set_options(timeout=PATIENCE)


def chromium_path() -> str:
    """Where Chromium is. Skips the test without one; where CI is set, fails it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and os.environ.get("CI"):
        pytest.fail("Chromium is not installed, and CI must have it")
    if path is None:
        pytest.skip("Chromium is not installed: no browser test runs")
    return path


def start_chromium(
    playwright: Playwright, sound: Path | None, *, asks: bool = False, flags: Sequence[str] = (), **options: Any
) -> Browser:
    """A Chromium whose microphone is `sound`, played once from the start of each recording; None: it has no microphone.

    `asks`: it asks whether the page may use the microphone, which without a person means no. `options`: Playwright's.
    """
    flags = ["--no-sandbox", "--disable-dev-shm-usage", *flags]
    if sound is not None:
        flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={sound}%noloop"]
    if not asks:
        flags.append("--use-fake-ui-for-media-stream")
    return playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=flags, **options)


def write_wav(path: Path, samples: NDArray[np.float32], rate: int) -> Path:
    """Writes mono float samples as int16."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@dataclass
class Served:
    """A server that runs in this process."""

    url: str
    service: Service
    recordings: RecordingRegistry
    app: Any


@contextlib.contextmanager
def serving(
    service: Service,
    certificates: Path | None,
    around: Callable[[Any], Any] = lambda app: app,
    *,
    chosen: ServerCertificate | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serves the app on a free port, over HTTPS where a folder for the certificate is given, or one `chosen`.

    `around` is ASGI middleware, a function of the app; `settings` are those of the page's microphone.
    """
    app = create_app(service.config, service, chosen=chosen, **settings)
    tls: dict[str, Any] = {}
    if chosen is not None:
        pair = chosen.checked
        tls = {"certificate": ReloadingCertificate(pair.certfile, pair.keyfile, pair.password)}
    if certificates is not None:
        files = ensure_self_signed(certificates)
        tls = {"certificate": ReloadingCertificate(files.certfile, files.keyfile)}
    listening = bind("127.0.0.1", 0)
    server = create_server(app, around, timeout_graceful_shutdown=1, **tls)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        port = listening.getsockname()[1]
        yield Served(f"http{'s' if tls else ''}://localhost:{port}", service, app.state.recordings, app)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        service.close()
    assert not thread.is_alive()


def talking(served: Served) -> Recording:
    """The one recording that is going on, as soon as the server knows of it."""

    def unfinished() -> list[Recording]:
        recordings = [served.recordings.get(*key) for key in served.recordings.ids()]
        return [recording for recording in recordings if recording is not None and not recording.done]

    assert until(lambda: len(unfinished()) == 1), f"recordings: {served.recordings.ids()}"
    return unfinished()[0]


class Tab:
    """One open page, spoken of as a person sees it."""

    def __init__(self, browser: Browser, url: str, script: str = "", **context: Any) -> None:
        self.context = browser.new_context(**{"ignore_https_errors": True, **context})
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.console_errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", lambda request: self.requests.append(request.url))
        if script:
            self.page.add_init_script(script)
        self.page.goto(f"{url}/?debug")

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _console(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.console_errors.append(f"{said.location['url']}: {said.text}")

    def button(self, name: str) -> Locator:
        """A button by its exact accessible name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def status(self) -> str:
        """What #status says."""
        return self.page.locator("#status").inner_text()

    def wait_status(self, text: str) -> None:
        """Waits until #status says something with `text` in it."""
        self.page.locator("#status", has_text=text).wait_for()

    def texts(self, part: str = "") -> list[str]:
        """The text of each utterance, or of its `.settled` or `.tentative` part."""
        return self.page.locator(f"#transcript .utterance {part or '.words'}").all_inner_texts()

    def record(self) -> None:
        """Presses Record as soon as the page lets it, and waits until it listens."""
        self.button("Record").click()
        self.wait_status("Listening")

    def stop(self) -> None:
        """Presses Stop."""
        self.button("Stop").click()

    def proof(self) -> dict[str, str]:
        """Waits until the recording is over; what was hashed: bytes, rate, sha256 (browser), serverSha256, base."""
        self.page.wait_for_function("document.querySelector('#microphone').dataset.sha256", timeout=PATIENCE)
        return dict(self.page.evaluate("({...document.querySelector('#microphone').dataset})"))

    def offline(self, off: bool) -> None:
        """Takes the network away from this tab, or gives it back."""
        self.context.set_offline(off)


def small_config(**options: Any) -> Config:
    """What tests serve with."""
    return Config(**{"host": "127.0.0.1", "chunk_size_sec": 0.5, "max_new_tokens": 40, **options})
