"""Trusted proxies in front of the server, and the public path under which a proxy publishes it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from qwen_asr.errors import BadConfig
from qwen_asr.network import Address, Network, parse_address, parse_host

ANY_PEER = "*"
LOOPBACK = ("127.0.0.1", "::1")
INSIDE = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8")
)
"""Addresses inside somebody's own network, which no visitor from the internet has (RFC 1918, RFC 4193)."""
ALL_NETWORKS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

_API_PATHS = ("v1", "ws", "api-ws", "healthz", "readyz", "metrics", "trust", "ca.pem", "icons", "page")
_GRADIO_PATHS = (
    *("gradio_api", "gradio_client", "assets", "static", "svelte", "config", "login", "logout", "monitoring"),
    "theme.css",
    *("robots.txt", "favicon.ico", "pwa_icon", "manifest.json", "openapi.json"),
)
OWN_PATHS = frozenset(_API_PATHS + _GRADIO_PATHS)
"""First segments of the server's own paths. A proxy may strip the public path or keep it; if the public path started
with one of these, the server could not know which the proxy did."""

# Unreserved characters of RFC 3986 only, so that a path can be written in just one way.
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class TrustedProxies:
    """The peers whose forwarded headers are trusted.

    `texts` are addresses, networks (`10.0.0.0/8`), or comma-separated lists of them. ``*`` trusts every peer; use it
    only if the proxy alone can reach the port. Raises `BadConfig`.

    `behind_others`: in front of the trusted peers are more proxies, whose addresses are only known to be `INSIDE` their
    network.
    """

    def __init__(self, texts: Iterable[str] = (), *, behind_others: bool = False) -> None:
        self._hops = INSIDE if behind_others else ()
        parts = [part.strip() for text in texts for part in text.split(",")]
        self._trusts_all = ANY_PEER in parts
        self._networks = tuple(_network(part) for part in parts if part != ANY_PEER)
        if not self._trusts_all and any(network in ALL_NETWORKS for network in self._networks):
            raise BadConfig(
                "--forwarded-allow-ips was given a network of all addresses, with which every client could claim any "
                "address: give the proxy's address, or * if only the proxy can reach the port."
            )

    def trusts_peer(self, host: str | None) -> bool:
        """Whether forwarded headers from the peer `host` are trusted. None: a socket without addresses."""
        return self._trusts_all or (host is not None and self._holds(parse_address(host)))

    def client(self, peer: str, forwarded_for: str) -> str:
        """The address of the client: the rightmost address of `forwarded_for` that is not a trusted proxy.

        `peer` is a trusted proxy, `forwarded_for` the value of X-Forwarded-For. Each proxy appends the address that it
        saw, so an entry is reliable only if all proxies to its right are trusted. The search also stops at an entry
        that is not an address. With ``*``, only the peer itself is known to be a proxy, so just the last entry is used.
        """
        found = peer
        for part in reversed(forwarded_for.split(",")):
            address = parse_address(_without_port(part.strip()))
            if address is None:
                break
            found = str(address)
            if not (self._holds(address) or any(address in network for network in self._hops)):
                break
        return found

    def _holds(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def check_root_path(path: str) -> None:
    """Raises `BadConfig` if `path` is not a plain path such as ``/speech``, or collides with one of `OWN_PATHS`."""
    if not _ROOT_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise BadConfig(
            f"--root-path was given {path!r}, but expects a path such as /speech, with a slash at the start, none at "
            "the end, and only letters, digits and . _ ~ - between slashes. Omit it at the root of a domain."
        )
    if (first := path.split("/")[1]) in OWN_PATHS:
        raise BadConfig(f"--root-path was given {path}, but /{first} is a path of the server itself: choose another.")


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        remedy = "set the host bits to zero" if "host bits" in str(error) else "host names are not resolved"
        raise BadConfig(
            f"--forwarded-allow-ips was given {text!r}, but expects addresses such as 127.0.0.1, networks such as "
            f"10.0.0.0/8, or *: {remedy}."
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _without_port(text: str) -> str:
    """Removes the port that some proxies add, as in `192.0.2.1:443` and `[2001:db8::1]:443`."""
    host = parse_host(text)
    return text if host is None else host.name
