"""Closes connections that are open without a request: silent from the start, or with headers that never end.

uvicorn itself waits for the next request after an answer, but for the first one, and for the end of one that has
begun, it waits forever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class IdleConnections:
    """`sweep` is called now and then with the connections of uvicorn's server that exist."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Any, float] = {}

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """Closes what has no request for too long; `now` in seconds of any clock that never goes back.

        A connection that is closed politely and is still there after the same time again is cut off.
        """
        idle = [connection for connection in connections if _has_no_request(connection)]
        self._since = {connection: self._since.get(connection, now) for connection in idle}
        for connection, since in self._since.items():
            if now - since >= 2 * self._seconds:
                connection.transport.abort()
            elif now - since >= self._seconds:
                connection.transport.close()


def _has_no_request(connection: Any) -> bool:
    """Whether it is one for HTTP (a WebSocket's has no cycle) and uvicorn is not answering anything on it."""
    return hasattr(connection, "cycle") and (connection.cycle is None or connection.cycle.response_complete)
