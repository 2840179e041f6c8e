"""API keys and passwords: what a request brings, and whether it is right. No secret is told by the time it takes."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Scope

SUBPROTOCOL = "openai-insecure-api-key."
"""How OpenAI's own client puts a key into a browser's WebSocket: as the name of one of the subprotocols it offers."""


class Secrets:
    """Texts that are known here only as keyed hashes, all of one length: comparing tells neither length nor letters.

    The key of the hashes is new in each process, so they are of no use to whoever reads them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._key = secrets.token_bytes(32)
        self._hashes = [self._hash(text) for text in texts]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __contains__(self, text: str) -> bool:
        given, found = self._hash(text), False
        for known in self._hashes:  # all of them, so that the time does not tell which one it was
            found |= hmac.compare_digest(known, given)
        return found

    def name(self, text: str) -> str:
        """A name for a text, by which it can be counted and not be known."""
        return self._hash(text).hex()

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(errors="surrogateescape"), "sha256")


def given_keys(scope: Scope, headers: Headers) -> list[str]:
    """The API keys that a request brings.

    A browser's WebSocket can carry no header of its page's choice: where the handshake has an Origin, and only there,
    the query (`?api_key=`) and the subprotocols count too.
    """
    keys = _of_scheme(headers, "bearer")
    if scope["type"] == "websocket" and "origin" in headers:
        keys += parse_qs(scope["query_string"].decode("latin-1")).get("api_key", [])
        offered: list[Any] = scope.get("subprotocols") or []
        keys += [name.removeprefix(SUBPROTOCOL) for name in offered if name.startswith(SUBPROTOCOL)]
    return keys


def given_users(headers: Headers) -> list[str]:
    """The USER:PASSWORD that a request brings (HTTP Basic, RFC 7617)."""
    users = []
    for value in _of_scheme(headers, "basic"):
        try:
            users.append(base64.b64decode(value, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError, ValueError):
            users.append("")  # a wrong one all the same
    return users


def _of_scheme(headers: Headers, scheme: str) -> list[str]:
    parts = [value.strip().partition(" ") for value in headers.getlist("authorization")]
    return [value.strip() for name, _, value in parts if name.lower() == scheme]
