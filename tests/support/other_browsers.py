"""Firefox, and WebKitGTK, which is the engine of Safari, with a microphone that plays what a test gives it.

Neither takes a WAV file as its microphone, as Chromium does. So each hears a sound server of its own: PulseAudio with
an output that leads nowhere, whose sound comes back as the microphone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import kill, until

MINI_BROWSER = "/usr/lib/*/webkit2gtk-4*/MiniBrowser"
RunScript = Callable[[str], Any]
"""Runs the body of a JavaScript function in the page, and returns what it returns."""


class Desktop:
    """A screen and a sound server. `environment` leads a browser to them."""

    def __init__(self, folder: Path, program: Callable[[str], str]) -> None:
        folder.chmod(0o700)
        socket = folder / "pulse.sock"
        self._processes: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_SERVER": f"unix:{socket}",
        }
        self._start(
            program("pulseaudio"), "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes",
            f"--load=module-native-protocol-unix socket={socket} auth-anonymous=1",
            "--load=module-null-sink sink_name=speech rate=48000",
            # Firefox does not list the monitor of an output as a microphone, but a source that is made of it.
            "--load=module-remap-source master=speech.monitor source_name=microphone",
        )  # fmt: skip
        self._player, control = program("paplay"), program("pactl")
        command = [control, "set-default-source", "microphone"]
        assert until(lambda: subprocess.run(command, env=self.environment, capture_output=True).returncode == 0)
        screen = self._start(program("Xvfb"), "-displayfd", "1", "-screen", "0", "1200x1000x24", "-nolisten", "tcp")
        assert screen.stdout is not None
        self.environment["DISPLAY"] = f":{screen.stdout.readline().strip()}"

    def play(self, sound: Path) -> None:
        """Plays a WAV file into the microphone, to its end."""
        subprocess.run([self._player, "--device=speech", sound], env=self.environment, check=True, timeout=120)

    def close(self) -> None:
        """Ends both."""
        for process in self._processes:
            kill(process)

    def _start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._processes.append(process)
        return process


@contextlib.contextmanager
def firefox(desktop: Desktop, url: str, program: Callable[[str], str]) -> Iterator[RunScript]:
    """Firefox with the page open, over any certificate, and allowed to use the microphone."""
    from marionette_driver.marionette import Marionette  # type: ignore[import-untyped]  # it has no types

    preferences = {"media.navigator.permission.disabled": True}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in desktop.environment.items():  # it has no option for them
            patch.setenv(name, value)
        browser = Marionette(
            bin=program("firefox-esr"),
            headless=True,
            prefs=preferences,
            gecko_log=str(Path(desktop.environment["HOME"]) / "firefox.log"),
        )
    try:
        browser.start_session({"acceptInsecureCerts": True})
        browser.navigate(url)
        yield lambda script: browser.execute_script(script, sandbox=None)
    finally:
        browser.quit()
        browser.cleanup()


@contextlib.contextmanager
def webkit(desktop: Desktop, url: str, program: Callable[[str], str]) -> Iterator[RunScript]:
    """WebKitGTK's MiniBrowser with the page open, over any certificate, and allowed to use the microphone."""
    from selenium import webdriver
    from selenium.webdriver.webkitgtk.options import Options
    from selenium.webdriver.webkitgtk.service import Service

    options = Options()
    [options.binary_location] = map(str, Path("/").glob(MINI_BROWSER.removeprefix("/")))
    options.add_argument("--automation")
    options.add_argument("--enable-media-stream=true")
    options.set_capability("acceptInsecureCerts", True)
    service = Service(program("WebKitWebDriver"), env=desktop.environment)
    browser = webdriver.WebKitGTK(options=options, service=service)
    try:
        browser.get(url)
        yield browser.execute_script
    finally:
        browser.quit()
