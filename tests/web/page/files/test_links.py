"""Links that the page has the server fetch: what is passed on, what is refused, and where the server connects to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, LinkLimits, UploadLimits
from qwen_asr.config.link_addresses import LinkAddresses
from qwen_asr.errors import QwenASRError
from qwen_asr.network import is_public
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from qwen_asr.web.page.files.links import OUTCOME_BYTES, Fetcher, LinkRoute
from qwen_asr.web.rest.transcriptions import Transcriptions
from tests.support.checkpoints import random_recognizer

LOCAL = "127.0.0.0/8"
TRUST = ssl.create_default_context()
MEDIA = bytes(range(256)) * 1000


class Site(BaseHTTPRequestHandler):
    """Another site. Each path is a way to answer."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012 - of the class, because each request has an instance

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers."""
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        name = self.path.split("?")[0].strip("/").split("/")[0].replace(".", "_")
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            getattr(self, f"answer_{name}", self.answer_missing)()

    def head(self, status: int = 200, **headers: str) -> None:
        """The head of an answer."""
        self.send_response(status)
        for name, value in {"connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_media_mp3(self) -> None:
        """A file."""
        self.head(content_type="Audio/MPEG; charset=x", content_length=str(len(MEDIA)), set_cookie="a=1; Path=/")
        self.wfile.write(MEDIA)

    def answer_named(self) -> None:
        """A file with a name, and a type that a browser would run."""
        name = 'attachment; filename="../../a\\b é.m4a"'.encode().decode("latin-1")
        self.head(content_type="image/svg+xml", content_disposition=name)
        self.wfile.write(MEDIA)

    def answer_page(self) -> None:
        """A web page, and it says so."""
        self.head(content_type="text/html; charset=utf-8")
        self.wfile.write(b"hello")

    def answer_hidden(self) -> None:
        """A web page that does not say so."""
        self.head(content_type="application/octet-stream")
        self.wfile.write(b"\n <!DOCTYPE html><title>A</title>")

    def answer_packed(self) -> None:
        """Compressed, though nobody asked for it."""
        self.head(content_encoding="gzip")
        self.wfile.write(MEDIA)

    def answer_announced(self) -> None:
        """Too large, and it says so."""
        self.head(content_length=str(10**12))

    def answer_endless(self) -> None:
        """Too large, without end."""
        self.head(content_type="audio/mpeg")
        while True:
            self.wfile.write(MEDIA)

    def answer_cut(self) -> None:
        """Less than was announced."""
        self.head(content_length=str(len(MEDIA) + 1))
        self.wfile.write(MEDIA)

    def answer_silent(self) -> None:
        """Nothing, for a while."""
        time.sleep(3)

    def answer_slow(self) -> None:
        """Byte by byte, never silent for long."""
        self.head(content_type="audio/mpeg")
        for _ in range(200):
            self.wfile.write(b"a")
            time.sleep(0.05)

    def answer_login(self) -> None:
        """Asks for a password."""
        self.head(401)

    def answer_missing(self) -> None:
        """There is nothing."""
        self.head(404)

    def answer_to(self) -> None:
        """A redirect to what stands behind the question mark."""
        self.head(302, location=self.path.partition("?")[2], set_cookie="secret=1; Path=/")

    def answer_loop(self) -> None:
        """A redirect to itself."""
        self.head(301, location="/loop")

    def answer_broken(self) -> None:
        """A redirect to what is no address."""
        self.head(302, location="http://[::1")

    def answer_nowhere(self) -> None:
        """A redirect without a place."""
        self.head(302)


@contextlib.contextmanager
def site(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serves `Site`; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Site.seen.clear()
        yield server.server_port
        server.shutdown()
        thread.join(60)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with site() as number:
        yield number


@contextlib.contextmanager
def route(limits: LinkLimits | None = None, **options: Any) -> Iterator[tuple[FastAPI, Service]]:
    """An app with the route."""
    config = Config(**{"file_links": f"public,{LOCAL}", **options})
    upload = UploadLimits(file_bytes=len(MEDIA) * 2)
    given = Limits(links=limits or LinkLimits(), upload=upload)
    with contextlib.closing(Service(config, random_recognizer(), limits=given)) as service:
        app = FastAPI()
        LinkRoute(service, Transcriptions(service)).add_to(app)
        yield app, service


def ask(app: FastAPI, body: bytes | str) -> httpx.Response:
    """The answer to a request of the page; `body` or, as text, an address."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            content = body if isinstance(body, bytes) else json.dumps({"url": body}).encode()
            return await client.post("/page/link", content=content, headers={"Cookie": "qwen_asr_login=secret"})

    return asyncio.run(send())


def sentence(answer: httpx.Response) -> str:
    """What is wrong, in the answer or behind the file."""
    if answer.status_code != 200:
        return str(answer.json()["error"]["message"])
    return str(json.loads(answer.content[-OUTCOME_BYTES:])["error"])


def test_the_file_is_passed_on(port: int) -> None:
    with route() as (app, service):
        answer = ask(app, f" http://127.0.0.1:{port}/media.mp3?a=1#part ")
        assert answer.status_code == 200
        assert answer.content[:-OUTCOME_BYTES] == MEDIA
        assert json.loads(answer.content[-OUTCOME_BYTES:]) == {}
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-file-type"] == "audio/mpeg"
        assert answer.headers["x-file-name"] == "media.mp3"
        assert answer.headers["x-file-bytes"] == str(len(MEDIA))
        assert service.admission.admitted == 0
    path, headers = Site.seen[-1]
    assert path == "/media.mp3?a=1"
    assert headers["host"] == f"127.0.0.1:{port}"
    assert headers["accept-encoding"] == "identity"
    assert headers.keys() <= {"host", "accept", "accept-encoding", "connection", "user-agent"}


def test_what_the_other_site_calls_it_can_do_no_harm(port: int) -> None:
    with route() as (app, _):
        answer = ask(app, f"http://127.0.0.1:{port}/named")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "x-file-type" not in answer.headers
    assert answer.headers["x-file-name"] == "b%20%C3%A9.m4a"


def test_redirects_are_followed_without_their_cookies(port: int) -> None:
    with route() as (app, _):
        answer = ask(app, f"http://localhost:{port}/to?http://127.0.0.1:{port}/to?/media.mp3")
        assert answer.content[:-OUTCOME_BYTES] == MEDIA
    assert [path for path, _ in Site.seen[-3:]][-1] == "/media.mp3"
    assert all("cookie" not in headers and "authorization" not in headers for _, headers in Site.seen)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("page", "leads to a web page, not to a media file"),
        ("hidden", "leads to a web page, not to a media file"),
        ("packed", "sent the file compressed"),
        ("announced", f"over {2 * len(MEDIA)} bytes"),
        ("endless", f"over {2 * len(MEDIA)} bytes"),
        ("cut", "The download broke off"),
        ("login", "answered 401"),
        ("missing", "answered 404 Not Found"),
        ("loop", "redirects more than 5 times"),
        ("to?http://192.168.0.1/a.mp3", "The address of 192.168.0.1 is not a public one"),
        ("to?http://[::1]/a.mp3", "The address of ::1 is not a public one"),
        ("to?file:///etc/passwd", "not the address of a file"),
        ("to?//user:password@127.0.0.1/", "user name or a password"),
        ("broken", "Invalid URL in location header"),
    ],
)
def test_what_is_no_file(port: int, path: str, message: str) -> None:
    with route() as (app, service):
        assert message in sentence(ask(app, f"http://127.0.0.1:{port}/{path}"))
        assert not service.admission.admitted


def test_a_redirect_without_a_place_is_one_to_itself(port: int) -> None:
    with route() as (app, _):
        assert "redirects more than 5 times" in sentence(ask(app, f"http://127.0.0.1:{port}/nowhere"))


@pytest.mark.slow
def test_slow_sites_are_left(port: int) -> None:
    with route(LinkLimits(idle_seconds=0.2)) as (app, _):
        assert "too slow" in sentence(ask(app, f"http://127.0.0.1:{port}/silent"))
    with route(LinkLimits(seconds=0.5)) as (app, _):
        answer = ask(app, f"http://127.0.0.1:{port}/slow")
        assert answer.status_code == 200
        assert "too slow" in sentence(answer)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The request is not"),
        (b"[]", "The request is not"),
        (b'{"url": 1}', "The request is not"),
        (b'{"url": ""}', "The request is not"),
        (b"\xff", "The request is not"),
        (json.dumps({"url": "https://a/" + "a" * 5000}).encode(), "at most 4096 characters"),
        (b"a" * 40_000, "too large"),
        ("nonsense", "not the address of a file"),
        ("ftp://example.org/a.mp3", "not the address of a file"),
        ("file:///etc/passwd", "not the address of a file"),
        ("data:audio/wav;base64,AAAA", "not the address of a file"),
        ("http://", "not the address of a file"),
        ("https://[::1", "not the address of a file"),
        ("http://\u0000/", "not the address of a file"),
        ("http://user@example.org/", "user name or a password"),
        ("http://name.invalid/a.mp3", "The name name.invalid cannot be resolved"),
        ("http://127.0.0.1:1/a.mp3", "cannot be reached"),
        ("http://0x7f.1:1/a.mp3", "cannot be reached"),  # of loopback, which is allowed here
        ("http://169.254.169.254/latest/meta-data/", "is not a public one"),
        ("http://10.0.0.1/", "is not a public one"),
        ("http://[::ffff:10.0.0.1]/", "is not a public one"),
        ("http://[fd00::1]/", "is not a public one"),
        ("http://0.0.0.0/", "is not a public one"),
    ],
)
def test_requests_that_are_refused(body: bytes | str, message: str) -> None:
    with route() as (app, service):
        answer = ask(app, body)
        assert 400 <= answer.status_code < 500
        assert message in sentence(answer)
        assert not service.admission.admitted


def test_switched_off(port: int) -> None:
    with route(file_links="off") as (app, _):
        assert "fetches no links" in sentence(ask(app, f"http://127.0.0.1:{port}/media.mp3"))
    with route(file_links="public") as (app, _):
        assert "not a public one" in sentence(ask(app, f"http://127.0.0.1:{port}/media.mp3"))


def test_it_counts_as_a_transcription(port: int) -> None:
    with route(rate_limit="1/hour") as (app, _):
        assert ask(app, f"http://127.0.0.1:{port}/media.mp3").status_code == 200
        assert ask(app, f"http://127.0.0.1:{port}/media.mp3").status_code == 429
    with route(max_sessions=1, max_queue=0) as (app, service):
        service.admission.enter_at_once()
        assert "in use" in sentence(ask(app, f"http://127.0.0.1:{port}/media.mp3"))


@pytest.mark.slow
def test_the_certificate_has_to_be_for_the_name(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.certfile, files.keyfile)
    trusting = ssl.create_default_context(cafile=str(files.certfile))

    async def status(trust: ssl.SSLContext | None, host: str) -> int:
        fetcher = Fetcher(LinkAddresses(LOCAL), LinkLimits(), trust)
        with resolving(lambda _: ["127.0.0.1"]):
            async with fetcher.opened(f"https://{host}:{number}/media.mp3") as remote:
                return remote.response.status_code

    with site(serving) as number:
        assert asyncio.run(status(trusting, "localhost")) == 200
        for trust, host in ((trusting, "example.org"), (None, "localhost")):
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                asyncio.run(status(trust, host))


@contextlib.contextmanager
def resolving(addresses_of: Callable[[str], list[str]]) -> Iterator[None]:
    """Has names resolved by a function, in place of the system."""

    async def getaddrinfo(_: Any, host: str, *args: Any, **options: Any) -> list[Any]:
        found = addresses_of(host)
        if not found:
            raise socket.gaierror("Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in found]

    with mock.patch.object(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo):
        yield


ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}"),
    st.sampled_from(["127.0.0.1", "10.1.2.3", "::1", "fe80::1", "169.254.169.254", "8.8.8.8", "2606:4700::1111"]),
)
NAMES = [f"{letter}.example" for letter in "abcdef"]


@pytest.mark.slow
@given(
    addresses=st.fixed_dictionaries({name: st.lists(ADDRESSES, max_size=3) for name in NAMES}),
    redirects=st.fixed_dictionaries({name: st.sampled_from([None, *NAMES]) for name in NAMES}),
    refusing=st.sets(st.integers(0, 12)),
)
@settings(max_examples=100, deadline=None)
def test_it_connects_only_to_addresses_that_it_has_checked(
    addresses: dict[str, list[str]], redirects: dict[str, str | None], refusing: set[int]
) -> None:
    """Whatever names mean, also when they mean something else each time, and wherever sites redirect to."""
    answers: dict[str, list[str]] = {}  # the last answer for each name
    connected: list[tuple[str, str]] = []

    def resolve(host: str) -> list[str]:
        # Another answer each time, as in DNS rebinding.
        turned = addresses[host][1:] + addresses[host][:1]
        addresses[host] = turned
        answers[host] = turned[:2]
        return turned[:2]

    async def handle(_: Any, request: httpx.Request) -> httpx.Response:
        name = request.headers["host"]
        assert request.extensions["sni_hostname"] == name
        connected.append((name, request.url.host))
        assert ipaddress.ip_address(request.url.host) in map(unmapped, answers[name])
        assert all(is_public(unmapped(address)) for address in answers[name])
        if len(connected) in refusing:
            raise httpx.ConnectError("refused")
        target = redirects[name]
        return httpx.Response(302, headers={"location": f"//{target}/"}) if target else httpx.Response(200)

    async def fetch() -> None:
        fetcher = Fetcher(LinkAddresses("public"), LinkLimits(), TRUST)
        async with fetcher.opened("http://a.example/"):
            assert connected

    with (
        resolving(resolve),
        mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", handle),
        contextlib.suppress(QwenASRError, httpx.ConnectError),
    ):
        asyncio.run(fetch())


def unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; that of IPv4 which is written as one of IPv6 as what it is."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
