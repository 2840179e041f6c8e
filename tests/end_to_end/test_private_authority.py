"""`--local-ca`: with its root certificate installed, the page, microphone and wss work without a warning."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Playwright

from qwen_asr.service.service import Service
from qwen_asr.tls.addresses import names_of
from qwen_asr.tls.certificates import ServerCertificate, load_user_certificate
from qwen_asr.tls.local_ca import CA_NAME, ensure_local_ca
from tests.support.browser import MARKS, Served, Tab, serving, small_config, start_chromium
from tests.support.certificates import Issued, issue
from tests.support.checkpoints import demo_recognizer
from tests.tls.test_local_ca import signer

pytestmark = MARKS

LAN, NAME = "192.168.77.7", "studio.local"
BANK = "bank.example.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority for a machine of that name and address."""
    path = tmp_path_factory.mktemp("authority")
    ensure_local_ca(path, names=names_of([ip_address(LAN)], ["studio", NAME]))
    return path


@pytest.fixture(scope="module")
def chosen(folder: Path) -> ServerCertificate:
    """Its certificate for the server, loaded as a user's own, since the machine of the tests has other names."""
    own = load_user_certificate(folder / "local_ca_leaf.pem", folder / "local_ca_leaf_key.pem")
    root = ensure_local_ca(folder, names=names_of([], [])).root
    return ServerCertificate(own.checked, own.context, own=True, root=root)


@pytest.fixture(scope="module")
def served(chosen: ServerCertificate) -> Iterator[Served]:
    """The server with that certificate."""
    with serving(Service(small_config(allowed_hosts=("*",)), demo_recognizer()), None, chosen=chosen) as server:
        yield server


@pytest.fixture(scope="module")
def trusting(
    playwright: Playwright,
    folder: Path,
    speech: dict[int, Path],
    tmp_path_factory: pytest.TempPathFactory,
    program: Callable[[str], str],
) -> Iterator[Browser]:
    """A Chromium whose user has installed the authority."""
    home = tmp_path_factory.mktemp("home")
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    certutil = program("certutil")
    for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "qwen-asr", "-i", str(folder / CA_NAME)]):
        subprocess.run([certutil, "-d", f"sql:{store}", *arguments], check=True, capture_output=True)
    browser = _chromium(playwright, home, speech[48_000])
    yield browser
    browser.close()


def _chromium(playwright: Playwright, home: Path, sound: Path) -> Browser:
    # Resolves the names to this machine. No flag relaxes the certificate checks.
    hosts = ", ".join(f"MAP {name} 127.0.0.1" for name in (LAN, NAME, BANK, "studio", "www.studio"))
    environment: dict[str, str | float | bool] = {**os.environ, "HOME": str(home)}
    return start_chromium(playwright, sound, flags=[f"--host-resolver-rules={hosts}"], env=environment)


OPEN_SOCKET = """url => new Promise((resolve, reject) => {
  const socket = new WebSocket(url);
  socket.onopen = () => socket.send(JSON.stringify({type: 'config'}));
  socket.onmessage = message => { resolve(JSON.parse(message.data).type); socket.close(); };
  socket.onerror = () => reject(new Error('refused'));
})"""


@pytest.mark.parametrize("host", [LAN, NAME])
def test_page_microphone_and_websocket_work_without_a_warning(trusting: Browser, served: Served, host: str) -> None:
    url = served.url.replace("localhost", host)
    with Tab(trusting, url, ignore_https_errors=False) as tab:
        tab.wait_status("Ready")
        assert tab.page.evaluate("window.isSecureContext")
        socket_url = url.replace("https://", "wss://") + "/ws/asr"
        assert tab.page.evaluate(OPEN_SOCKET, socket_url) == "session_created"
        tab.record()
        # Any text: a busy Chromium loses sound of its file, and the words with it.
        tab.page.locator("#transcript .settled:not(:empty)").first.wait_for()
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.problems == []


def test_without_the_authority_the_browser_warns(
    playwright: Playwright, served: Served, speech: dict[int, Path], tmp_path: Path
) -> None:
    with closing(_chromium(playwright, tmp_path, speech[48_000])) as browser:
        page = browser.new_page()
        with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            page.goto(served.url)


@contextmanager
def tls_page(issued: Issued, folder: Path) -> Iterator[int]:
    """Serves a page with that certificate. Yields the port."""
    (folder / "both.pem").write_bytes(issued.pem + issued.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the browser closes the connection if it refuses the certificate
                connection.settimeout(60)
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1 << 16)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed at the end of the test
                    return
                # Browsers open connections ahead of need, which must not block the others.
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(30)


@pytest.mark.parametrize(("host", "accepted"), [(BANK, False), ("www.studio", False), ("studio", True), (NAME, True)])
def test_a_certificate_of_the_authority_for_other_names_is_refused(
    trusting: Browser, folder: Path, tmp_path: Path, host: str, accepted: bool
) -> None:
    issued = issue(host, signer(folder), names=[host])
    with tls_page(issued, tmp_path) as port, closing(trusting.new_page()) as page:
        if accepted:
            page.goto(f"https://{host}:{port}/")
            assert page.inner_text("body") == "hi"
        else:
            with pytest.raises(Error, match="ERR_CERT_"):
                page.goto(f"https://{host}:{port}/")


PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def test_the_trust_page_works_without_javascript_and_fits_a_phone(
    trusting: Browser, served: Served, chosen: ServerCertificate
) -> None:
    assert chosen.root is not None
    context = trusting.new_context(**PHONE, java_script_enabled=False)
    with closing(context), closing(context.new_page()) as page:
        page.goto(served.url + "/trust")
        assert page.locator("#fingerprint").inner_text().replace("\n", "") == chosen.root.fingerprint
        for system in ("ios", "android", "windows", "macos", "linux", "firefox"):
            section = page.locator(f"details#{system}")
            section.locator("summary").click()
            assert section.locator("li").first.is_visible()
        assert "full trust" in page.locator("#ios").inner_text()
        code = page.locator("svg.code").bounding_box()
        assert code is not None
        assert code["width"] > 150
        for box in page.locator("body *:visible").all()[:80]:
            area = box.bounding_box()
            assert area is None or area["x"] + area["width"] <= 361
        with page.expect_download() as download:
            page.get_by_role("link", name="Get the certificate").click()
        assert download.value.path().read_bytes() == chosen.root.certfile.read_bytes()
