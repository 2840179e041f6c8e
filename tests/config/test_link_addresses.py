"""From where the page's links may be fetched."""

from __future__ import annotations

import ipaddress

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.link_addresses import LinkAddresses
from qwen_asr.errors import BadConfig


@pytest.mark.parametrize("text", ["", "offf", "public,", "off,public", "10.0.0.1/8", "example.org", "*"])
def test_what_the_option_does_not_take(text: str) -> None:
    with pytest.raises(BadConfig, match="--file-links was given"):
        Config(file_links=text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("public", False, True),
        ("10.0.0.0/8", True, False),
        ("public, 10.0.0.0/8", True, True),
        ("off", False, False),
    ],
)
def test_networks_are_allowed_beside_public_addresses(text: str, inside: bool, outside: bool) -> None:
    rule = Config(file_links=text).link_addresses
    assert rule.allows(ipaddress.ip_address("10.1.2.3")) is inside
    assert rule.allows(ipaddress.ip_address("8.8.8.8")) is outside
    assert rule.enabled is (text != "off")


def test_public_addresses_are_the_default() -> None:
    assert Config().link_addresses.allows(ipaddress.ip_address("8.8.8.8"))
    assert not LinkAddresses("public").allows(ipaddress.ip_address("::1"))
