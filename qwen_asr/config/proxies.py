"""What may stand in front of the server: proxies whose word counts, and the path under which they publish it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from qwen_asr.errors import BadConfig
from qwen_asr.network import Address, Network, parse_address, parse_host

ANYBODY = "*"
LOOPBACK = ("127.0.0.1", "::1")
ALL_NETWORKS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))

_OURS = ("v1", "ws", "healthz", "readyz", "metrics", "trust", "ca.pem")
_GRADIOS = (
    *("gradio_api", "assets", "static", "svelte", "config", "login", "logout", "monitoring", "theme.css"),
    *("robots.txt", "favicon.ico", "pwa_icon", "manifest.json", "openapi.json"),
)
OWN_PATHS = frozenset(_OURS + _GRADIOS)
"""What addresses of the server itself begin with. A proxy may take the public path off or leave it on, and in a public
path like one of these nobody could tell which it has done."""

# The unreserved characters of RFC 3986, so that no part of a path is ever written in two ways.
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class TrustedProxies:
    """The peers whose forwarded headers count.

    `texts` are addresses, networks (`10.0.0.0/8`), or comma lists of them. ``*`` is whoever connects: right where the
    proxy alone can reach the port. Raises BadConfig.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        parts = [part.strip() for text in texts for part in text.split(",")]
        self._anybody = ANYBODY in parts
        self._networks = tuple(_network(part) for part in parts if part != ANYBODY)
        if not self._anybody and any(network in ALL_NETWORKS for network in self._networks):
            raise BadConfig(
                "--forwarded-allow-ips was given all addresses there are, by which every client could name any address "
                "as its own: give the proxy's address, or * where nobody but the proxy can reach the port."
            )

    def trusts_peer(self, host: str | None) -> bool:
        """Whether what a connection from `host` says of its clients is believed. None: a socket without addresses."""
        return self._anybody or (host is not None and self._holds(parse_address(host)))

    def client(self, peer: str, forwarded_for: str) -> str:
        """Who a trusted peer speaks for: the rightmost address of X-Forwarded-For that is no trusted proxy.

        Each proxy appends the address that it saw, so from the right each is as good as the proxy behind it; what
        stands left of an address that is not trusted was made up by whoever sits there. It ends, too, at what is no
        address. With ``*`` only the peer itself is known to be a proxy, so exactly one address is taken.
        """
        found = peer
        for part in reversed(forwarded_for.split(",")):
            address = parse_address(_without_port(part.strip()))
            if address is None:
                break
            found = str(address)
            if not self._holds(address):
                break
        return found

    def _holds(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def check_root_path(path: str) -> None:
    """Raises BadConfig for what is no plain path such as ``/speech``."""
    if not _ROOT_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise BadConfig(
            f"--root-path was given {path!r}, but expects a path such as /speech: it begins with a slash and ends "
            "without one, and holds only letters, digits and . _ ~ - between slashes. At a domain's root leave it out."
        )
    if (first := path.split("/")[1]) in OWN_PATHS:
        raise BadConfig(f"--root-path was given {path}, but /{first} is an address of the server itself: take another.")


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        remedy = "set its last bits to zero" if "host bits" in str(error) else "names are not looked up"
        raise BadConfig(
            f"--forwarded-allow-ips was given {text!r}, but expects addresses such as 127.0.0.1, networks such as "
            f"10.0.0.0/8, or *: {remedy}."
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _without_port(text: str) -> str:
    """`192.0.2.1:443` and `[2001:db8::1]:443`, as some proxies write it, without the port."""
    host = parse_host(text)
    return text if host is None else host.name
