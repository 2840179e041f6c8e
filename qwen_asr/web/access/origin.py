"""Whose a request is: of which crowd, by its address, and of which page, which may not be another site's."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qwen_asr.errors import Forbidden

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_origin(headers: Headers) -> None:
    """Raises Forbidden for a request of another site's page."""
    if not same_origin(headers):
        raise Forbidden("This address is for its own pages and for programs, not for pages of other sites.")


def same_origin(headers: Headers) -> bool:
    """Whether the request comes from our own page, or from no page at all.

    Browsers name the page's origin in every WebSocket handshake and no page can change that (RFC 6454, RFC 6455 10.2);
    other clients send none. Host and port have to be those that the request itself was sent to. The scheme is not
    compared: behind a proxy that ends TLS the server does not know its own.
    """
    host = headers.get("host", "").lower()
    return all(_is_at(origin.lower(), host) for origin in headers.getlist("origin"))


def _is_at(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:  # brackets that hold no address
        return False
    port = _DEFAULT_PORTS.get(parts.scheme)
    if port is None or not parts.netloc:  # "null", which sandboxed pages and files send, among them
        return False
    return parts.netloc.removesuffix(port) == host.removesuffix(port)
