"""The idle timeout, with a clock of the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from qwen_asr.web.transport.idle_timeout import IdleTimeout


class Connection:
    """An HTTP connection of uvicorn, as far as the timeout sees it."""

    def __init__(self, cycle: Any = None) -> None:
        self.cycle = cycle
        self.calls: list[str] = []
        self.transport = SimpleNamespace(
            close=lambda: self.calls.append("close"), abort=lambda: self.calls.append("abort")
        )


RUNNING, COMPLETE = SimpleNamespace(response_complete=False), SimpleNamespace(response_complete=True)


def test_a_connection_without_a_request_is_closed_and_then_aborted() -> None:
    timeout, connection = IdleTimeout(5.0), Connection()
    for now in (100.0, 104.9):
        timeout.check([connection], now)
        assert connection.calls == []
    timeout.check([connection], 105.0)
    assert connection.calls == ["close"]
    timeout.check([connection], 110.0)
    assert connection.calls == ["close", "abort"]


def test_a_running_request_is_never_idle_and_restarts_the_timeout() -> None:
    timeout, connection = IdleTimeout(5.0), Connection()
    timeout.check([connection], 0.0)
    connection.cycle = RUNNING
    for now in (4.0, 1000.0):
        timeout.check([connection], now)
    connection.cycle = COMPLETE
    timeout.check([connection], 1001.0)
    timeout.check([connection], 1005.9)
    assert connection.calls == []
    timeout.check([connection], 1006.0)
    assert connection.calls == ["close"]


def test_websockets_and_ended_connections_are_ignored() -> None:
    timeout, websocket, ended = IdleTimeout(5.0), Connection(), Connection()
    del websocket.cycle
    timeout.check([websocket, ended], 0.0)
    timeout.check([websocket], 100.0)
    assert websocket.calls == ended.calls == []
    timeout.check([websocket, ended], 101.0)  # a new idle time
    assert ended.calls == []
