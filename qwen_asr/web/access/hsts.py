"""Strict-Transport-Security (RFC 6797): a browser that has been here by https never comes by http again.

Said only where it can be kept: for a name that a certificate of an authority is for. Said with a self-signed one it
would take away the browser's button to go on, and for localhost it would shut out every other server there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from qwen_asr.tls.checks import dns_and_ip_names, is_self_issued, matches_host

if TYPE_CHECKING:
    from cryptography import x509
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HSTS = "max-age=15552000"
"""180 days, and this name only: of its subdomains this server knows nothing."""
_LOCAL = ("localhost", "local", "lan", "home", "internal", "home.arpa")
"""Names below these are no public names, and of no authority that browsers bring along."""


class StrictTransport:
    """Around the app: adds the header to every answer that came over https for such a name."""

    def __init__(self, app: ASGIApp, leaf: Callable[[], x509.Certificate]) -> None:
        """`leaf` is the certificate that is served now."""
        self._app, self._leaf = app, leaf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] != "http" or scope["scheme"] != "https" or not self._is_kept(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Strict-Transport-Security"] = HSTS
            await send(message)

        await self._app(scope, receive, mark)

    def _is_kept(self, headers: Headers) -> bool:
        host = headers.get("host", "").rpartition("]")[2].partition(":")[0].rstrip(".").lower()
        return is_public(host) and is_ca_signed_for(self._leaf(), host)


def is_public(host: str) -> bool:
    """Whether it may be a name in the public DNS; no address, and none of the names of local networks."""
    labels = host.split(".")
    return len(labels) > 1 and not labels[-1].isdigit() and not any(f".{host}".endswith(f".{end}") for end in _LOCAL)


@functools.lru_cache(maxsize=256)
def is_ca_signed_for(leaf: x509.Certificate, host: str) -> bool:
    """Whether the certificate is for that DNS name, a wildcard's included, and not signed by itself."""
    return not is_self_issued(leaf) and matches_host(dns_and_ip_names(leaf), host)
