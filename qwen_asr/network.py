"""IP addresses, host names and the Host header: parsing, normal forms, and which names are loopback."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOST_NAME = 253
"""Characters of a host name (RFC 1035, section 2.3.4, without the length bytes)."""

# Stricter than RFC 3986, which also allows percent-encoding, `~` and sub-delimiters in a registered name: no DNS name
# has them. Underscores are in names of local networks.
_HOST = re.compile(
    r"(?:(?P<name>(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)|\[(?P<ipv6>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HostHeader:
    """The value of a Host header. `str()` writes it as a header again.

    `name` is a host name, an IPv4 address, or an IPv6 address without brackets; in lower case, without a trailing dot.
    `port` is 1 to 65535, or None where the header has none.
    """

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


def split_url(text: str) -> SplitResult:
    """As `urllib.parse.urlsplit`; all parts are empty for what is no URL, such as brackets without an address."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")


def parse_host(text: str) -> HostHeader | None:
    """Parses `name[:port]` as in a Host header (RFC 9110, section 7.2); None for anything else.

    Rejected, among others: user information, paths, white space, non-ASCII characters, an empty name or label, a name
    that starts with a hyphen or is longer than 253 characters, an IPv6 address without brackets or with a zone, and a
    port that is empty or not in 1 to 65535.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 0 < port < 65536:
        return None
    if (ipv6 := match["ipv6"]) is not None:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            return None
        return HostHeader(ipv6.lower(), port)
    if len(match["name"]) > MAX_HOST_NAME:
        return None
    return HostHeader(normalize_host_name(match["name"]), port)


def normalize_host_name(name: str) -> str:
    """A host name or address without port, as `HostHeader.name` has it: lower case, no trailing dot, no brackets."""
    return name.lower().rstrip(".").strip("[]")


def parse_address(text: str) -> Address | None:
    """Parses an IP address; None for anything else.

    An IPv4-mapped IPv6 address becomes IPv4: a socket for both families shows the peer 192.0.2.1 as
    ``::ffff:192.0.2.1``.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_prefix(host: str) -> str:
    """The key by which a client is counted: an IPv4 address, the /64 of an IPv6 address, else `host` unchanged.

    A household or a host usually has a whole /64. Counted by address it would have 2**64 times the limit of others.
    The loopback address of IPv6 is no network, and stays as it is.
    """
    address = parse_address(host.partition("%")[0])
    if address is None:
        return host
    return str(
        address if address.version == 4 or address.is_loopback else ipaddress.ip_network((address, 64), strict=False)
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address always means this machine, whatever resolves it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that stand for an IPv4 address behind a translator (NAT64, RFC 6052)."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to one host on the public internet, by IANA's registries of special addresses.

    An IPv6 address that holds an IPv4 address, to which its packets may be sent on, is as public as that.
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
        if address.is_site_local or address.teredo is not None:
            return False
    # Python takes multicast for global.
    return address.is_global and not (address.is_multicast or address.is_reserved)
