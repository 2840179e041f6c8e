"""Forwarded headers: a trusted proxy's become the facts of the request, and nobody's reach what is behind.

Gradio takes X-Forwarded-Host, X-Forwarded-Proto and X-Gradio-Server from anybody (`route_utils.get_request_origin`), so
none of them gets past here. What a trusted proxy says stands in the ASGI scope afterwards, where Starlette, Gradio and
our routes look first: `scheme`, `client`, the Host header and `root_path`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

from qwen_asr.config.proxies import TrustedProxies
from qwen_asr.network import parse_address

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

# Read from a trusted proxy are three headers, which nginx sets if told to and Caddy by itself. No other is read from
# anybody: a proxy that does not set a header hands on what its client put there, in the proxy's good name. `Forwarded`
# (RFC 7239), -Port, -Prefix and X-Real-IP say nothing that the three and --root-path do not say.
_FOR, _PROTO, _HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_REMOVED = re.compile(rb"x-forwarded(-.*)?|forwarded|x-real-ip|x-gradio-server", re.DOTALL)
_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}
_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._~-]{1,253})(?::([0-9]{1,5}))?", re.IGNORECASE)

_MOST_WARNINGS = 10  # about so many peers, each once: whoever can send a header could fill the log


class Forwarded:
    """ASGI middleware, to be the outermost: see the module.

    `root_path` is the public path that the proxy puts in front; whether it takes it off again is its own affair.
    """

    def __init__(self, app: ASGIApp, trusted: TrustedProxies, root_path: str = "") -> None:
        self._app = app
        self._trusted = trusted
        self._root_path = root_path
        self._warned: set[str | None] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its facts put right."""
        if scope["type"] in ("http", "websocket"):
            scope = self._put_right(scope)
            if scope["type"] == "http" and self._root_path and scope["path"] == self._root_path:
                # The page names its scripts relative to itself, so without the slash they would not be found.
                query = scope.get("query_string", b"").decode("latin-1")
                there = f"{self._root_path}/" + (f"?{query}" if query else "")
                await RedirectResponse(there, status_code=308)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _put_right(self, scope: Scope) -> Scope:
        said: dict[bytes, list[bytes]] = {}
        kept: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            # Removed with underscores too, which some programs take for the same; believed only as it is meant to be.
            if _REMOVED.fullmatch(name.lower().replace(b"_", b"-")):
                said.setdefault(name.lower(), []).append(value)
            else:
                kept.append((name, value))
        scope = {**scope, "headers": kept}
        peer = scope["client"][0] if scope.get("client") else None
        if self._trusted.trusts_peer(peer):
            self._believe(scope, peer, said)
        elif said:
            self._warn(peer)
        if self._root_path:
            self._set_root_path(scope)
        return scope

    def _believe(self, scope: Scope, peer: str | None, said: dict[bytes, list[bytes]]) -> None:
        # A list in several lines is one list (RFC 9110 5.3).
        if (forwarded_for := _text(said.get(_FOR, []))) and (client := self._trusted.client(peer or "", forwarded_for)):
            scope["client"] = (client, 0)
        if (secure := _is_secure(_text(said.get(_PROTO, [])))) is not None:
            name = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = name + "s" * secure
        host = _last(said.get(_HOST, []))
        if is_host(host):
            others = [(name, value) for name, value in scope["headers"] if name.lower() != b"host"]
            scope["headers"] = [(b"host", host.encode("ascii")), *others]

    def _set_root_path(self, scope: Scope) -> None:
        root, path = self._root_path, scope["path"]
        raw = scope.get("raw_path") or path.encode()
        if path != root and not path.startswith(f"{root}/"):
            scope["path"], scope["raw_path"] = root + path, root.encode("ascii") + raw
        scope["root_path"] = root

    def _warn(self, peer: str | None) -> None:
        if peer not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(peer)
            log.warning(
                "Forwarded headers from %s were ignored. If that is your proxy, give --forwarded-allow-ips %s.",
                peer,
                peer,
            )


def is_host(text: str) -> bool:
    """Whether that can be the value of a Host header: a name or address, and perhaps a port (RFC 9110 7.2)."""
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or not 0 < int(found[2] or 1) < 65536:
        return False
    return not text.startswith("[") or parse_address(found[1][1:-1]) is not None


def _is_secure(schemes: str) -> bool | None:
    """Whether a browser's end of the way is HTTPS; None where that is not said.

    Of several proxies those inside often speak plain HTTP with each other, and some append that. A client that makes
    an `https` up has only its own links changed, and only where a proxy appends instead of replacing.
    """
    found = {_SCHEMES.get(scheme.strip(" \t").lower()) for scheme in schemes.split(",")}
    return True in found if None not in found else None


def _text(values: list[bytes]) -> str:
    return b",".join(values).decode("latin-1")


def _last(values: list[bytes]) -> str:
    """The last of a list: what the peer itself has said, where it has added to what others said before."""
    return _text(values).rpartition(",")[2].strip(" \t")
