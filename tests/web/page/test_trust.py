"""A server with `--local-ca`: its output, `/ca.pem`, `/trust`, and that no key is served."""

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.tls.local_ca import CA_KEY_NAME, CA_NAME, LEAF_KEY_NAME
from qwen_asr.web.page.trust import TITLES, read_template
from tests.support.processes import MAIN

pytestmark = pytest.mark.slow


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
        # A terminal raises OSError at its end.
        with os.fdopen(ours, encoding="utf-8") as terminal, contextlib.suppress(OSError):
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


def get(started: tuple[str, Path, list[str]], path: str, language: str = "en") -> Any:
    trust = ssl.create_default_context(cafile=str(started[1] / "certs" / CA_NAME))
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    request = urllib.request.Request(started[0] + path, headers={"Accept-Language": language})  # noqa: S310 - our own
    return urllib.request.urlopen(request, context=trust, timeout=30)  # noqa: S310 - our own server


def test_it_prints_where_to_install_the_certificate(started: tuple[str, Path, list[str]]) -> None:
    text = "\n".join(started[2])
    assert f"Install the authority once, and no browser warns: {started[0]}/trust" in text
    assert re.search(r"SHA-256 fingerprint: ([0-9A-F]{2}:){31}[0-9A-F]{2}$", text, re.MULTILINE)
    assert "self-signed" not in text
    assert "▄" not in text  # no phone can reach localhost


def test_the_certificate_is_served_as_a_file_that_phones_install(started: tuple[str, Path, list[str]]) -> None:
    with get(started, "/ca.pem") as answer:
        assert answer.headers["content-type"] == "application/x-x509-ca-cert"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.read() == (started[1] / "certs" / CA_NAME).read_bytes()


@pytest.mark.parametrize(
    ("language", "code", "words"), [("fr", "en", "Get the certificate"), ("zh", "zh-CN", "获取证书")]
)
def test_the_trust_page(started: tuple[str, Path, list[str]], language: str, code: str, words: str) -> None:
    fingerprint = next(line for line in started[2] if "fingerprint:" in line).rpartition(" ")[2]
    with get(started, "/trust", language) as answer:
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = answer.read().decode()
    assert f'<html lang="{code}">' in page
    assert f">{words}</a>" in page
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


def test_both_languages_give_the_same_steps() -> None:
    pages = [read_template(language).template for language in TITLES]
    for what in (r"<details id=.(\w+)", r"\$\w+", r"<(\w+)", r"<code>([^<]*)"):
        english, chinese = (Counter(re.findall(what, re.sub(r"\s+", " ", page))) for page in pages)
        assert english == chinese
