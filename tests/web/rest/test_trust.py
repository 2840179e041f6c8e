"""A server with `--local-ca`: its output, `/ca.pem`, `/trust`, the QR code, and that no key is served."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.tls.local_ca import CA_KEY_NAME, CA_NAME, LEAF_KEY_NAME
from qwen_asr.web.qr import network_url, svg_code, terminal_code
from tests.support.processes import MAIN

URL = "https://192.168.7.7:8000"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A server whose output is a terminal: its address, its folder, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("local")
    options = ["--local-ca", "--asr-model-path", "demo", "--port", "0", "--host", "localhost"]
    environ = {**os.environ, "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *options], cwd=folder, env=environ, stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        lines: list[str] = []
        with (
            os.fdopen(ours, encoding="utf-8") as terminal,
            contextlib.suppress(OSError),
        ):  # raised at the end of the terminal
            for line in terminal:
                lines.append(line.rstrip())
                if "Ready." in line:
                    break
            url = next((line.strip() for line in lines if line.strip().startswith("https://")), "")
            try:
                yield url, folder, lines
            finally:
                process.terminate()
                assert process.stderr is not None
                process.stderr.read()
                assert process.wait(60) == 0


def get(started: tuple[str, Path, list[str]], path: str) -> Any:
    trust = ssl.create_default_context(cafile=str(started[1] / "certs" / CA_NAME))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    return urllib.request.urlopen(started[0] + path, context=trust, timeout=30)  # noqa: S310 - our own server


def test_it_prints_where_to_install_the_certificate(started: tuple[str, Path, list[str]]) -> None:
    text = "\n".join(started[2])
    assert f"install the authority once: {started[0]}/trust" in text
    assert re.search(r"SHA-256 fingerprint: ([0-9A-F]{2}:){31}[0-9A-F]{2}$", text, re.MULTILINE)
    assert "self-signed" not in text
    assert "▄" not in text  # no phone can reach localhost


def test_the_certificate_is_served_as_a_file_that_phones_install(started: tuple[str, Path, list[str]]) -> None:
    with get(started, "/ca.pem") as answer:
        assert answer.headers["content-type"] == "application/x-x509-ca-cert"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.read() == (started[1] / "certs" / CA_NAME).read_bytes()


def test_the_trust_page(started: tuple[str, Path, list[str]]) -> None:
    fingerprint = next(line for line in started[2] if "fingerprint:" in line).rpartition(" ")[2]
    with get(started, "/trust") as answer:
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = answer.read().decode()
    assert fingerprint in page.replace("<wbr>", "")
    assert f"{started[0]}/trust" in page
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "$" not in page.replace("$HOME", "")


@pytest.mark.parametrize(
    "path",
    [f"/{CA_KEY_NAME}", f"/certs/{CA_KEY_NAME}", f"/certs/{LEAF_KEY_NAME}", f"/ca.pem/../certs/{CA_KEY_NAME}",
     f"/trust/{CA_KEY_NAME}", f"/gradio_api/file=certs/{CA_KEY_NAME}", "/ca_key.pem", f"/file=certs/{CA_KEY_NAME}"],
)  # fmt: skip
def test_no_key_is_served(started: tuple[str, Path, list[str]], path: str) -> None:
    try:
        with get(started, path) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
    assert b"PRIVATE KEY" not in body


def test_only_the_owner_can_read_the_keys(started: tuple[str, Path, list[str]]) -> None:
    folder = started[1] / "certs"
    assert (folder / CA_KEY_NAME).stat().st_mode & 0o777 == 0o400
    assert (folder / LEAF_KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_the_address_for_a_phone() -> None:
    assert network_url(["https://localhost:8000", URL]) == URL
    assert network_url(["https://localhost:8000", "https://[fd00::7]:8000"]) == "https://[fd00::7]:8000"
    assert network_url(["https://asr.example.com", "https://localhost"]) == "https://asr.example.com"
    assert network_url(["https://localhost", "https://127.0.0.1", "https://[::1]"]) is None


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
