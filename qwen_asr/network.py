"""IP addresses and host names: how they are written, and which of them lead to this machine alone."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> Address | None:
    """An IP address as its plainest form, so that two ways to write it are equal; None for anything else.

    A socket that serves both families shows IPv4 peers as ``::ffff:192.0.2.1``; that is 192.0.2.1 here.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_prefix(host: str) -> str:
    """Whom an address counts as: itself, or of IPv6 the /64 that it is in; what is no address, as it is.

    One household or one host has all of a /64, and would otherwise have 2**64 times what others have.
    """
    address = parse_address(host.partition("%")[0])
    if address is None:
        return host
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine alone, whoever resolves it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(host: str) -> str:
    """A Host header without its port, in small letters: ``[::1]:8000`` → ``::1``."""
    host = host.strip()
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return plain_name(host.partition(":")[0])


def plain_name(name: str) -> str:
    return name.lower().rstrip(".").strip("[]")
