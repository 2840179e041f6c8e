"""What this machine is called, seen from itself and from its network. Asks the operating system; sends nothing."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import psutil

Address = IPv4Address | IPv6Address

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_LONGEST_DNS_NAME = 253
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Names:
    """The names that a certificate is for: DNS names, and addresses as such."""

    dns: tuple[str, ...]
    ips: tuple[Address, ...]


def local_addresses() -> tuple[Address, ...]:
    """The addresses by which other machines reach this one: those of interfaces that are up, IPv4 first.

    Left out are loopback, link-local IPv6 (a browser cannot name the interface that goes with it) and public IPv6:
    systems change that every day for privacy, so a certificate for it would not last.
    """
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: set[Address] = set()
    for name, entries in psutil.net_if_addrs().items():
        if name in up:
            found.update(_addresses(entry.address for entry in entries if entry.family in _FAMILIES))
    return _sorted(address for address in found if _is_lasting(address))


def _addresses(texts: Iterable[str]) -> Iterable[Address]:
    for text in texts:
        yield ipaddress.ip_address(text.partition("%")[0])  # fe80::1%eth0: the scope is no part of the address


def _is_lasting(address: Address) -> bool:
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return False
    return isinstance(address, IPv4Address) or address in _UNIQUE_LOCAL


def _sorted(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def host_names(host: str | None = None) -> tuple[str, ...]:
    """The machine's host name as others may type it: as it is, its first label, and that label in `.local` (mDNS).

    A name that is no DNS name (an underscore, a space) is left out: no browser accepts a certificate for it.
    """
    full = (socket.gethostname() if host is None else host).rstrip(".").lower()
    first = full.partition(".")[0]
    names = dict.fromkeys((full, first, f"{first}.local"))
    return tuple(name for name in names if name != "localhost.local" and _is_dns_name(name))


def _is_dns_name(name: str) -> bool:
    labels = name.split(".")
    # A name whose last label is a number would be read as an address.
    numeric = labels[-1].isdigit()
    return len(name) <= _LONGEST_DNS_NAME and not numeric and all(_DNS_LABEL.fullmatch(label) for label in labels)


def own_names() -> Names:
    """Everything that a certificate of this machine should be for."""
    return names_of(local_addresses(), host_names())


def names_of(addresses: Iterable[Address], hosts: Iterable[str]) -> Names:
    """localhost and its addresses in front, then `hosts` and `addresses`; nothing twice."""
    return Names(tuple(dict.fromkeys(("localhost", *hosts))), tuple(dict.fromkeys((*_LOOPBACK, *addresses))))


def page_urls(host: str, port: int, tls: bool, addresses: Iterable[Address] | None = None) -> tuple[str, ...]:
    """Every address at which the page can be opened when the server listens on `host` and `port`.

    Bound to all addresses these are localhost and each of `addresses` (by default `local_addresses`) of the family
    that is listened on; bound to one it is that one. Without `tls` a browser gives the microphone to localhost only.
    """
    bound = _as_address(host)
    if bound in _LOOPBACK:
        return (_url("localhost", port, tls),)
    if bound is None or not bound.is_unspecified:
        return (_url(host, port, tls),)
    own = local_addresses() if addresses is None else addresses
    reachable = (str(address) for address in own if address.version == bound.version)
    return tuple(_url(name, port, tls) for name in ("localhost", *reachable))


def _as_address(host: str) -> Address | None:
    if host == "":  # what asyncio and sockets take as all addresses
        return IPv4Address(0)
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _url(host: str, port: int, tls: bool) -> str:
    scheme = "https" if tls else "http"
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")
