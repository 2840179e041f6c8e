"""The idle timeout, with a clock of the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.web.transport.idle_timeout import IdleTimeout

LIMITS = AcceptorLimits(idle_seconds=5.0, body_seconds=100.0, body_bytes_per_second=10)


class Connection:
    """An HTTP connection of uvicorn, as far as the timeout sees it."""

    def __init__(self, cycle: Any = None) -> None:
        self.cycle = cycle
        self.received = 0
        self.flow = SimpleNamespace(read_paused=False)
        self.calls: list[str] = []
        self.transport = SimpleNamespace(
            close=lambda: self.calls.append("close"), abort=lambda: self.calls.append("abort")
        )


RUNNING = SimpleNamespace(response_complete=False, more_body=False, waiting_for_100_continue=False)
COMPLETE = SimpleNamespace(response_complete=True, more_body=False, waiting_for_100_continue=False)


def uploading(**changes: bool) -> SimpleNamespace:
    """A request whose body is on its way."""
    return SimpleNamespace(**{**vars(RUNNING), "more_body": True, **changes})


def test_a_connection_without_a_request_is_closed_and_then_aborted() -> None:
    timeout, connection = IdleTimeout(LIMITS), Connection()
    for now in (100.0, 104.9):
        timeout.check([connection], now)
        assert connection.calls == []
    timeout.check([connection], 105.0)
    assert connection.calls == ["close"]
    timeout.check([connection], 110.0)
    assert connection.calls == ["close", "abort"]


def test_a_running_request_is_never_idle_and_restarts_the_timeout() -> None:
    timeout, connection = IdleTimeout(LIMITS), Connection()
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
    timeout, websocket, ended = IdleTimeout(LIMITS), Connection(), Connection()
    del websocket.cycle
    timeout.check([websocket, ended], 0.0)
    timeout.check([websocket], 100.0)
    assert websocket.calls == ended.calls == []
    timeout.check([websocket, ended], 101.0)  # a new idle time
    assert ended.calls == []


def test_a_body_that_never_comes_ends_the_connection() -> None:
    timeout, connection = IdleTimeout(LIMITS), Connection(uploading())
    for now in (1000.0, 1099.0):
        timeout.check([connection], now)
        assert connection.calls == []
    timeout.check([connection], 1100.0)
    assert connection.calls == ["abort"]


def test_a_body_may_arrive_as_slowly_as_the_least_rate() -> None:
    timeout, right, slow = IdleTimeout(LIMITS), Connection(uploading()), Connection(uploading())
    for second in range(3000):
        timeout.check([right, slow], float(second))
        right.received += 10
        slow.received += 9 if second < 1001 else 0
        assert right.calls == []
        if second < 1000:  # by then it is 1000 s · (10 - 9) bytes behind, which is `body_seconds`
            assert slow.calls == []
    assert slow.calls


def test_time_in_which_the_server_reads_no_body_does_not_count() -> None:
    for changes in ({"more_body": False}, {"waiting_for_100_continue": True}):
        timeout, connection = IdleTimeout(LIMITS), Connection(uploading(**changes))
        timeout.check([connection], 0.0)
        timeout.check([connection], 1000.0)
        assert connection.calls == [], changes
    timeout, connection = IdleTimeout(LIMITS), Connection(uploading())
    timeout.check([connection], 0.0)
    connection.flow.read_paused = True
    timeout.check([connection], 99.0)
    connection.flow.read_paused = False
    for now in (100.0, 199.0):
        timeout.check([connection], now)
        assert connection.calls == []
    timeout.check([connection], 200.0)
    assert connection.calls == ["abort"]
