"""The names and addresses of this machine, and the URLs of its page. Sends nothing over the network."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import psutil

from qwen_asr.network import Address, normalize_host_name, parse_address

_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_MAX_DNS_NAME = 253
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Names:
    """The subject alternative names of a certificate: DNS names and IP addresses."""

    dns: tuple[str, ...]
    ips: tuple[Address, ...]


def local_addresses() -> tuple[Address, ...]:
    """The addresses under which other machines reach this one: those of interfaces that are up, IPv4 first.

    Excluded are loopback, link-local IPv6 (a browser URL cannot contain the interface) and public IPv6 (privacy
    extensions change it daily, so a certificate for it would soon be wrong).
    """
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses: set[Address] = set()
    for name, entries in psutil.net_if_addrs().items():
        if name in up:
            addresses.update(_addresses(entry.address for entry in entries if entry.family in _FAMILIES))
    return _sorted(address for address in addresses if _is_stable(address))


def _addresses(texts: Iterable[str]) -> Iterable[Address]:
    for text in texts:
        yield ipaddress.ip_address(text.partition("%")[0])  # fe80::1%eth0: the scope is not part of the address


def _is_stable(address: Address) -> bool:
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return False
    return isinstance(address, IPv4Address) or address in _UNIQUE_LOCAL


def _sorted(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def host_names(host: str | None = None) -> tuple[str, ...]:
    """The forms of this machine's host name: the full name, its first label, and that label under `.local` (mDNS).

    `host` replaces the operating system's host name. A name that is not a valid DNS name (an underscore, a space) is
    omitted, because no browser accepts a certificate for it.
    """
    full = (socket.gethostname() if host is None else host).rstrip(".").lower()
    first = full.partition(".")[0]
    names = dict.fromkeys((full, first, f"{first}.local"))
    return tuple(name for name in names if name != "localhost.local" and _is_dns_name(name))


def _is_dns_name(name: str) -> bool:
    labels = name.split(".")
    # A name whose last label is a number would be parsed as an address.
    numeric = labels[-1].isdigit()
    return len(name) <= _MAX_DNS_NAME and not numeric and all(_DNS_LABEL.fullmatch(label) for label in labels)


def own_names(allowed_hosts: Iterable[str] = ()) -> Names:
    """All names and addresses that a certificate of this machine should contain.

    `allowed_hosts` are further ones that requests may use, as in `--allowed-hosts`. `*.example.org` becomes a wildcard
    name, which browsers accept for one more label. `*`, and what no certificate can contain (a wildcard for a whole
    top-level domain, an underscore), is omitted.
    """
    hosts = [normalize_host_name(host) for host in allowed_hosts]
    addresses = [address for host in hosts if (address := parse_address(host)) is not None]
    names = [host for host in hosts if _is_dns_name(host) or (host.count(".") > 1 and _is_wildcard(host))]
    return names_of((*local_addresses(), *addresses), (*host_names(), *names))


def _is_wildcard(name: str) -> bool:
    return name.startswith("*.") and _is_dns_name(name[2:])


def names_of(addresses: Iterable[Address], hosts: Iterable[str]) -> Names:
    """localhost and the loopback addresses, then `hosts` and `addresses`, without duplicates."""
    return Names(tuple(dict.fromkeys(("localhost", *hosts))), tuple(dict.fromkeys((*_LOOPBACK, *addresses))))


def page_urls(host: str, port: int, tls: bool, addresses: Iterable[Address] | None = None) -> tuple[str, ...]:
    """The URLs under which the page can be opened when the server listens on `host` and `port`.

    If the server is bound to all addresses, these are localhost and each of `addresses` (default: `local_addresses()`)
    of the same address family; otherwise the one it is bound to. Without `tls`, browsers allow the microphone on
    localhost only.
    """
    bound = _parse_bind_address(host)
    if bound in _LOOPBACK:
        return (_url("localhost", port, tls),)
    if bound is None or not bound.is_unspecified:
        return (_url(host, port, tls),)
    candidates = local_addresses() if addresses is None else addresses
    reachable = (str(address) for address in candidates if address.version == bound.version)
    return tuple(_url(name, port, tls) for name in ("localhost", *reachable))


def _parse_bind_address(host: str) -> Address | None:
    if host == "":  # asyncio and sockets read it as all addresses
        return IPv4Address(0)
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _url(host: str, port: int, tls: bool) -> str:
    scheme = "https" if tls else "http"
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")
