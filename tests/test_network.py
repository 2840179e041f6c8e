"""Host headers, host names and addresses."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.network import (
    HostHeader,
    client_prefix,
    is_loopback,
    is_public,
    normalize_host_name,
    parse_address,
    parse_host,
    split_url,
)

VALID = {
    "localhost": HostHeader("localhost"),
    "LOCALHOST:8000": HostHeader("localhost", 8000),
    "localhost.": HostHeader("localhost"),
    "asr.example.com:8443": HostHeader("asr.example.com", 8443),
    "ASR.Example.com.:443": HostHeader("asr.example.com", 443),
    "xn--bcher-kva.example": HostHeader("xn--bcher-kva.example"),
    "my_box": HostHeader("my_box"),
    "a.-b-.c": HostHeader("a.-b-.c"),
    "192.0.2.7": HostHeader("192.0.2.7"),
    "127.0.0.1:9": HostHeader("127.0.0.1", 9),
    "127.0.0.1.nip.io": HostHeader("127.0.0.1.nip.io"),
    "[::1]": HostHeader("::1"),
    "[::1]:8000": HostHeader("::1", 8000),
    "[2001:DB8::1]:8000": HostHeader("2001:db8::1", 8000),
    "[::ffff:192.0.2.1]": HostHeader("::ffff:192.0.2.1"),
    "a:1": HostHeader("a", 1),
    "a:65535": HostHeader("a", 65535),
    "a:0080": HostHeader("a", 80),
    "x" * 253: HostHeader("x" * 253),
}

INVALID = [
    *(
        "",
        " ",
        "a b",
        " a",
        "a ",
        "a\n",
        "a\t",
        "a\0",
        "a\x7f",
        "ä",
        "a\u00e9",
        "a\u2024b",
        "a\uff0eb",
        "\u0661",
        "a:\u0661",
    ),
    *(
        "user@a",
        "user:pass@a",
        "a/",
        "a/b",
        "http://a",
        "a?b",
        "a#b",
        "a\\b",
        "a%2eb",
        "a,b",
        "a;b",
        "a~b",
        "<a>",
        "'a'",
    ),
    *("..", ".", ".a", "a..b", "a..", "-x", "-", "x" * 254, "*", "*.a"),
    *("a:", "a:0", "a:65536", "a:99999", "a:123456", "a:http", "a:-1", "a:+1", "a: 1", "a:1 ", "a:1:2", ":80", "a::1"),
    *(
        "::1",
        "2001:db8::1",
        "[",
        "]",
        "[]",
        "[::1",
        "::1]",
        "[::g]",
        "[zz]",
        "[[::1]]",
        "[::1]a",
        "a[::1]",
        "[::1]:",
        "[::1]:0",
    ),
    *(
        "[127.0.0.1]",
        "[a]",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "[:]",
        "[1:2:3:4:5:6:7:8:9]",
        "[::1].",
        "[ ::1]",
    ),
]


@pytest.mark.parametrize(("text", "host"), VALID.items())
def test_valid_host_headers(text: str, host: HostHeader) -> None:
    assert parse_host(text) == host
    assert parse_host(str(host)) == host


@pytest.mark.parametrize("text", INVALID)
def test_invalid_host_headers(text: str) -> None:
    assert parse_host(text) is None


def test_written_as_a_header_again() -> None:
    assert str(HostHeader("asr.example.com")) == "asr.example.com"
    assert str(HostHeader("asr.example.com", 8000)) == "asr.example.com:8000"
    assert str(HostHeader("::1", 8000)) == "[::1]:8000"
    assert str(HostHeader("::1")) == "[::1]"


LABELS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_-]{0,20}", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=8).map(".".join)
PORTS = st.none() | st.integers(1, 65535)


@pytest.mark.slow
@given(NAMES, PORTS, st.booleans())
def test_every_name_makes_a_round_trip(name: str, port: int | None, dot: bool) -> None:
    text = name + "." * dot + (f":{port}" if port else "")
    host = parse_host(text)
    assert host == HostHeader(name.lower(), port)
    assert parse_host(str(host)) == host


@given(st.ip_addresses(), PORTS)
def test_every_address_makes_a_round_trip(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> None:
    host = HostHeader(str(address), port)
    assert parse_host(str(host)) == host
    assert (parse_host(str(address)) is None) == (address.version == 6)


ALMOST_HOSTS = st.lists(
    st.sampled_from(["a", "B", "-", "_", ".", ":", "[", "]", "@", "/", "\\", "%", "*", "~", " ", "\t", "\n", "\0", "ä"])
    | st.sampled_from(["::1", "[::1]", "127.0.0.1", ":80", ":0", ":65536", "localhost", "2001:db8", "%25eth0"])
).map("".join)


@pytest.mark.slow
@given(st.text(max_size=40) | ALMOST_HOSTS | st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_text_gives_none_or_a_plain_host(text: str) -> None:
    host = parse_host(text)
    if host is None:
        return
    assert parse_host(str(host)) == host
    assert text.isascii()
    assert host.name == host.name.lower()
    assert host.port is None or 0 < host.port < 65536
    assert not set(host.name) & set(" \t\r\n\0@/\\?#[]%")
    # Other parsers find the same host, and nothing but a host.
    parts = urlsplit(f"https://{text}/")
    assert (parts.netloc, parts.path, parts.username) == (text, "/", None)
    assert (parts.hostname or "").rstrip(".") == host.name
    assert parts.port == host.port


@pytest.mark.parametrize("text", VALID)
def test_httpx_finds_the_same_host(text: str) -> None:
    url, host = httpx.URL(f"https://{text}/"), parse_host(text)
    assert host is not None
    assert (url.path, url.userinfo, url.raw_host.decode().lower().rstrip(".")) == ("/", b"", host.name)
    assert url.port == (None if host.port == 443 else host.port)


@given(st.text())
def test_any_text_can_be_split_as_a_url(text: str) -> None:
    assert split_url(f"http://host/{text}").hostname == "host"
    split_url(text)


def test_what_is_no_url_has_no_parts() -> None:
    assert split_url("http://[::1]:9000/a") == urlsplit("http://[::1]:9000/a")
    assert set(split_url("http://[")) == {""}


def test_names_without_a_port_are_normalized_like_those_in_headers() -> None:
    assert normalize_host_name("ASR.Example.") == "asr.example"
    assert normalize_host_name("[2001:DB8::1]") == normalize_host_name("2001:db8::1") == "2001:db8::1"
    assert normalize_host_name("*.Corp.example") == "*.corp.example"


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert parse_address("::ffff:192.0.2.1") == ipaddress.ip_address("192.0.2.1")
    assert parse_address("2001:DB8:0::9") == ipaddress.ip_address("2001:db8::9")
    assert parse_address("localhost") is None


def test_clients_are_counted_by_ipv4_address_or_ipv6_network() -> None:
    assert client_prefix("192.0.2.1") == "192.0.2.1"
    assert client_prefix("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_prefix("2001:db8:1:2:3::4") == client_prefix("2001:db8:1:2::5") != client_prefix("2001:db8:1:3::5")
    assert client_prefix("fe80::1%eth0") == "fe80::/64"
    assert client_prefix("testclient") == "testclient"
    assert client_prefix("::1") == "::1"


def test_loopback_names_and_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "", "localhost.evil.example")))


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "fe80::1", "fec0::1", "fd00::1", "ff02::1", "2001:db8::1", "2001:0:1::1"),
        *("::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1"),
    ],
)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_address_that_holds_another_is_as_public_as_that(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for base, shift in ((0xFFFF << 32, 0), (0x64FF9B << 96, 0), (0x2002 << 112, 80)):
        assert is_public(ipaddress.IPv6Address(base | number << shift)) == is_public(address)
