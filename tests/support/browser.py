"""Browser tests: a real Chromium with a WAV file as its microphone, and a real server for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright, expect

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.tls.certificates import ServerCertificate
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.tls.self_signed import ensure_self_signed
from qwen_asr.web.app import create_app
from qwen_asr.web.page.recordings import Recording, RecordingRegistry
from qwen_asr.web.transport.uvicorn_server import bind, create_server
from tests.support.processes import until

MARKS = [
    pytest.mark.browser,
    # Gradio's own, on its own threads: an option of pandas that is going away, files that it leaves to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file .*audio:ResourceWarning"),
]
TIMEOUT_MS = 60_000  # a busy machine is slow, and no test is about speed
expect.set_options(timeout=TIMEOUT_MS)


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
    """A Chromium whose microphone plays `sound` once in each recording; with None it has no microphone.

    `asks`: it asks for the permission to use the microphone, which is denied. `options` are Playwright's.
    """
    flags = chromium_flags(sound, *flags, asks=asks)
    return playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=flags, **options)


def chromium_flags(sound: Path | None, *flags: str, asks: bool = False) -> list[str]:
    """The command-line flags of such a Chromium, with others."""
    flags = ("--no-sandbox", "--disable-dev-shm-usage", *flags)
    if sound is not None:
        flags += ("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={sound}%noloop")
    return [*flags] if asks else [*flags, "--use-fake-ui-for-media-stream"]


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
    middleware: Callable[[Any], Any] = lambda app: app,
    *,
    chosen: ServerCertificate | None = None,
) -> Iterator[Served]:
    """Serves the app on a free port, over HTTPS where a folder for the certificate is given, or one `chosen`.

    `middleware` is ASGI middleware, a function of the app.
    """
    app = create_app(service.config, service, chosen=chosen)
    tls: dict[str, Any] = {}
    if chosen is not None:
        pair = chosen.checked
        tls = {"certificate": ReloadingCertificate(pair.certfile, pair.keyfile, pair.password)}
    if certificates is not None:
        files = ensure_self_signed(certificates)
        tls = {"certificate": ReloadingCertificate(files.certfile, files.keyfile)}
    listening = bind("127.0.0.1", 0)
    server = create_server(app, middleware, timeout_graceful_shutdown=1, **tls)
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


def unfinished_recording(served: Served) -> Recording:
    """Waits until the server has exactly one unfinished recording, and returns it."""

    def unfinished() -> list[Recording]:
        recordings = [served.recordings.get(*key) for key in served.recordings.ids()]
        return [recording for recording in recordings if recording is not None and not recording.done]

    assert until(lambda: len(unfinished()) == 1), f"recordings: {served.recordings.ids()}"
    return unfinished()[0]


def page_config(page: str) -> dict[str, Any]:
    """What Gradio wrote into the page: its components, the functions that they call, the public address."""
    found = re.search(r"window.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
    assert found is not None, page[:1000]
    return dict(json.loads(found[1]))


class Tab:
    """One open page, with what a user does and sees."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        script: str = "",
        beside: Tab | None = None,
        inside: BrowserContext | None = None,
        **context: Any,
    ) -> None:
        """`beside`: another tab of the same browser, with which it shares cookies, storage and connections; `inside`:
        the context itself."""
        if beside is not None:
            inside = beside.context
        self.context: BrowserContext
        self.context = inside or browser.new_context(**{"ignore_https_errors": True, **context})
        self.context.set_default_timeout(TIMEOUT_MS)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(f"{message.location['url']}: {message.text}")

    def button(self, name: str) -> Locator:
        """A button by its exact accessible name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def status(self) -> str:
        """The text of #status."""
        return self.page.locator("#status").inner_text()

    def wait_status(self, text: str) -> None:
        """Waits until #status contains `text`."""
        self.page.locator("#status", has_text=text).wait_for()

    def texts(self, part: str = "") -> list[str]:
        """The text of each utterance, or of its `.settled` or `.tentative` part."""
        return self.page.locator(f"#transcript .utterance {part or '.words'}").all_inner_texts()

    def record(self) -> None:
        """Presses Record as soon as it is enabled, and waits until the page listens."""
        self.button("Record").click()
        self.wait_status("Listening")

    def stop(self) -> None:
        """Presses Stop."""
        self.button("Stop").click()

    def captured(self) -> float:
        """Seconds of sound that the microphone has given in the current recording."""
        return float(self.page.evaluate("document.querySelector('#microphone').dataset.seconds || 0"))

    def capture(self, seconds: float) -> None:
        """Waits until the microphone has given this much more sound, however long that takes on a busy machine."""
        end = self.captured() + seconds
        self.page.wait_for_function(
            f"document.querySelector('#microphone').dataset.seconds >= {end}", timeout=TIMEOUT_MS
        )

    def proof(self) -> dict[str, str]:
        """Waits until the recording is over. Returns what was hashed: bytes, rate, sha256 (browser), serverSha256."""
        self.page.wait_for_function("document.querySelector('#microphone').dataset.sha256", timeout=TIMEOUT_MS)
        return dict(self.page.evaluate("({...document.querySelector('#microphone').dataset})"))

    def offline(self, off: bool) -> None:
        """Disconnects this tab from the network, or connects it again."""
        self.context.set_offline(off)


def small_config(**options: Any) -> Config:
    """The configuration that tests serve with."""
    return Config(**{"host": "127.0.0.1", "chunk_size_sec": 0.5, "max_new_tokens": 40, **options})
