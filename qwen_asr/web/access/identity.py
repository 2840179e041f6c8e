"""Who sent a request, as the access guard found out: the owner of recordings, sessions and uploads.

An identity is a text such as ``user ada``, ``key 3f…`` or ``visitor 9a…``. It holds no secret. It is empty for a
program without credentials and for a browser without cookies.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from qwen_asr.web.access.cookies import CookieWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from starlette.types import Scope

_SCOPE_KEY = "qwen_asr.identity"
_VISITOR = re.compile(r"[\w-]{22}")


def set_identity(scope: Scope, identity: str) -> None:
    """Records who sent the request."""
    scope[_SCOPE_KEY] = identity


def identity(scope: Mapping[str, Any]) -> str:
    """Who sent the request of that ASGI scope."""
    return str(scope.get(_SCOPE_KEY, ""))


class Visitors:
    """Tells apart the browsers on a page without a login, by a random cookie for each."""

    def __init__(self, cookies: CookieWriter) -> None:
        self._cookies = cookies

    def read(self, scope: Scope) -> str | None:
        """The random text of that browser, 128 bits; None if it has none."""
        value = HTTPConnection(scope).cookies.get(self._cookies.name(scope), "")
        return value if _VISITOR.fullmatch(value) else None

    def new_header(self, scope: Scope) -> str:
        """A `Set-Cookie` header with a new random text. The browser forgets it when it is closed."""
        return self._cookies.header(scope, secrets.token_urlsafe(16))
