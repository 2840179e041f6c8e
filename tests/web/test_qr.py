"""QR codes: the address they show, on a terminal and as SVG."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_asr.web.qr import network_url, svg_code, terminal_code

URL = "https://192.168.7.7:8000"


def test_the_address_for_a_phone() -> None:
    assert network_url(["https://localhost:8000", URL]) == URL
    assert network_url(["https://localhost:8000", "https://[fd00::7]:8000"]) == "https://[fd00::7]:8000"
    assert network_url(["https://asr.example.com", "https://localhost"]) == "https://asr.example.com"
    assert network_url(["https://localhost", "https://127.0.0.1", "https://[::1]"]) is None


@pytest.mark.slow
def test_the_qr_code_is_printed_on_a_terminal_only(repository: Path) -> None:
    script = (
        "from qwen_asr.config.config import Config; from qwen_asr.web.app import _announce\n"
        "_announce(Config(host='192.168.7.7', generate_self_signed_cert=True), 8000)"
    )
    command = [sys.executable, "-c", script]
    environ = {**os.environ, "PYTHONPATH": str(repository), "PYTHONIOENCODING": "utf-8"}
    plain = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert "▄" not in plain
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=environ, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # raised at the end of the terminal
            while part := os.read(ours, 1 << 16):
                shown += part
        os.close(ours)
    assert process.returncode == 0
    text = shown.decode().replace("\r\n", "\n")
    assert terminal_code(URL) in text
    assert text.replace(terminal_code(URL), "").strip().endswith(f"For a phone on the same network: {URL}")


@pytest.mark.slow
def test_the_terminal_shows_the_modules_of_the_code() -> None:
    import segno

    modules = [list(row) for row in segno.make(URL, error="l", micro=False).matrix]
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in terminal_code(URL).splitlines()]
    # A character holds two modules, one above the other. Light modules are drawn, with a quiet zone of two around.
    drawn = [[cell in lit for cell in row] for row in rows for lit in ("█▀", "█▄")]
    size = len(modules)
    inner = [[not light for light in row[2 : 2 + size]] for row in drawn[2 : 2 + size]]
    assert inner == [[bool(dark) for dark in row] for row in modules]
    assert svg_code(URL).startswith("<svg")
    assert f"<title>{URL}</title>" in svg_code(URL)
