"""Behind nginx and Caddy with the configurations in docs/, at the root of a domain and under a path."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus

from qwen_asr.config.limits import UploadLimits
from qwen_asr.config.proxies import LOOPBACK
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from tests.support import proxies
from tests.support.browser import MARKS, Tab, page_config, serving, small_config
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.rest_client import SENTENCES, speech
from tests.support.sockets import client

pytestmark = MARKS

ROOT_PATH = "/speech"
SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "http",
    "X_Forwarded_Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=203.0.113.9;host=evil.example;proto=http",
    "X-Real-IP": "203.0.113.9",
    "X-Gradio-Server": "http://evil.example",
}


class EventGate:
    """ASGI middleware that sends each event of a stream only after the client has read the one before.

    A proxy that buffers events would wait for a second one forever.
    """

    def __init__(self) -> None:
        self.read = 0  # events that the client has read

    def middleware(self, app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            sent = 0

            async def send_after_the_last(message: Any) -> None:
                nonlocal sent
                if message["type"] == "http.response.body" and message.get("body"):
                    async with asyncio.timeout(600):
                        while self.read < sent:  # noqa: ASYNC110 - the client is in another thread
                            await asyncio.sleep(0.01)
                    sent += message["body"].count(b"\n\n")
                await send(message)

            gated = scope["type"] == "http" and (b"x-test", b"gated") in scope["headers"]
            await app(scope, receive, send_after_the_last if gated else send)

        return wrapped


@dataclass
class Proxied:
    """A server behind one of the proxies."""

    url: str
    http_port: int
    root_path: str
    gate: EventGate
    trust: ssl.SSLContext

    @contextlib.contextmanager
    def http(self, **options: Any) -> Iterator[httpx.Client]:
        """An HTTP client that trusts the proxy's certificate."""
        with httpx.Client(verify=self.trust, timeout=60, **options) as http:
            yield http


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, tuple[int, EventGate]]]:
    """Two servers of plain HTTP with the demo checkpoint: root path → port and gate."""
    with contextlib.ExitStack() as stack:
        found = {}
        for root_path in ("", ROOT_PATH):
            gate = EventGate()
            config = small_config(root_path=root_path or None, forwarded_allow_ips=LOOPBACK)
            served = stack.enter_context(serving(Service(config, demo_recognizer()), None, gate.middleware))
            port = urlsplit(served.url).port
            assert port is not None
            found[root_path] = (port, gate)
        yield found


AT_THE_ROOT = [("nginx", "nginx.conf", ""), ("caddy", "Caddyfile", "")]
UNDER_A_PATH = [("nginx", "nginx-subpath.conf", ROOT_PATH), ("caddy", "Caddyfile-subpath", ROOT_PATH)]


@pytest.fixture(scope="module", params=[*AT_THE_ROOT, *UNDER_A_PATH], ids=lambda param: param[1])
def proxied(
    request: pytest.FixtureRequest,
    repository: Path,
    program: Callable[[str], str],
    certificates: Path,
    backends: dict[str, tuple[int, EventGate]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxied]:
    """Each of the proxies in turn."""
    name, file, root_path = request.param
    files = ensure_self_signed(certificates)
    trust = ssl.create_default_context(cafile=str(files.certfile))
    port, gate = backends[root_path]
    start = getattr(proxies, name)
    with start(program(name), repository / "docs" / file, tmp_path_factory.mktemp(name), files, port) as proxy:
        yield Proxied(proxy.url + root_path, proxy.http_port, root_path, gate, trust)


def test_a_recording_on_the_page_is_transcribed(proxied: Proxied, chromium: Browser) -> None:
    with Tab(chromium, proxied.url) as tab:
        tab.record()
        # Text appears during the recording. test_words.py checks which.
        expect(tab.page.locator("#transcript .words").first).to_contain_text(re.compile(r"[A-Z][a-z]+ [a-z]+"))
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.page.evaluate("window.gradio_config.root") == proxied.url
        assert tab.page.evaluate("isSecureContext && location.protocol") == "https:"
        own = (f"{proxied.url}/", "blob:https://", "data:")
        assert [url for url in tab.requests if not url.startswith(own)] == []
        assert tab.problems == []
        # Browsers request an icon at the root of the domain, which under a path is not this server's.
        icon = f"https://{urlsplit(proxied.url).netloc}/favicon.ico: "
        errors = [error for error in tab.console_errors if not (proxied.root_path and error.startswith(icon))]
        assert errors == []  # Chromium reports mixed content here too


def test_the_websocket(proxied: Proxied) -> None:
    async def speak() -> str:
        url = proxied.url.replace("https", "wss", 1) + "/ws/asr"
        host = urlsplit(proxied.url).netloc
        with pytest.raises(InvalidStatus, match="403"):
            async with client(url, proxied.trust, origin="https://evil.example"):
                pass
        # Forwarded headers from the client do not make another site's page pass.
        with pytest.raises(InvalidStatus, match="403"):
            async with client(url, proxied.trust, origin="https://evil.example", additional_headers=SPOOFED):
                pass
        async with client(url, proxied.trust, origin=f"https://{host}") as speaker:
            await speaker.config()
            await speaker.audio(spoken(SENTENCES[0]))
            assert await speaker.finalize() == 1000
            return " ".join(final["text"] for final in speaker.of_type("final")).strip()

    with ThreadPoolExecutor(1) as pool:  # Playwright runs an event loop in this thread
        assert pool.submit(asyncio.run, speak()).result() == SENTENCES[0]


def test_a_streamed_transcription_is_not_buffered(proxied: Proxied) -> None:
    proxied.gate.read = 0
    types, text = [], ""
    with (
        proxied.http(headers={"X-Test": "gated"}) as http,
        http.stream(
            "POST",
            f"{proxied.url}/v1/audio/transcriptions",
            data={"model": "any", "stream": "true"},
            files={"file": ("speech.wav", speech())},
        ) as response,
    ):
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                types.append(event["type"])
                text = event.get("text", text)
                proxied.gate.read += 1
    assert types == ["transcript.text.delta"] * len(SENTENCES) + ["transcript.text.done"]
    assert text == " ".join(SENTENCES)


@pytest.mark.parametrize("proxied", AT_THE_ROOT, ids=lambda param: param[1], indirect=True)
def test_ten_tabs_of_one_browser(proxied: Proxied, chromium: Browser) -> None:
    with Tab(chromium, proxied.url) as tab:
        tab.record()
        for other in [Tab(chromium, proxied.url, beside=tab) for _ in range(9)]:
            other.wait_status("Ready")
        tab.capture(0.5)
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]


def test_files_are_uploaded(proxied: Proxied) -> None:
    content = bytes(range(256)) * (3 << 12)  # 3 MiB; nginx accepts 1 MiB by default
    with proxied.http() as http:
        uploaded = http.post(f"{proxied.url}/gradio_api/upload", files={"files": ("a.bin", content)})
    assert uploaded.status_code == 200
    assert len(uploaded.json()) == 1


def test_the_page_has_its_public_address_whatever_headers_clients_send(proxied: Proxied) -> None:
    with proxied.http() as http:
        plain = http.get(f"{proxied.url}/")
        spoofed = http.get(f"{proxied.url}/", headers=SPOOFED)
    assert page_config(plain.text)["root"] == proxied.url
    assert spoofed.text == plain.text
    assert "evil" not in str(spoofed.headers)


def test_http_2_is_offered(proxied: Proxied) -> None:
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = urlsplit(proxied.url)
    with (
        socket.create_connection(("127.0.0.1", address.port or 443), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


def test_addresses_without_a_slash_or_https_are_redirected(proxied: Proxied) -> None:
    with proxied.http() as http:
        typed = http.get(proxied.url, follow_redirects=True)
        assert typed.status_code == 200
        assert typed.url.path == f"{proxied.root_path}/"
        plain = http.get(f"http://localhost:{proxied.http_port}{proxied.root_path}/")
        assert plain.is_redirect
        assert plain.headers["location"].startswith("https://localhost")
        assert urlsplit(plain.headers["location"]).path == f"{proxied.root_path}/"


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-subpath.conf"])
def test_nginx_accepts_the_largest_recording_and_waits_for_its_text(name: str, repository: Path) -> None:
    text = (repository / "docs" / name).read_text(encoding="utf-8")
    [size] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(size) << 20 >= UploadLimits.file_bytes + UploadLimits.form_bytes
    assert re.findall(r"proxy_(read|send)_timeout 1h;", text) == ["read", "send"]
