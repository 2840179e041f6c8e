"""Counts the open connections, so that they leave files for the rest of the process, and no address takes them all."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.logs import SeldomLog
from qwen_asr.network import client_prefix, is_loopback

log = logging.getLogger(__name__)


class OpenConnections:
    """All open connections of the process, pending or established, on all of its ports. Thread-safe.

    `most` may be open at once, and `per_address` from one client prefix. A peer for which `is_shared` is true carries
    the connections of many users, as a proxy does: it may have half of `most`.
    """

    def __init__(self, most: int, per_address: int, is_shared: Callable[[str], bool] = lambda _: False) -> None:
        self.most = most
        self.per_shared = max(1, most // 2)
        self.per_address = min(per_address, self.per_shared)
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._by_prefix = Counter[str]()
        self._total = 0
        self._logged = SeldomLog()

    @classmethod
    def within(cls, files: int, limits: AcceptorLimits, trusts_peer: Callable[[str], bool]) -> OpenConnections:
        """As many as `files`, the most that the process may open, leaves room for.

        Loopback peers, and those for which `trusts_peer` is true, are counted as shared.
        """
        most = max(files - limits.reserved_files, files // 2)
        connections = cls(
            most, limits.connections_per_address, lambda host: trusts_peer(host) or is_loopback(client_prefix(host))
        )
        if connections.per_address < limits.connections_per_address:
            log.warning(
                "This process may open %d files, so one address may have %d connections, not the %d of "
                "--max-connections-per-address: raise the limit of open files (ulimit -n, LimitNOFILE).",
                files,
                connections.per_address,
                limits.connections_per_address,
            )
        return connections

    @property
    def open(self) -> int:
        """How many are open."""
        return self._total

    def admit(self, connection: socket.socket, host: str) -> CountedSocket | None:
        """The connection, which counts until it is closed; None if there are too many: it is closed then.

        `connection` must not be used any more. `host` is the address of its peer.
        """
        prefix = client_prefix(host)
        allowed = self.per_shared if self._is_shared(host) else self.per_address
        with self._lock:
            refusal = self._refusal(prefix, allowed)
            if refusal is None:
                self._by_prefix[prefix] += 1
                self._total += 1
                return CountedSocket(connection, lambda: self._closed(prefix))
            due = self._logged.due(refusal, time.monotonic())
        connection.close()
        if due:
            log.warning("%s: more are closed at once.", refusal)
        return None

    def _refusal(self, prefix: str, allowed: int) -> str | None:
        if self._by_prefix[prefix] >= allowed:
            return f"{prefix} has {allowed} open connections, the most that one address may have here"
        if self._total >= self.most:
            return f"{self.most} connections are open, the most that the limit of open files leaves room for"
        return None

    def _closed(self, prefix: str) -> None:
        with self._lock:
            self._total -= 1
            self._by_prefix[prefix] -= 1
            if not self._by_prefix[prefix]:
                del self._by_prefix[prefix]


class CountedSocket(socket.socket):
    """A socket that takes over another, and calls a function once when it is closed."""

    def __init__(self, connection: socket.socket, on_close: Callable[[], None]) -> None:
        super().__init__(connection.family, connection.type, connection.proto, connection.detach())
        self.setblocking(False)
        self._on_close: Callable[[], None] | None = on_close

    def close(self) -> None:
        """See `socket.socket.close`."""
        super().close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
