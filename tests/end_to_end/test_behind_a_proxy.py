"""Behind the real nginx and the real Caddy, with the configurations in docs/: at a domain's root and under a path."""

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

from qwen_asr.config.limits import MAX_FORM_BYTES, MAX_UPLOAD_BYTES
from qwen_asr.config.proxies import LOOPBACK
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from tests.support import proxies
from tests.support.browser import MARKS, Tab, serving, small_config
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


class WordByWord:
    """ASGI middleware: of an event stream, it sends each piece only after the client has read the one before.

    A proxy that gathers events would wait for a second one that never comes.
    """

    def __init__(self) -> None:
        self.read = 0

    def around(self, app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            sent = 0

            async def after_the_last(message: Any) -> None:
                nonlocal sent
                if message["type"] == "http.response.body" and message.get("body"):
                    async with asyncio.timeout(60):
                        while self.read < sent:  # noqa: ASYNC110 - the reader is in another thread
                            await asyncio.sleep(0.01)
                    sent += message["body"].count(b"\n\n")
                await send(message)

            held = scope["type"] == "http" and (b"x-test", b"word-by-word") in scope["headers"]
            await app(scope, receive, after_the_last if held else send)

        return wrapped


@dataclass
class Behind:
    """What the tests need of one proxy."""

    url: str
    plain_port: int
    root_path: str
    gate: WordByWord
    trust: ssl.SSLContext

    @contextlib.contextmanager
    def http(self, **options: Any) -> Iterator[httpx.Client]:
        """A plain client that trusts its certificate."""
        with httpx.Client(verify=self.trust, timeout=60, **options) as http:
            yield http


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, tuple[int, WordByWord]]]:
    """Two servers of plain HTTP, with the demo checkpoint: root path → port and gate."""
    with contextlib.ExitStack() as stack:
        found = {}
        for root_path in ("", ROOT_PATH):
            gate = WordByWord()
            config = small_config(root_path=root_path or None, forwarded_allow_ips=LOOPBACK)
            served = stack.enter_context(serving(Service(config, demo_recognizer()), None, gate.around))
            port = urlsplit(served.url).port
            assert port is not None
            found[root_path] = (port, gate)
        yield found


@pytest.fixture(
    scope="module",
    params=[
        ("nginx", "nginx.conf", ""),
        ("nginx", "nginx-subpath.conf", ROOT_PATH),
        ("caddy", "Caddyfile", ""),
        ("caddy", "Caddyfile-subpath", ROOT_PATH),
    ],
    ids=lambda param: param[1],
)
def behind(
    request: pytest.FixtureRequest,
    repository: Path,
    program: Callable[[str], str],
    certificates: Path,
    backends: dict[str, tuple[int, WordByWord]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Behind]:
    """A server behind one of the proxies."""
    name, file, root_path = request.param
    files = ensure_self_signed(certificates)
    trust = ssl.create_default_context(cafile=str(files.certfile))
    port, gate = backends[root_path]
    start = getattr(proxies, name)
    with start(program(name), repository / "docs" / file, tmp_path_factory.mktemp(name), files, port) as proxy:
        yield Behind(proxy.url + root_path, proxy.plain_port, root_path, gate, trust)


def page_root(page: str) -> str:
    """The public address that Gradio has written into the page."""
    found = re.search(r"window.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
    assert found is not None
    return str(json.loads(found[1])["root"])


def test_from_the_microphone_to_text(behind: Behind, chromium: Browser) -> None:
    with Tab(chromium, behind.url) as tab:
        tab.record()
        # While it is being spoken. Which words these are is not the proxy's affair: test_words.py asks for them.
        expect(tab.page.locator("#transcript .words").first).to_contain_text(re.compile(r"[A-Z][a-z]+ [a-z]+"))
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.page.evaluate("window.gradio_config.root") == behind.url
        assert tab.page.evaluate("isSecureContext && location.protocol") == "https:"
        ours = (f"{behind.url}/", "blob:https://", "data:")
        assert [url for url in tab.requests if not url.startswith(ours)] == []
        assert tab.problems == []
        # Every browser asks the domain for an icon by itself; under a path that is somebody else's address.
        icon = f"https://{urlsplit(behind.url).netloc}/favicon.ico: "
        wrong = [said for said in tab.console_errors if not (behind.root_path and said.startswith(icon))]
        assert wrong == []  # nor mixed content: Chromium says so here


def test_the_socket(behind: Behind) -> None:
    async def talk() -> str:
        url = behind.url.replace("https", "wss", 1) + "/ws/asr"
        host = urlsplit(behind.url).netloc
        with pytest.raises(InvalidStatus, match="403"):
            async with client(url, behind.trust, origin="https://evil.example"):
                pass
        # What a client says of hosts does not make another site's page one of ours.
        with pytest.raises(InvalidStatus, match="403"):
            async with client(url, behind.trust, origin="https://evil.example", additional_headers=SPOOFED):
                pass
        async with client(url, behind.trust, origin=f"https://{host}") as speaker:
            await speaker.config()
            await speaker.audio(spoken(SENTENCES[0]))
            assert await speaker.finalize() == 1000
            return " ".join(final["text"] for final in speaker.of_type("final")).strip()

    with ThreadPoolExecutor(1) as pool:  # the driver of the browser has a loop in this thread
        assert pool.submit(asyncio.run, talk()).result() == SENTENCES[0]


def test_a_transcription_comes_event_by_event(behind: Behind) -> None:
    behind.gate.read = 0
    kinds, text = [], ""
    with (
        behind.http(headers={"X-Test": "word-by-word"}) as http,
        http.stream(
            "POST",
            f"{behind.url}/v1/audio/transcriptions",
            data={"model": "any", "stream": "true"},
            files={"file": ("speech.wav", speech())},
        ) as answer,
    ):
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data:"):
                said = json.loads(line.removeprefix("data:"))
                kinds.append(said["type"])
                text = said.get("text", text)
                behind.gate.read += 1
    assert kinds == ["transcript.text.delta"] * len(SENTENCES) + ["transcript.text.done"]
    assert text == " ".join(SENTENCES)


def test_an_event_stream_of_the_page_comes_at_once_and_stays_open(behind: Behind) -> None:
    with behind.http() as http, http.stream("GET", f"{behind.url}/gradio_api/heartbeat/somebody") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "ALIVE" in next(answer.iter_lines())  # the stream itself never ends


def test_files_go_up_and_come_down(behind: Behind) -> None:
    content = bytes(range(256)) * (3 << 12)  # 3 MiB; nginx takes 1 MiB where it is not told otherwise
    with behind.http() as http:
        [path] = http.post(f"{behind.url}/gradio_api/upload", files={"files": ("a.bin", content)}).json()
        down = http.get(f"{behind.url}/gradio_api/file={path}")
    assert down.status_code == 200
    assert down.content == content


def test_the_page_knows_its_public_address_whatever_clients_say(behind: Behind) -> None:
    with behind.http() as http:
        plain = http.get(f"{behind.url}/")
        spoofed = http.get(f"{behind.url}/", headers=SPOOFED)
        config = http.get(f"{behind.url}/config", headers=SPOOFED).json()
    assert page_root(plain.text) == behind.url == config["root"]
    assert spoofed.text == plain.text
    assert "evil" not in str(spoofed.headers)


def test_http_2_is_offered(behind: Behind) -> None:
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = urlsplit(behind.url)
    with (
        socket.create_connection(("127.0.0.1", address.port or 443), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


def test_addresses_that_people_type(behind: Behind) -> None:
    with behind.http() as http:
        typed = http.get(behind.url, follow_redirects=True)
        assert typed.status_code == 200
        assert typed.url.path == f"{behind.root_path}/"
        plain = http.get(f"http://localhost:{behind.plain_port}{behind.root_path}/")
        assert plain.is_redirect
        assert plain.headers["location"].startswith("https://localhost")
        assert urlsplit(plain.headers["location"]).path == f"{behind.root_path}/"


@pytest.mark.parametrize("name", ["nginx.conf", "nginx-subpath.conf"])
def test_nginx_takes_the_largest_recording_and_waits_for_it(name: str, repository: Path) -> None:
    text = (repository / "docs" / name).read_text(encoding="utf-8")
    [size] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(size) << 20 >= MAX_UPLOAD_BYTES + MAX_FORM_BYTES
    assert re.findall(r"proxy_(read|send)_timeout 1h;", text) == ["read", "send"]
