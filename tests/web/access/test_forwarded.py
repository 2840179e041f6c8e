"""Forwarded headers: from a trusted proxy they are facts, from anybody else they are nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gradio.route_utils import API_PREFIX
from gradio.routes import INTERNAL_ROUTES
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request
from websockets.exceptions import InvalidStatus

from qwen_asr.config.config import Config
from qwen_asr.config.proxies import LOOPBACK, OWN_PATHS, TrustedProxies, check_root_path
from qwen_asr.errors import BadConfig
from qwen_asr.network import parse_address
from qwen_asr.service.service import Service
from qwen_asr.web.access.forwarded import Forwarded, is_host
from qwen_asr.web.access.origin import same_origin
from tests.support.browser import Served, serving, small_config
from tests.support.checkpoints import random_recognizer
from tests.support.sockets import client

pytestmark = [
    # Gradio's own, on its own threads: an option of pandas that is going away, loops that it leaves to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
SPOOFED = [
    {"X-Forwarded-Host": "evil.example"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-For": CLIENT},
    {"X-Forwarded-Port": "444"},
    {"X-Forwarded-Prefix": "/evil"},
    {"X-Forwarded-Server": "evil.example"},
    {"Forwarded": f"for={CLIENT};host=evil.example;proto=https"},
    {"X-Real-IP": CLIENT},
    {"X-Gradio-Server": "https://evil.example"},
    {"X_Forwarded_Host": "evil.example"},
]
EVERYTHING = {name: value for headers in SPOOFED for name, value in headers.items()}


def passed_on(
    *headers: tuple[str, str],
    peer: str | None = PROXY,
    trusted: tuple[str, ...] = (PROXY,),
    root_path: str = "",
    path: str = "/config",
    kind: str = "http",
) -> dict[str, Any]:
    """The scope that reaches the app."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {
        "type": kind,
        "scheme": "http" if kind == "http" else "ws",
        "client": None if peer is None else (peer, 4711),
        "server": ("127.0.0.1", 8000),
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"inside:8000"), *((name.lower().encode(), text.encode()) for name, text in headers)],
    }
    before = repr(scope)
    middleware: Any = Forwarded(app, TrustedProxies(trusted), root_path)
    asyncio.run(middleware(scope, None, None))
    assert repr(scope) == before  # the server's own is left alone
    [found] = seen
    assert isinstance(found, dict)
    return found


def names(scope: dict[str, Any]) -> list[str]:
    return [name.decode() for name, _ in scope["headers"]]


# --- what a proxy says


def test_a_trusted_proxy_is_believed() -> None:
    scope = passed_on(
        ("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "speech.example:8443")
    )
    assert (scope["client"], scope["scheme"]) == ((CLIENT, 0), "https")
    assert scope["headers"] == [(b"host", b"speech.example:8443")]
    assert str(Request(scope).url) == "https://speech.example:8443/config"


def test_a_socket_has_the_scheme_of_sockets() -> None:
    for said in ("https", "wss", "HTTPS", "https, http", "http,https"):
        assert passed_on(("X-Forwarded-Proto", said), kind="websocket")["scheme"] == "wss"
    assert passed_on(("X-Forwarded-Proto", "http"), kind="websocket")["scheme"] == "ws"


@pytest.mark.parametrize("headers", [*SPOOFED, EVERYTHING], ids=lambda headers: ",".join(headers))
@pytest.mark.parametrize("peer", ["10.0.0.2", "::1", None, "a unix socket"])
def test_from_anybody_else_nothing_is_believed(headers: dict[str, str], peer: str | None) -> None:
    assert passed_on(*headers.items(), peer=peer) == passed_on(peer=peer)


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Real-IP", "X-Gradio-Server", "X_Forwarded_Host"],
)
def test_what_a_proxy_may_have_handed_on_is_not_believed_either(header: str) -> None:
    assert passed_on((header, EVERYTHING[header])) == passed_on()


@pytest.mark.parametrize(
    ("trusted", "said", "client_is"),
    [
        ((PROXY,), CLIENT, CLIENT),
        ((PROXY,), f"198.51.100.7, {CLIENT}", CLIENT),  # what the client wrote stands to the left
        ((PROXY,), f"{PROXY}, {CLIENT}", CLIENT),
        (("10.0.0.0/8",), f"198.51.100.7, {CLIENT}, 10.2.3.4", CLIENT),  # two proxies, one hop each
        (("10.0.0.0/8",), "10.9.9.9, 10.2.3.4", "10.9.9.9"),  # a client that is a proxy
        (("*",), f"198.51.100.7, {CLIENT}", CLIENT),  # whoever connects is one proxy, not two
        ((PROXY,), f"{CLIENT}:4711", CLIENT),
        ((PROXY,), "[2001:db8::9]:4711", "2001:db8::9"),
        ((PROXY,), "2001:DB8:0::9", "2001:db8::9"),
        ((PROXY,), f"::ffff:{CLIENT}", CLIENT),
        ((PROXY,), "unknown", PROXY),
        ((PROXY,), "", PROXY),
        ((PROXY,), f"{CLIENT}, ", PROXY),
        ((PROXY,), f"{CLIENT}, 1.2.3.4.5", PROXY),
        ((PROXY,), f"{CLIENT}, <script>", PROXY),
        (("10.0.0.0/8",), f"{CLIENT}, _hidden, 10.2.3.4", "10.2.3.4"),
    ],
)
def test_who_the_client_is(trusted: tuple[str, ...], said: str, client_is: str) -> None:
    assert passed_on(("X-Forwarded-For", said), trusted=trusted)["client"][0] == client_is


def test_of_headers_given_twice_the_proxys_own_counts() -> None:
    twice = [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Host", "good.example"),
        ("X-Forwarded-Proto", "http, http"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "198.51.100.7"),
        ("X-Forwarded-For", CLIENT),
    ]
    scope = passed_on(*twice)
    assert (scope["client"][0], scope["scheme"]) == (CLIENT, "https")
    assert scope["headers"] == [(b"host", b"good.example")]


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "user@a", "a:0", "a:65536", "a:http", "[::1", "[::g]", "[]", "a\u00e9", "a?b", "a#b", "x" * 254],
)
def test_what_is_no_host_is_not_taken_for_one(host: str) -> None:
    assert not is_host(host)
    assert passed_on(("X-Forwarded-Host", host))["headers"] == [(b"host", b"inside:8000")]


@pytest.mark.parametrize("proto", ["", "ftp", "https://", "javascript", "https;", "https, ftp", "https,", "htt\u00b5s"])
def test_what_is_no_scheme_is_not_taken_for_one(proto: str) -> None:
    assert passed_on(("X-Forwarded-Proto", proto))["scheme"] == "http"


def test_the_origin_is_compared_with_the_public_host() -> None:
    said = (("X-Forwarded-Host", "speech.example"), ("Origin", "https://speech.example"))
    assert same_origin(Headers(scope=passed_on(*said, kind="websocket")))
    assert not same_origin(Headers(scope=passed_on(*said, kind="websocket", peer="10.0.0.2")))


def test_a_peer_on_a_socket_for_both_families_is_the_same_peer() -> None:
    assert passed_on(("X-Forwarded-For", CLIENT), peer=f"::ffff:{PROXY}")["client"][0] == CLIENT
    assert passed_on(("X-Forwarded-For", CLIENT), trusted=(f"::ffff:{PROXY}",))["client"][0] == CLIENT


def test_it_is_said_once_for_each_peer_that_headers_were_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    middleware: Any = Forwarded(app, TrustedProxies())
    peers = [PROXY, *(f"203.0.113.{number}" for number in range(100))]
    with caplog.at_level(logging.WARNING):
        for peer in peers + peers:
            scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-proto", b"https")]}
            asyncio.run(middleware(scope, None, None))
    said = [record.getMessage() for record in caplog.records]
    assert f"give --forwarded-allow-ips {PROXY}" in said[0]
    assert len(said) == len(set(said)) == 10


# --- under a path


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("/", "/a/b/"),
        ("/config", "/a/b/config"),
        ("/a/b/config", "/a/b/config"),
        ("/a/bc", "/a/b/a/bc"),
        ("/a", "/a/b/a"),
        ("/a/b/a/b/x", "/a/b/a/b/x"),
    ],
)
def test_the_proxy_may_take_the_public_path_off_or_leave_it_on(path: str, full: str) -> None:
    scope = passed_on(path=path, root_path="/a/b")
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == (full, full.encode(), "/a/b")


@pytest.mark.parametrize("path", ["/speech", "/a/b-c/d.e", "/~me", "/..a"])
def test_public_paths(path: str) -> None:
    check_root_path(path)
    assert Config(root_path=path).root_path == path


@pytest.mark.parametrize(
    "path",
    ["speech", "/", "/speech/", "//speech", "/a//b", "/a?b", "/a#b", "/a b", "/a%20b", "/../a", "/a/.", "/ä", "/a\n"],
)
def test_what_is_no_public_path(path: str) -> None:
    with pytest.raises(BadConfig, match="--root-path was given"):
        Config(root_path=path)


def test_a_public_path_is_not_like_an_address_of_the_server(served: Served) -> None:
    with pytest.raises(BadConfig, match="/v1 is an address of the server itself"):
        Config(root_path="/v1/speech")
    app: Any = served.app
    ours = {route.path.split("/")[1] for route in app.routes if getattr(route, "path", "")}
    assert ours | {API_PREFIX.strip("/")} | {name.strip("/") for name in INTERNAL_ROUTES} <= OWN_PATHS


# --- whom to trust


@pytest.mark.parametrize(
    "given",
    ["10.0.0.1/8", "proxy.example", "1.2.3", "", "127.0.0.1,", "127.0.0.1 ::1", "0.0.0.0/0", "::/0", "10.0.0.0/33"],
)
def test_what_is_no_list_of_proxies(given: str) -> None:
    with pytest.raises(BadConfig, match="--forwarded-allow-ips was given"):
        Config(forwarded_allow_ips=(given,))


def test_lists_of_proxies() -> None:
    trusted = Config(forwarded_allow_ips=("127.0.0.1, 192.168.0.0/16", "2001:db8::/32")).trusted_proxies
    for peer in ("127.0.0.1", "192.168.7.7", "2001:db8::7", "::ffff:192.168.7.7"):
        assert trusted.trusts_peer(peer)
    for stranger in ("127.0.0.2", "192.169.0.1", "2001:db9::7", "::1", "localhost", "", None):
        assert not trusted.trusts_peer(stranger)


def test_nobody_is_trusted_but_where_the_proxy_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Config().trusted_proxies.trusts_peer("127.0.0.1")
    assert Config(share=True).trusted_proxies.trusts_peer("127.0.0.1")
    assert not Config(share=True).trusted_proxies.trusts_peer(PROXY)
    monkeypatch.setenv("SPACE_ID", "somebody/something")
    assert Config().trusted_proxies.trusts_peer(PROXY)


# --- any bytes at all

PARTS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:443"),
    st.ip_addresses(v=4).map(lambda address: f"{address}:443"),
    st.sampled_from(["unknown", "_x", "", " ", "\t10.2.3.4", "10.2.3.4", "%", '"10.2.3.4"']),
    st.text(max_size=20),
)


@given(st.lists(PARTS, max_size=8), st.sampled_from([PROXY, "10.0.0.0/8", "::/1", "*"]))
def test_whatever_is_said_the_client_is_an_address_behind_trusted_ones(parts: list[str], trusted: str) -> None:
    proxies = TrustedProxies([trusted])
    found = proxies.client(PROXY, ",".join(parts))
    assert parse_address(found) is not None
    # Whatever a client puts to the left of what its proxy appended changes nothing.
    assert proxies.client(PROXY, ",".join([*parts, CLIENT])) == CLIENT


@given(st.lists(st.tuples(st.sampled_from(sorted(EVERYTHING)), st.binary(max_size=40)), max_size=6), st.booleans())
def test_any_bytes_leave_a_request_that_can_be_answered(pairs: list[tuple[str, bytes]], trusted: bool) -> None:
    headers = [(name, value.decode("latin-1").encode("utf-8").decode("utf-8")) for name, value in pairs]
    scope = passed_on(*headers, trusted=(PROXY,) if trusted else ())
    assert scope["scheme"] in ("http", "https")
    assert names(scope) == ["host"]
    ipaddress.ip_address(scope["client"][0])
    [host] = Headers(scope=scope).getlist("host")
    assert is_host(host)
    assert Request(scope).url.netloc == host
    if not trusted:
        assert scope == passed_on(trusted=())


@given(st.text(max_size=30))
def test_a_host_is_one_for_everybody(text: str) -> None:
    if is_host(text):
        url = httpx.URL(f"https://{text}/")
        assert (url.path, url.userinfo, urlsplit(f"https://{text}/").netloc) == ("/", b"", text)


# --- against the real server: all clients here are loopback peers


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that trusts nobody, as it is by default."""
    with serving(Service(small_config(allowed_hosts=("*",)), random_recognizer()), None) as server:
        yield server


@pytest.fixture(scope="module")
def behind() -> Iterator[Served]:
    """A server under a path that takes these tests for its proxy."""
    config = small_config(root_path="/speech", forwarded_allow_ips=LOOPBACK, allowed_hosts=("speech.example",))
    with serving(Service(config, random_recognizer()), None) as server:
        yield server


ADDRESSES = ["/", "/config", "/v1/models", "/healthz", "/theme.css", "/no/such/page", "/logout", "/gradio_api/info"]


def answer(http: httpx.Client, path: str, **options: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """What was answered, without what differs between any two answers."""
    got = http.get(path, **options)
    headers = [(name, re.sub("expires=[^;]*", "", value)) for name, value in got.headers.items() if name != "date"]
    return got.status_code, headers, got.content


@pytest.mark.parametrize("path", ADDRESSES)
def test_spoofing_changes_no_byte_of_an_answer(served: Served, path: str) -> None:
    with httpx.Client(base_url=served.url) as http:
        honest = answer(http, path)
        assert answer(http, path) == honest
        for headers in [*SPOOFED, EVERYTHING]:
            assert answer(http, path, headers=headers) == honest
        doubled = [(name, value) for name, value in EVERYTHING.items() for _ in range(2)]
        assert answer(http, path, headers=doubled) == honest


def test_the_same_page_says_something_else_to_a_trusted_proxy(behind: Served) -> None:
    said = {"X-Forwarded-Host": "speech.example", "X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=behind.url) as http:
        assert http.get("/config", headers=said).json()["root"] == "https://speech.example/speech"
        assert http.get("/speech/config", headers=said).json()["root"] == "https://speech.example/speech"
        assert http.get("/config").json()["root"] == f"{behind.url}/speech"
        slash = http.get("/speech?debug", headers=said)
        assert (slash.status_code, slash.headers["location"]) == (308, "/speech/?debug")
        handed_on = {**said, "Forwarded": "host=evil.example", "X-Gradio-Server": "http://evil.example"}
        assert "evil" not in http.get("/", headers={**handed_on, "X-Forwarded-Prefix": "/evil"}).text


def test_a_false_host_says_nothing_to_others(served: Served) -> None:
    # Whoever sends a false Host is answered with it; nobody else is.
    with httpx.Client(base_url=served.url) as http:
        honest = answer(http, "/config")
        http.get("/config", headers={"Host": "evil.example"})
        assert answer(http, "/config") == honest


@pytest.mark.parametrize("raw", [b"Host: a\r\nHost: b\r\n", b""])
def test_a_host_twice_or_not_at_all_is_refused(served: Served, raw: bytes) -> None:
    address = urlsplit(served.url)
    with socket.create_connection(("127.0.0.1", address.port or 0), 30) as connection:
        connection.sendall(b"GET /config HTTP/1.1\r\n" + raw + b"Connection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


async def opens(url: str, origin: str, headers: dict[str, str]) -> bool:
    """Whether a client from a page at `origin` gets a session, or is refused as a page of another site."""
    status = 101
    try:
        async with client(f"{url.replace('http', 'ws', 1)}/ws/asr", origin=origin, additional_headers=headers):
            pass
    except InvalidStatus as refused:
        status = refused.response.status_code
    assert status in (101, 403)
    return status == 101


def test_spoofing_opens_no_socket_to_another_site(served: Served) -> None:
    for headers in [{}, *SPOOFED, EVERYTHING]:
        assert not asyncio.run(opens(served.url, "http://evil.example", headers))
        assert asyncio.run(opens(served.url, served.url, headers))


def test_behind_a_proxy_the_public_origin_opens_the_socket(behind: Served) -> None:
    said = {"X-Forwarded-Host": "speech.example", "X-Forwarded-Proto": "https"}
    for root in (behind.url, f"{behind.url}/speech"):
        assert asyncio.run(opens(root, "https://speech.example", said))
        assert not asyncio.run(opens(root, behind.url, said))
        assert not asyncio.run(opens(root, "https://evil.example", {**said, "X-Gradio-Server": "https://evil.example"}))
