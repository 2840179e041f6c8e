"""Origin check: pages of other sites may use nothing here, and those of allowed origins only the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from qwen_asr.errors import Forbidden
from qwen_asr.network import HostHeader, parse_host, split_url

if TYPE_CHECKING:
    from starlette.types import Scope

ANY_ORIGIN = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class AllowedOrigins:
    """The origins that `--allowed-origins` names, beside the server's own.

    `framed`: pages of other sites may show this page in a frame, as on a Hugging Face Space.
    """

    def __init__(self, origins: Iterable[str] = (), *, framed: bool = False) -> None:
        self._origins = {origin.lower() for origin in origins}
        self._documents = {"document", "iframe"} if framed else {"document"}

    def check(self, scope: Scope, *, api: bool) -> bool:
        """Returns whether the request comes from an allowed origin that is not the server's own.

        Those may use the `api` only. Raises Forbidden for a request from a page of any other site.

        Browsers send the page's origin with every WebSocket handshake, every POST and every request across origins,
        and no page can change it (RFC 6454; RFC 6455, section 10.2). Other clients send none. `Sec-Fetch-Site` (W3C
        Fetch Metadata) tells the same of the requests that have no Origin, such as those for images. It counts before
        a comparison with the Host header, which a proxy may have changed.
        """
        headers = Headers(scope=scope)
        origins = headers.getlist("origin")
        site = headers.get("sec-fetch-site")
        # For the browser the scheme counts, unlike for `same_origin`: plain HTTP is another site than HTTPS.
        elsewhere = site in ("cross-site", "same-site") and scope["type"] == "http"
        if site == "same-origin" or (origins and not elsewhere and same_origin(headers)):
            return False
        if origins:
            if api and all(self._allows(origin) for origin in origins):
                return True
            raise Forbidden(
                "The Origin header names another site: this address is for the server's own pages, for origins that "
                "--allowed-origins names, and for programs that send no Origin. Behind a proxy, have it pass on the "
                "Host header."
            )
        if site in ("cross-site", "same-site") and not self._is_navigation(scope, headers):
            raise Forbidden("Another site asked for this address from a page of its own; only links may lead here.")
        return False

    def _allows(self, origin: str) -> bool:
        return ANY_ORIGIN in self._origins or origin.lower() in self._origins

    def _is_navigation(self, scope: Scope, headers: Headers) -> bool:
        """Whether it is a link to this address, which shows nothing to the page that contains it."""
        return (
            scope.get("method") in ("GET", "HEAD")
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") in self._documents
        )


def same_origin(headers: Headers) -> bool:
    """Whether the request has no Origin header, or one with the host and port of its Host header.

    The scheme is not compared: behind a proxy that ends TLS the server does not know its own.
    """
    host = parse_host(headers.get("host", ""))
    return all(host is not None and _is_at(origin, host) for origin in headers.getlist("origin"))


def _is_at(origin: str, host: HostHeader) -> bool:
    url = split_url(origin)
    default = _DEFAULT_PORTS.get(url.scheme)
    own = parse_host(url.netloc)
    if default is None or own is None:  # among them "null", which sandboxed pages and local files send
        return False
    return (own.name, own.port or default) == (host.name, host.port or default)
