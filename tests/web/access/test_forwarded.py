"""Forwarded headers: applied if a trusted proxy sent them, removed otherwise."""

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
from qwen_asr.network import parse_address, parse_host
from qwen_asr.service.service import Service
from qwen_asr.web.access.forwarded import ForwardedHeaders
from qwen_asr.web.access.origin import same_origin
from tests.support.browser import Served, page_config, serving, small_config
from tests.support.checkpoints import random_recognizer
from tests.support.sockets import client

pytestmark = [
    # Gradio's, on its threads: a deprecated option of pandas.
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


def forwarded_scope(
    *headers: tuple[str, str],
    peer: str | None = PROXY,
    trusted: tuple[str, ...] = (PROXY,),
    root_path: str = "",
    path: str = "/config",
    kind: str = "http",
) -> dict[str, Any]:
    """The scope that the app gets for a request with these headers."""
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
    middleware: Any = ForwardedHeaders(app, TrustedProxies(trusted), root_path)
    asyncio.run(middleware(scope, None, None))
    assert repr(scope) == before  # the server's scope is not changed
    [found] = seen
    assert isinstance(found, dict)
    return found


def header_names(scope: dict[str, Any]) -> list[str]:
    return [name.decode() for name, _ in scope["headers"]]


# --- headers of a proxy


def test_headers_of_a_trusted_proxy_are_applied() -> None:
    scope = forwarded_scope(
        ("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "speech.example:8443")
    )
    assert (scope["client"], scope["scheme"]) == ((CLIENT, 0), "https")
    assert scope["headers"] == [(b"host", b"speech.example:8443")]
    assert str(Request(scope).url) == "https://speech.example:8443/config"


def test_a_websocket_gets_the_scheme_ws_or_wss() -> None:
    for proto in ("https", "wss", "HTTPS", "https, http", "http,https"):
        assert forwarded_scope(("X-Forwarded-Proto", proto), kind="websocket")["scheme"] == "wss"
    assert forwarded_scope(("X-Forwarded-Proto", "http"), kind="websocket")["scheme"] == "ws"


@pytest.mark.parametrize("headers", [*SPOOFED, EVERYTHING], ids=lambda headers: ",".join(headers))
@pytest.mark.parametrize("peer", ["10.0.0.2", "::1", None, "a unix socket"])
def test_headers_of_others_are_removed(headers: dict[str, str], peer: str | None) -> None:
    assert forwarded_scope(*headers.items(), peer=peer) == forwarded_scope(peer=peer)


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Real-IP", "X-Gradio-Server", "X_Forwarded_Host"],
)
def test_headers_that_a_proxy_may_pass_on_from_its_client_are_removed(header: str) -> None:
    assert forwarded_scope((header, EVERYTHING[header])) == forwarded_scope()


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "expected"),
    [
        ((PROXY,), CLIENT, CLIENT),
        ((PROXY,), f"198.51.100.7, {CLIENT}", CLIENT),  # the client sent the left one
        ((PROXY,), f"{PROXY}, {CLIENT}", CLIENT),
        (("10.0.0.0/8",), f"198.51.100.7, {CLIENT}, 10.2.3.4", CLIENT),  # two proxies
        (("10.0.0.0/8",), "10.9.9.9, 10.2.3.4", "10.9.9.9"),  # the client is a proxy
        (("*",), f"198.51.100.7, {CLIENT}", CLIENT),  # exactly one proxy
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
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    trusted: tuple[str, ...], forwarded_for: str, expected: str
) -> None:
    assert forwarded_scope(("X-Forwarded-For", forwarded_for), trusted=trusted)["client"][0] == expected


def test_of_a_repeated_header_the_last_value_counts() -> None:
    twice = [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Host", "good.example"),
        ("X-Forwarded-Proto", "http, http"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "198.51.100.7"),
        ("X-Forwarded-For", CLIENT),
    ]
    scope = forwarded_scope(*twice)
    assert (scope["client"][0], scope["scheme"]) == (CLIENT, "https")
    assert scope["headers"] == [(b"host", b"good.example")]


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "user@a", "a:0", "a:65536", "a:http", "[::1", "[::g]", "[]", "a\u00e9", "a?b", "a#b", "x" * 254],
)
def test_an_invalid_host_is_ignored(host: str) -> None:
    assert parse_host(host) is None
    assert forwarded_scope(("X-Forwarded-Host", host))["headers"] == [(b"host", b"inside:8000")]


@pytest.mark.parametrize("proto", ["", "ftp", "https://", "javascript", "https;", "https, ftp", "https,", "htt\u00b5s"])
def test_an_invalid_scheme_is_ignored(proto: str) -> None:
    assert forwarded_scope(("X-Forwarded-Proto", proto))["scheme"] == "http"


def test_the_origin_is_compared_with_the_public_host() -> None:
    headers = (("X-Forwarded-Host", "speech.example"), ("Origin", "https://speech.example"))
    assert same_origin(Headers(scope=forwarded_scope(*headers, kind="websocket")))
    assert not same_origin(Headers(scope=forwarded_scope(*headers, kind="websocket", peer="10.0.0.2")))


def test_an_ipv4_mapped_address_of_a_proxy_is_its_ipv4_address() -> None:
    assert forwarded_scope(("X-Forwarded-For", CLIENT), peer=f"::ffff:{PROXY}")["client"][0] == CLIENT
    assert forwarded_scope(("X-Forwarded-For", CLIENT), trusted=(f"::ffff:{PROXY}",))["client"][0] == CLIENT


def test_ignored_headers_are_logged_once_for_each_peer(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    middleware: Any = ForwardedHeaders(app, TrustedProxies())
    peers = [PROXY, *(f"203.0.113.{number}" for number in range(100))]
    with caplog.at_level(logging.WARNING):
        for peer in peers + peers:
            scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-proto", b"https")]}
            asyncio.run(middleware(scope, None, None))
    warnings = [record.getMessage() for record in caplog.records]
    assert f"give --forwarded-allow-ips {PROXY}" in warnings[0]
    assert len(warnings) == len(set(warnings)) == 10


# --- public paths


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
def test_the_proxy_may_remove_the_public_path_or_leave_it(path: str, full: str) -> None:
    scope = forwarded_scope(path=path, root_path="/a/b")
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == (full, full.encode(), "/a/b")


@pytest.mark.parametrize("path", ["/speech", "/a/b-c/d.e", "/~me", "/..a"])
def test_valid_public_paths(path: str) -> None:
    check_root_path(path)
    assert Config(root_path=path).root_path == path


@pytest.mark.parametrize(
    "path",
    ["speech", "/", "/speech/", "//speech", "/a//b", "/a?b", "/a#b", "/a b", "/a%20b", "/../a", "/a/.", "/ä", "/a\n"],
)
def test_invalid_public_paths(path: str) -> None:
    with pytest.raises(BadConfig, match="--root-path was given"):
        Config(root_path=path)


def test_a_public_path_must_differ_from_the_paths_of_the_server(served: Served) -> None:
    with pytest.raises(BadConfig, match="/v1 is a path of the server itself"):
        Config(root_path="/v1/speech")
    app: Any = served.app
    ours = {route.path.split("/")[1] for route in app.routes if getattr(route, "path", "")} - {"{path:path}"}
    assert ours | {API_PREFIX.strip("/")} | {name.strip("/") for name in INTERNAL_ROUTES} <= OWN_PATHS


# --- trusted proxies


@pytest.mark.parametrize(
    "given",
    ["10.0.0.1/8", "proxy.example", "1.2.3", "", "127.0.0.1,", "127.0.0.1 ::1", "0.0.0.0/0", "::/0", "10.0.0.0/33"],
)
def test_invalid_lists_of_proxies(given: str) -> None:
    with pytest.raises(BadConfig, match="--forwarded-allow-ips was given"):
        Config(forwarded_allow_ips=(given,))


def test_valid_lists_of_proxies() -> None:
    trusted = Config(forwarded_allow_ips=("127.0.0.1, 192.168.0.0/16", "2001:db8::/32")).trusted_proxies
    for peer in ("127.0.0.1", "192.168.7.7", "2001:db8::7", "::ffff:192.168.7.7"):
        assert trusted.trusts_peer(peer)
    for stranger in ("127.0.0.2", "192.169.0.1", "2001:db9::7", "::1", "localhost", "", None):
        assert not trusted.trusts_peer(stranger)


def test_by_default_only_the_proxies_of_share_links_and_spaces_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Config().trusted_proxies.trusts_peer("127.0.0.1")
    assert Config(share=True).trusted_proxies.trusts_peer("127.0.0.1")
    assert not Config(share=True).trusted_proxies.trusts_peer(PROXY)
    assert Config(share=True, forwarded_allow_ips=(PROXY,)).trusted_proxies.trusts_peer("127.0.0.1")
    monkeypatch.setenv("SPACE_ID", "somebody/something")
    assert Config().trusted_proxies.trusts_peer(PROXY)


def test_the_visitor_of_a_share_link_is_the_last_address_that_is_not_inside_the_share_service() -> None:
    for forwarded in (CLIENT, f"{CLIENT}, 10.0.0.7", f"192.0.2.1, {CLIENT}, 172.31.0.9, 127.0.0.1"):
        assert Config(share=True).trusted_proxies.client("127.0.0.1", forwarded) == CLIENT
    assert Config(forwarded_allow_ips=LOOPBACK).trusted_proxies.client("127.0.0.1", f"{CLIENT}, {PROXY}") == PROXY


# --- any bytes

PARTS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:443"),
    st.ip_addresses(v=4).map(lambda address: f"{address}:443"),
    st.sampled_from(["unknown", "_x", "", " ", "\t10.2.3.4", "10.2.3.4", "%", '"10.2.3.4"']),
    st.text(max_size=20),
)


@pytest.mark.slow
@given(st.lists(PARTS, max_size=8), st.sampled_from([PROXY, "10.0.0.0/8", "::/1", "*"]))
def test_any_list_of_addresses_gives_an_address(parts: list[str], trusted: str) -> None:
    proxies = TrustedProxies([trusted])
    found = proxies.client(PROXY, ",".join(parts))
    assert parse_address(found) is not None
    # What a client puts to the left of the address that its proxy appends changes nothing.
    assert proxies.client(PROXY, ",".join([*parts, CLIENT])) == CLIENT


@given(st.lists(st.tuples(st.sampled_from(sorted(EVERYTHING)), st.binary(max_size=40)), max_size=6), st.booleans())
def test_any_bytes_in_headers_give_a_valid_scope(pairs: list[tuple[str, bytes]], trusted: bool) -> None:
    headers = [(name, value.decode("latin-1").encode("utf-8").decode("utf-8")) for name, value in pairs]
    scope = forwarded_scope(*headers, trusted=(PROXY,) if trusted else ())
    assert scope["scheme"] in ("http", "https")
    assert header_names(scope) == ["host"]
    ipaddress.ip_address(scope["client"][0])
    [host] = Headers(scope=scope).getlist("host")
    assert parse_host(host) is not None
    assert Request(scope).url.netloc == host
    if not trusted:
        assert scope == forwarded_scope(trusted=())


# --- with a real server, for which all clients of these tests are loopback peers


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that trusts no proxy, which is the default."""
    with serving(Service(small_config(allowed_hosts=("*",)), random_recognizer()), None) as server:
        yield server


@pytest.fixture(scope="module")
def behind() -> Iterator[Served]:
    """A server under a path that trusts the tests as its proxy."""
    config = small_config(root_path="/speech", forwarded_allow_ips=LOOPBACK, allowed_hosts=("speech.example",))
    with serving(Service(config, random_recognizer()), None) as server:
        yield server


PATHS = ["/", "/config", "/v1/models", "/healthz", "/theme.css", "/no/such/page", "/logout", "/gradio_api/info"]


def response_of(http: httpx.Client, path: str, **options: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body, without what differs between any two responses."""
    http.cookies.clear()
    response = http.get(path, **options)
    headers = [
        (name, re.sub("(qwen_asr_visitor_[0-9]+)=[^;]*", r"\1", value))
        for name, value in response.headers.items()
        if name != "date"
    ]
    return response.status_code, headers, response.content


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_spoofed_headers_change_no_byte_of_a_response(served: Served, path: str) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        expected = response_of(http, path)
        assert response_of(http, path) == expected
        for headers in [*SPOOFED, EVERYTHING]:
            assert response_of(http, path, headers=headers) == expected
        doubled = [(name, value) for name, value in EVERYTHING.items() for _ in range(2)]
        assert response_of(http, path, headers=doubled) == expected


def test_the_page_uses_the_public_address_from_a_trusted_proxy(behind: Served) -> None:
    headers = {"X-Forwarded-Host": "speech.example", "X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=behind.url, timeout=60) as http:
        assert page_config(http.get("/", headers=headers).text)["root"] == "https://speech.example/speech"
        assert page_config(http.get("/speech/", headers=headers).text)["root"] == "https://speech.example/speech"
        assert page_config(http.get("/").text)["root"] == f"{behind.url}/speech"
        slash = http.get("/speech?debug", headers=headers)
        assert (slash.status_code, slash.headers["location"]) == (308, "/speech/?debug")
        spoofed = {**headers, "Forwarded": "host=evil.example", "X-Gradio-Server": "http://evil.example"}
        assert "evil" not in http.get("/", headers={**spoofed, "X-Forwarded-Prefix": "/evil"}).text


def test_a_false_host_does_not_affect_other_clients(served: Served) -> None:
    # The response to a request with a false Host contains it; no other does.
    with httpx.Client(base_url=served.url, timeout=60) as http:
        expected = response_of(http, "/")
        http.get("/", headers={"Host": "evil.example"})
        assert response_of(http, "/") == expected


@pytest.mark.parametrize("raw", [b"Host: a\r\nHost: b\r\n", b""])
def test_two_host_headers_or_none_are_refused(served: Served, raw: bytes) -> None:
    address = urlsplit(served.url)
    with socket.create_connection(("127.0.0.1", address.port or 0), 30) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\n" + raw + b"Connection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


async def gets_session(url: str, origin: str, headers: dict[str, str]) -> bool:
    """Whether a page at `origin` gets a session. If not, the response has to be 403."""
    status = 101
    try:
        async with client(f"{url.replace('http', 'ws', 1)}/ws/asr", origin=origin, additional_headers=headers):
            pass
    except InvalidStatus as refused:
        status = refused.response.status_code
    assert status in (101, 403)
    return status == 101


@pytest.mark.slow
def test_spoofed_headers_do_not_allow_pages_of_other_sites(served: Served) -> None:
    for headers in [{}, *SPOOFED, EVERYTHING]:
        assert not asyncio.run(gets_session(served.url, "http://evil.example", headers))
        assert asyncio.run(gets_session(served.url, served.url, headers))


@pytest.mark.slow
def test_behind_a_proxy_the_public_origin_is_allowed(behind: Served) -> None:
    headers = {"X-Forwarded-Host": "speech.example", "X-Forwarded-Proto": "https"}
    for root in (behind.url, f"{behind.url}/speech"):
        assert asyncio.run(gets_session(root, "https://speech.example", headers))
        assert not asyncio.run(gets_session(root, behind.url, headers))
        assert not asyncio.run(
            gets_session(root, "https://evil.example", {**headers, "X-Gradio-Server": "https://evil.example"})
        )
