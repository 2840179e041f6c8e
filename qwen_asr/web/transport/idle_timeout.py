"""Idle timeout: closes connections that send no complete request, or the body of one too slowly.

uvicorn has a timeout for the next request after a response, but none for the first request, or for the rest of one
that has started.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qwen_asr.config.limits import AcceptorLimits


class IdleTimeout:
    """Closes connections that wait for their client for too long. Call `check` regularly.

    - Without a request for `idle_seconds`.
    - With a request whose body arrives at less than `body_bytes_per_second`, after the first `body_seconds`. Time in
      which the server does not read does not count. The routes that read a body have deadlines of their own, which are
      shorter, and answer; here the connection just ends, whatever route it is and whether it reads at all.
    """

    def __init__(self, limits: AcceptorLimits) -> None:
        self._limits = limits
        self._idle_since: dict[Any, float] = {}
        self._owing_since: dict[Any, tuple[float, int]] = {}  # with the bytes received by then

    def check(self, connections: Iterable[Any], now: float) -> None:
        """Closes idle ones among `connections`, the protocols of a uvicorn server.

        `now` is a monotonic time in seconds. A connection that still exists after twice the timeout is aborted.
        """
        connections = list(connections)
        idle = [connection for connection in connections if _is_idle(connection)]
        self._idle_since = {connection: self._idle_since.get(connection, now) for connection in idle}
        for connection, since in self._idle_since.items():
            if now - since >= 2 * self._limits.idle_seconds:
                connection.transport.abort()
            elif now - since >= self._limits.idle_seconds:
                connection.transport.close()
        owing = [connection for connection in connections if _owes_body(connection)]
        self._owing_since = {
            connection: self._owing_since.get(connection, (now, connection.received)) for connection in owing
        }
        for connection, (since, before) in self._owing_since.items():
            sent = connection.received - before
            if now - since >= self._limits.body_seconds + sent / self._limits.body_bytes_per_second:
                connection.transport.abort()


def _is_idle(connection: Any) -> bool:
    """Whether it is an HTTP connection (those of WebSockets have no `cycle`) on which no request is running."""
    return hasattr(connection, "cycle") and (connection.cycle is None or connection.cycle.response_complete)


def _owes_body(connection: Any) -> bool:
    """Whether a request is running, and the server reads and waits for the rest of its body."""
    cycle = getattr(connection, "cycle", None)
    return (
        cycle is not None
        and not cycle.response_complete
        and cycle.more_body
        and not cycle.waiting_for_100_continue
        and not connection.flow.read_paused
    )
