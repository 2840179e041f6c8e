"""Idle timeout: closes connections that send no complete request.

uvicorn has a timeout for the next request after a response, but none for the first request, or for the rest of one
that has started.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class IdleTimeout:
    """Closes connections that are idle for `seconds`. Call `check` regularly."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._idle_since: dict[Any, float] = {}

    def check(self, connections: Iterable[Any], now: float) -> None:
        """Closes idle ones among `connections`, the protocols of a uvicorn server.

        `now` is a monotonic time in seconds. A connection that still exists after twice the timeout is aborted.
        """
        idle = [connection for connection in connections if _is_idle(connection)]
        self._idle_since = {connection: self._idle_since.get(connection, now) for connection in idle}
        for connection, since in self._idle_since.items():
            if now - since >= 2 * self._seconds:
                connection.transport.abort()
            elif now - since >= self._seconds:
                connection.transport.close()


def _is_idle(connection: Any) -> bool:
    """Whether it is an HTTP connection (those of WebSockets have no `cycle`) on which no request is running."""
    return hasattr(connection, "cycle") and (connection.cycle is None or connection.cycle.response_complete)
