"""How many connections an address may have, when they count no more, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Iterator

import pytest

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.web.transport.acceptor import Acceptor
from qwen_asr.web.transport.file_limit import raise_file_limit
from qwen_asr.web.transport.open_connections import OpenConnections


@contextlib.contextmanager
def open_to(connections: OpenConnections, *hosts: str) -> Iterator[list[bool]]:
    """Opens a connection for each host; yields which of them were admitted."""
    with contextlib.ExitStack() as stack:
        admitted: list[bool] = []
        for host in hosts:
            server, client = socket.socketpair()
            stack.callback(client.close)
            counted = connections.admit(server, host)
            assert server.fileno() == -1  # taken over or closed
            admitted.append(counted is not None)
            if counted is not None:
                stack.callback(counted.close)
        yield admitted


def test_an_address_may_have_so_many_and_not_one_more() -> None:
    connections = OpenConnections(most=100, per_address=3)
    with open_to(connections, *["192.0.2.1"] * 4, "192.0.2.2") as admitted:
        assert admitted == [True, True, True, False, True]
        assert connections.open == 4
    assert connections.open == 0
    with open_to(connections, *["192.0.2.1"] * 3) as admitted:
        assert all(admitted)


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    with open_to(OpenConnections(100, 2), "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1") as admitted:
        assert admitted == [True, True, False, True]


def test_all_together_may_have_so_many_and_not_one_more() -> None:
    with open_to(OpenConnections(4, 1), *(f"192.0.2.{number}" for number in range(5))) as admitted:
        assert admitted == [True] * 4 + [False]


def test_a_connection_counts_until_it_is_closed_and_only_once() -> None:
    connections = OpenConnections(100, 100)
    server, client = socket.socketpair()
    counted = connections.admit(server, "192.0.2.1")
    assert counted is not None
    with client:
        client.sendall(b"x")
        assert counted.recv(1) == b"x"
        for _ in range(2):
            counted.close()
    assert connections.open == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1"])
def test_loopback_and_trusted_proxies_may_have_half_of_all(host: str) -> None:
    limits = AcceptorLimits(reserved_files=2, connections_per_address=1)
    connections = OpenConnections.within(10, limits, lambda peer: peer == "10.0.0.1")
    with open_to(connections, *[host] * 5, "192.0.2.1", "192.0.2.1") as admitted:
        assert admitted == [True] * 4 + [False, True, False]


@pytest.mark.parametrize(("files", "most"), [(65_536, 65_280), (1024, 768), (512, 256), (511, 255), (256, 128)])
def test_files_are_reserved_for_other_things_than_connections(files: int, most: int) -> None:
    assert OpenConnections.within(files, AcceptorLimits(connections_per_address=1), lambda _: False).most == most


def test_no_address_gets_more_than_half_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    limits = AcceptorLimits(reserved_files=2, connections_per_address=4)
    assert OpenConnections.within(10, limits, lambda _: False).per_address == 4
    assert caplog.messages == []
    limits = AcceptorLimits(reserved_files=2, connections_per_address=5)
    assert OpenConnections.within(10, limits, lambda _: False).per_address == 4
    [message] = caplog.messages
    assert "may open 10 files" in message
    assert "LimitNOFILE" in message


def test_refusals_of_an_address_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with open_to(OpenConnections(1000, 1), *["192.0.2.1"] * 50, *["192.0.2.2"] * 50):
        assert [message.partition(" has 1 open")[0] for message in caplog.messages] == ["192.0.2.1", "192.0.2.2"]


def test_a_failing_accept_is_one_line_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """As when the process is out of files: no traceback, and connections work once files are free."""

    async def run() -> None:
        served = asyncio.Event()

        async def handler(connection: socket.socket) -> None:
            connection.close()
            served.set()

        class Failing(socket.socket):
            failures = 3

            def accept(self) -> tuple[socket.socket, object]:
                if self.failures:
                    self.failures -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return super().accept()

        listening = Failing()
        listening.bind(("127.0.0.1", 0))
        acceptor = Acceptor(listening, handler, AcceptorLimits(), OpenConnections(10, 10))
        with listening, socket.create_connection(listening.getsockname()):
            await asyncio.wait_for(served.wait(), 60)
            acceptor.close()
            await acceptor.wait_closed()

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr("qwen_asr.web.transport.acceptor.ACCEPT_RETRY_SECONDS", 0.0)
        asyncio.run(run())
    assert [message for message in caplog.messages if "accept" in message] == [
        "Connections cannot be accepted at the moment: Too many open files"
    ]


def test_the_limit_of_open_files_is_raised_to_the_hard_one_at_most() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = hard if hard != resource.RLIM_INFINITY else 4096
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (high - 2, hard))
        assert raise_file_limit(high - 1) == high - 1
        assert raise_file_limit(high - 2) == high - 1  # it is never lowered
        if hard != resource.RLIM_INFINITY:
            assert raise_file_limit(high + 1) == high
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
