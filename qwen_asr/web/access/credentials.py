"""API keys and passwords: reading them from a request, and comparing them in constant time."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Scope

SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix with which OpenAI's browser client sends an API key: as the name of one of the subprotocols it offers."""

KEY_PROTOCOLS = ("token", "bearer")
"""The subprotocol before a key, as Deepgram's browser client offers the two: `["token", KEY]`."""

KEY_HEADERS = ("x-api-key", "api-key")
"""Headers that hold nothing but the key: the first is common with gateways, the second is that of Azure OpenAI."""


class Secrets:
    """A set of secrets, kept as keyed hashes of one length, so that comparing reveals neither length nor content.

    The hash key is random for each process, so the hashes are useless outside of it.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._key = secrets.token_bytes(32)
        self._hashes = [self._hash(text) for text in texts]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __contains__(self, text: str) -> bool:
        given, found = self._hash(text), False
        for known in self._hashes:  # always all of them, so that the time does not reveal which one matched
            found |= hmac.compare_digest(known, given)
        return found

    def identifier(self, text: str) -> str:
        """An identifier for `text` that does not reveal it, for counting requests."""
        return self._hash(text).hex()

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(errors="surrogateescape"), "sha256")


def api_keys(scope: Scope, headers: Headers) -> list[str]:
    """The API keys in a request: ``Authorization: Bearer KEY`` or ``Token KEY``, ``X-API-Key`` or ``api-key``.

    In the handshake of a WebSocket ``?api_key=`` in the query and the subprotocols count too, because the WebSocket of
    browsers, and of the runtimes that are modelled on them, cannot send headers. Elsewhere they do not: addresses end
    up in logs and histories.
    """
    keys = [key for scheme in ("bearer", "token") for key in _credentials(headers, scheme)]
    keys += [value for name in KEY_HEADERS for value in headers.getlist(name)]
    if scope["type"] == "websocket":
        keys += parse_qs(scope["query_string"].decode("latin-1")).get("api_key", [])
        offered: list[Any] = scope.get("subprotocols") or []
        keys += [name.removeprefix(SUBPROTOCOL) for name in offered if name.startswith(SUBPROTOCOL)]
        keys += [key for name, key in pairwise(offered) if name in KEY_PROTOCOLS]
    return keys


def basic_users(headers: Headers) -> list[str]:
    """The USER:PASSWORD pairs in a request (HTTP Basic, RFC 7617); empty text for a pair that cannot be decoded."""
    users = []
    for value in _credentials(headers, "basic"):
        try:
            users.append(base64.b64decode(value, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError, ValueError):
            users.append("")
    return users


def _credentials(headers: Headers, scheme: str) -> list[str]:
    parts = [value.strip().partition(" ") for value in headers.getlist("authorization")]
    return [value.strip() for name, _, value in parts if name.lower() == scheme]
