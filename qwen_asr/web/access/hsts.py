"""HSTS middleware (Strict-Transport-Security, RFC 6797): browsers that came by HTTPS never use plain HTTP again.

The header is sent only for public names that a certificate of an authority covers. With a self-signed certificate it
would remove the browser's button to continue, and for localhost it would block every other server on that machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from qwen_asr.network import parse_host
from qwen_asr.tls.checks import dns_and_ip_names, is_self_issued, matches_host

if TYPE_CHECKING:
    from cryptography import x509
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HSTS = "max-age=15552000"
"""180 days, without `includeSubDomains`: this server knows nothing about the subdomains."""
_LOCAL = ("localhost", "local", "lan", "home", "internal", "home.arpa")
"""Domains of local networks. No public authority certifies names below them."""


class StrictTransport:
    """ASGI middleware that adds the header to HTTPS responses. `leaf` returns the current certificate."""

    def __init__(self, app: ASGIApp, leaf: Callable[[], x509.Certificate]) -> None:
        self._app, self._leaf = app, leaf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app."""
        if scope["type"] != "http" or scope["scheme"] != "https" or not self._applies_to(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Strict-Transport-Security"] = HSTS
            await send(message)

        await self._app(scope, receive, send_with_header)

    def _applies_to(self, headers: Headers) -> bool:
        host = parse_host(headers.get("host", ""))
        return host is not None and is_public(host.name) and is_ca_signed_for(self._leaf(), host.name)


def is_public(host: str) -> bool:
    """Whether `host`, in lower case, can be a name in the public DNS: no address, and no name of a local network."""
    labels = host.split(".")
    return len(labels) > 1 and not labels[-1].isdigit() and not any(f".{host}".endswith(f".{end}") for end in _LOCAL)


@functools.lru_cache(maxsize=256)
def is_ca_signed_for(leaf: x509.Certificate, host: str) -> bool:
    """Whether the certificate covers that DNS name, by wildcard too, and is not self-signed."""
    return not is_self_issued(leaf) and matches_host(dns_and_ip_names(leaf), host)
