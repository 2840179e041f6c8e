"""Client secrets: keys that a server gives to a browser for a short time, so that the browser never sees a real key.

A secret opens realtime sessions with the settings that it was made with, and nothing else. It is kept in memory only,
as a keyed hash, and is gone when the server restarts.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_asr.config.limits import GuardLimits
from qwen_asr.errors import LimitExceeded

if TYPE_CHECKING:
    from starlette.types import Scope

PREFIX = "ek_"
"""The beginning of every secret, as at OpenAI."""
LEAST_SECONDS, DEFAULT_SECONDS, MOST_SECONDS = 10, 600, 7_200
"""How long a secret is accepted: OpenAI's numbers."""
_OVERHEAD_BYTES = 1_000  # what a secret costs besides its settings, generously
_STORE, _FOUND = "qwen_asr.client_secrets", "qwen_asr.client_secret"


@dataclass(frozen=True)
class ClientSecret:
    """What a secret stands for.

    `owner`: the identity that made it, to which its sessions belong. `session`: the settings that it was made with.
    `expires_at`: Unix time in seconds.
    """

    owner: str
    session: Any
    size: int
    expires_at: int
    holder: str  # whose share of the memory it takes


class ClientSecrets:
    """The secrets of one server. Used on the event loop only."""

    def __init__(self, limits: GuardLimits | None = None, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits or GuardLimits()
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._by_hash: dict[bytes, ClientSecret] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def create(self, owner: str, address: str, session: Any, size: int, seconds: int) -> tuple[str, int]:
        """Make a secret that is accepted for so many seconds; returns it and the Unix time at which it expires.

        `size` is that of the `session` in bytes. Raises LimitExceeded if the secrets that have not expired take too
        much memory, or those of this owner, who is known by the `address` where nothing else is known.
        """
        self._drop_expired()
        holder, size = owner or address, size + _OVERHEAD_BYTES
        limits = self._limits
        own = sum(secret.size for secret in self._by_hash.values() if secret.holder == holder)
        if own + size > limits.client_secrets_bytes_per_owner:
            raise LimitExceeded("You have too many client secrets that have not expired: let them live shorter.")
        if sum(secret.size for secret in self._by_hash.values()) + size > limits.client_secrets_bytes:
            raise LimitExceeded("The server has too many client secrets that have not expired: try again later.")
        value = PREFIX + secrets.token_urlsafe(32)
        expires_at = int(self._clock()) + seconds
        self._by_hash[self._hash(value)] = ClientSecret(owner, session, size, expires_at, holder)
        return value, expires_at

    def find(self, value: str) -> ClientSecret | None:
        """What that secret stands for; None if it is unknown or has expired.

        The time of the look-up tells nothing about the secrets, because it depends on a hash with a key that nobody
        knows.
        """
        secret = self._by_hash.get(self._hash(value))
        return secret if secret is not None and self._clock() < secret.expires_at else None

    def _drop_expired(self) -> None:
        now = self._clock()
        for hashed in [hashed for hashed, secret in self._by_hash.items() if secret.expires_at <= now]:
            del self._by_hash[hashed]

    def _hash(self, value: str) -> bytes:
        return hmac.digest(self._key, value.encode(errors="surrogateescape"), "sha256")


def set_client_secrets(scope: Scope, store: ClientSecrets, found: ClientSecret | None) -> None:
    """Records the server's secrets for the route that makes them, and the one in the request, if it has one."""
    scope[_STORE], scope[_FOUND] = store, found


def client_secrets(scope: Scope) -> ClientSecrets:
    """The server's secrets."""
    store: ClientSecrets = scope[_STORE]
    return store


def client_secret(scope: Scope) -> ClientSecret | None:
    """What the secret in the request stands for; None if it has none."""
    found: ClientSecret | None = scope.get(_FOUND)
    return found
