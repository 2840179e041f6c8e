"""Origin check: pages of other sites may not use the API or the WebSockets."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qwen_asr.errors import Forbidden
from qwen_asr.network import HostHeader, parse_host

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origin(headers: Headers) -> None:
    """Raises Forbidden for a request from a page of another site."""
    if not same_origin(headers):
        raise Forbidden(
            "The Origin header names another site: this address is for the server's own pages, and for programs that "
            "send no Origin."
        )


def same_origin(headers: Headers) -> bool:
    """Whether the request has no Origin header, or one with the host and port of its Host header.

    Browsers send the page's origin with every WebSocket handshake, and no page can change it (RFC 6454; RFC 6455,
    section 10.2). Other clients send none. The scheme is not compared: behind a proxy that ends TLS the server does not
    know its own.
    """
    host = parse_host(headers.get("host", ""))
    return all(host is not None and _is_at(origin, host) for origin in headers.getlist("origin"))


def _is_at(origin: str, host: HostHeader) -> bool:
    try:
        url = urlsplit(origin)
    except ValueError:  # such as brackets without an address
        return False
    default = _DEFAULT_PORTS.get(url.scheme)
    own = parse_host(url.netloc)
    if default is None or own is None:  # among them "null", which sandboxed pages and local files send
        return False
    return (own.name, own.port or default) == (host.name, host.port or default)
