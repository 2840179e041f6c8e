"""Forwarded headers: those of trusted proxies are applied to the ASGI scope; all others are removed.

Gradio uses X-Forwarded-Host, X-Forwarded-Proto and X-Gradio-Server from any client
(`route_utils.get_request_origin`), so none of them is passed on. What a trusted proxy sent is written to the ASGI
scope, where Starlette, Gradio and our routes read it: `scheme`, `client`, the Host header and `root_path`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

from qwen_asr.config.proxies import TrustedProxies
from qwen_asr.network import parse_host

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

# Three headers are read, from trusted proxies only. nginx sets them when configured to, Caddy by default. No other is
# read: a proxy that does not set a header passes on what its client sent, as if it were the proxy's own.
# `Forwarded` (RFC 7239), -Port, -Prefix and X-Real-IP add nothing to these three and --root-path.
_FOR, _PROTO, _HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_REMOVED = re.compile(rb"x-forwarded(-.*)?|forwarded|x-real-ip|x-gradio-server", re.DOTALL)
_IS_SECURE = {"http": False, "ws": False, "https": True, "wss": True}

_MAX_WARNINGS = 10  # peers, each warned about once: any client can send such a header, and must not fill the log


class ForwardedHeaders:
    """ASGI middleware that applies or removes forwarded headers. It must be the outermost.

    `root_path` is the public path under which the proxy publishes the server. The proxy may remove it from the path of
    a request, or leave it there.
    """

    def __init__(self, app: ASGIApp, trusted: TrustedProxies, root_path: str = "") -> None:
        self._app = app
        self._trusted = trusted
        self._root_path = root_path
        self._warned: set[str | None] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app with a corrected scope."""
        if scope["type"] in ("http", "websocket"):
            scope = self._corrected(scope)
            if scope["type"] == "http" and self._root_path and scope["path"] == self._root_path:
                # The page's scripts have relative addresses, which are wrong without the slash.
                query = scope.get("query_string", b"").decode("latin-1")
                location = f"{self._root_path}/" + (f"?{query}" if query else "")
                await RedirectResponse(location, status_code=308)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _corrected(self, scope: Scope) -> Scope:
        forwarded: dict[bytes, list[bytes]] = {}
        kept: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            # With underscores they are removed too, since some programs treat both alike, but never read.
            if _REMOVED.fullmatch(name.lower().replace(b"_", b"-")):
                forwarded.setdefault(name.lower(), []).append(value)
            else:
                kept.append((name, value))
        scope = {**scope, "headers": kept}
        peer = scope["client"][0] if scope.get("client") else None
        if self._trusted.trusts_peer(peer):
            self._apply(scope, peer, forwarded)
        elif forwarded:
            self._warn(peer)
        if self._root_path:
            self._set_root_path(scope)
        return scope

    def _apply(self, scope: Scope, peer: str | None, forwarded: dict[bytes, list[bytes]]) -> None:
        # Several header lines with lists are one list (RFC 9110, section 5.3).
        forwarded_for = _joined(forwarded.get(_FOR, []))
        if forwarded_for and (client := self._trusted.client(peer or "", forwarded_for)):
            scope["client"] = (client, 0)
        if (secure := _is_secure(_joined(forwarded.get(_PROTO, [])))) is not None:
            name = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = name + "s" * secure
        host = _last(forwarded.get(_HOST, []))
        if parse_host(host) is not None:
            others = [(name, value) for name, value in scope["headers"] if name.lower() != b"host"]
            scope["headers"] = [(b"host", host.encode("ascii")), *others]

    def _set_root_path(self, scope: Scope) -> None:
        root, path = self._root_path, scope["path"]
        raw = scope.get("raw_path") or path.encode()
        if path != root and not path.startswith(f"{root}/"):
            scope["path"], scope["raw_path"] = root + path, root.encode("ascii") + raw
        scope["root_path"] = root

    def _warn(self, peer: str | None) -> None:
        if peer not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(peer)
            log.warning(
                "Forwarded headers from %s were ignored. If that is your proxy, give --forwarded-allow-ips %s.",
                peer,
                peer,
            )


def _is_secure(schemes: str) -> bool | None:
    """Whether the browser's connection uses HTTPS; None if the header has no valid value.

    One `https` in the list is enough: behind an outer proxy with TLS, inner ones often use plain HTTP and append that.
    A client can add a false `https` only where the proxy appends instead of replacing, and changes only its own links.
    """
    found = {_IS_SECURE.get(scheme.strip(" \t").lower()) for scheme in schemes.split(",")}
    return True in found if None not in found else None


def _joined(values: list[bytes]) -> str:
    return b",".join(values).decode("latin-1")


def _last(values: list[bytes]) -> str:
    """The last element of the list: the one that the peer itself added or set."""
    return _joined(values).rpartition(",")[2].strip(" \t")
