"""The names and addresses of the machine, and the URLs of its page."""

from __future__ import annotations

import ipaddress
import socket
import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.network import Address
from qwen_asr.tls.addresses import host_names, local_addresses, names_of, own_names, page_urls

LAN: tuple[Address, ...] = (IPv4Address("192.0.2.7"), IPv4Address("198.51.100.9"), IPv6Address("fd00::7"))


def test_each_local_address_belongs_to_this_machine() -> None:
    for address in local_addresses():
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.bind((str(address), 0))  # fails for an address of another machine


def test_local_addresses_are_reachable_from_outside_and_in_a_stable_order() -> None:
    addresses = local_addresses()
    assert addresses == local_addresses()
    assert len(set(addresses)) == len(addresses)
    assert not any(address.is_loopback or address.is_unspecified or address.is_multicast for address in addresses)
    assert not any(address.version == 6 and address.is_link_local for address in addresses)


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("studio", ("studio", "studio.local")),
        ("Studio.Example.ORG", ("studio.example.org", "studio", "studio.local")),
        ("studio.local", ("studio.local", "studio")),
        ("localhost", ("localhost",)),
        ("my_box", ()),
        ("", ()),
        ("-box", ()),
        ("10", ("10.local",)),
        ("a" * 64, ()),
    ],
)
def test_host_names(host: str, names: tuple[str, ...]) -> None:
    assert host_names(host) == names


@given(st.text(alphabet=string.ascii_letters + string.digits + "-._ é*", max_size=80))
def test_names_from_any_host_name_are_allowed_in_a_certificate(host: str) -> None:
    for name in host_names(host):
        assert name == name.lower()
        assert x509.DNSName(name).value == name
        with pytest.raises(ValueError, match="does not appear to be"):
            ipaddress.ip_address(name)


def test_own_names_contain_localhost_the_host_names_and_all_addresses() -> None:
    names = own_names()
    assert names.dns[0] == "localhost"
    assert set(host_names()) <= set(names.dns)
    assert {IPv4Address("127.0.0.1"), IPv6Address("::1"), *local_addresses()} == set(names.ips)


def test_own_names_contain_the_allowed_hosts_that_a_certificate_can_contain() -> None:
    allowed = ["ASR.home.arpa.", "*.corp.example", "*", "*.lan", "bad_name", "[2001:db8::1]", "192.0.2.5", "localhost"]
    names, own = own_names(allowed), own_names()
    assert names.dns == (*own.dns, "asr.home.arpa", "*.corp.example")
    assert names.ips == (*own.ips, IPv6Address("2001:db8::1"), IPv4Address("192.0.2.5"))


def test_names_have_no_duplicates() -> None:
    names = names_of([IPv4Address("127.0.0.1"), *LAN, *LAN], ["localhost", "box", "box"])
    assert names.dns == ("localhost", "box")
    assert names.ips == (IPv4Address("127.0.0.1"), IPv6Address("::1"), *LAN)


@pytest.mark.parametrize(
    ("host", "port", "tls", "urls"),
    [
        ("127.0.0.1", 8000, False, ["http://localhost:8000"]),
        ("localhost", 8000, True, ["https://localhost:8000"]),
        ("::1", 8000, True, ["https://localhost:8000"]),
        ("127.0.0.5", 8000, True, ["https://127.0.0.5:8000"]),
        ("0.0.0.0", 443, True, ["https://localhost", "https://192.0.2.7", "https://198.51.100.9"]),
        ("", 80, False, ["http://localhost", "http://192.0.2.7", "http://198.51.100.9"]),
        ("::", 8000, True, ["https://localhost:8000", "https://[fd00::7]:8000"]),
        ("192.0.2.7", 80, True, ["https://192.0.2.7:80"]),
        ("fd00::7", 443, False, ["http://[fd00::7]:443"]),
        ("studio.example.org", 8443, True, ["https://studio.example.org:8443"]),
    ],
)
def test_page_urls(host: str, port: int, tls: bool, urls: list[str]) -> None:
    assert list(page_urls(host, port, tls, LAN)) == urls


def test_page_urls_of_this_machine() -> None:
    local = [address for address in local_addresses() if address.version == 4]
    assert page_urls("0.0.0.0", 8000, True) == ("https://localhost:8000", *(f"https://{ip}:8000" for ip in local))
