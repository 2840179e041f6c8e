"""Writes cookies with all the attributes that keep them from other sites and from scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


class CookieWriter:
    """Writes the cookie `name`.

    Its name contains the server's `port`: cookies of one host are shared by its ports (RFC 6265, section 8.5). Under
    HTTPS it begins with ``__Host-``, with which browsers take it from this very host only. `framed`: the page is shown
    in frames of other sites, as on a Hugging Face Space.
    """

    def __init__(self, name: str, port: int, *, framed: bool = False) -> None:
        self._name = f"{name}_{port}"
        self._framed = framed

    def name(self, scope: Scope) -> str:
        """The name of the cookie for the scheme of this request."""
        return f"__Host-{self._name}" if _is_secure(scope) else self._name

    def header(self, scope: Scope, value: str, max_age: float | None = None) -> str:
        """The value of a `Set-Cookie` header. `max_age` is in seconds; None until the browser is closed.

        `value` has only characters that need no quotes.
        """
        parts = [f"{self.name(scope)}={value}", "Path=/", "HttpOnly"]
        if max_age is not None:
            parts.append(f"Max-Age={max_age:.0f}")
        secure = _is_secure(scope)
        if secure:
            parts.append("Secure")
        # In a frame of another site a browser sends only these, and keeps them apart for each embedding site.
        parts += ["SameSite=None", "Partitioned"] if self._framed and secure else ["SameSite=Lax"]
        return "; ".join(parts)


def _is_secure(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")
