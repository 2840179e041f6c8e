"""The HTTPS port from outside: TLS and plain HTTP on it, who waits too long, and what openssl can agree on with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.network import client_prefix
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.transport.acceptor import Waiting
from tests.support.https import asked, connected, plain_app, serving
from tests.support.issuing import Issuer
from tests.support.processes import until

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def certificate(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> ReloadingCertificate:
    return ReloadingCertificate(*issuer.issue().write(tmp_path_factory.mktemp("certificate")))


@pytest.fixture(scope="module")
def port(certificate: ReloadingCertificate) -> Iterator[int]:
    """A server with the limits that everybody has."""
    with serving(certificate) as port:
        yield port


@contextlib.contextmanager
def plain(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        yield connection


# --- plain HTTP on the HTTPS port


@pytest.mark.parametrize(
    ("request_line", "host", "location"),
    [
        ("GET / HTTP/1.1", "localhost:8000", "https://localhost:8000/"),
        ("GET /a/b?c=d&e=%2F HTTP/1.1", "asr.example.com:8443", "https://asr.example.com:8443/a/b?c=d&e=%2F"),
        ("POST /v1/models HTTP/1.1", "[2001:db8::1]:8000", "https://[2001:db8::1]:8000/v1/models"),
        ("HEAD / HTTP/1.1", "192.0.2.7:8000", "https://192.0.2.7:8000/"),
        ("GET //evil.example/ HTTP/1.1", "localhost:8000", "https://localhost:8000//evil.example/"),
        ("GET http://evil.example/x?y HTTP/1.1", "localhost:8000", "https://localhost:8000/x?y"),
        ("OPTIONS * HTTP/1.1", "localhost:8000", "https://localhost:8000/"),
        ("GET / HTTP/1.1", "mapped.example.com", "https://mapped.example.com:80/"),
    ],
)
def test_http_is_sent_to_https_on_the_same_port(port: int, request_line: str, host: str, location: str) -> None:
    with plain(port) as connection:
        status, headers, body = asked(connection, f"{request_line}\r\nHost: {host}\r\n\r\n".encode())
    assert status.startswith(b"HTTP/1.1 307")
    assert headers["location"] == location
    assert "server" not in headers
    assert bool(body) != request_line.startswith("HEAD")


@pytest.mark.parametrize(
    "host",
    ["evil.example/", "a@b", "a b", "", "x:99999", "x:y", "[::1", "[zz]", "..", "-x", "a?b", "a#b", "a\\b", "ä"],
)
def test_what_is_no_host_is_not_led_anywhere(port: int, host: str) -> None:
    with plain(port) as connection:
        status, headers, _ = asked(connection, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status.startswith(b"HTTP/1.1 400")
    assert "location" not in headers


def test_a_request_without_a_host_is_told_what_is_spoken_here(port: int) -> None:
    with plain(port) as connection:
        status, _, body = asked(connection, b"GET / HTTP/1.0\r\n\r\n")
    assert b"400" in status
    assert b"https://" in body


def test_a_posted_body_does_not_cost_the_answer(port: int) -> None:
    with plain(port) as connection:
        head = b"POST /x HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 300000\r\n\r\n"
        connection.sendall(head + bytes(300_000))
        connection.shutdown(socket.SHUT_WR)
        status, headers, _ = asked(connection, b"")
    assert b"307" in status
    assert headers["location"] == "https://localhost:1/x"


RUBBISH = {
    "zeros": bytes(3),
    "ones": b"\xff" * 100,
    "ssh": b"SSH-2.0-x\r\n\r\n",
    "endless": b"GET " + b"a" * 40_000,
    "no hello": b"\x16rubbish" * 9,
}


@pytest.mark.parametrize("sent", RUBBISH.values(), ids=RUBBISH.keys())
def test_what_is_neither_http_nor_tls_is_closed(port: int, sent: bytes) -> None:
    with plain(port) as connection:
        with contextlib.suppress(OSError):  # reset, or closed before all of it was sent
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert b"HTTP" not in received


# --- TLS


def test_the_app_is_there_over_tls(port: int, issuer: Issuer, certificate: ReloadingCertificate) -> None:
    trust = issuer.trust()
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with connected(port, trust) as secure:
        assert secure.selected_alpn_protocol() == "http/1.1"
        status, headers, body = asked(secure, GET)
    assert status == b"HTTP/1.1 200 OK"
    assert body == b'"here"'
    assert "server" not in headers
    assert "strict-transport-security" not in headers


def test_a_hello_that_comes_byte_by_byte_is_understood(port: int, issuer: Issuer) -> None:
    trust = issuer.trust()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    speaking = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with plain(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                speaking.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                incoming.write(connection.recv(65536))
        assert speaking.version() == "TLSv1.3"


def agreed(program: str, port: int, *options: str) -> str | None:
    """What `openssl s_client` agrees on with the server: protocol and cipher; None where there is no agreement."""
    done = subprocess.run(
        [program, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("New, ")] or [""]
    return None if "(NONE)" in line or not line else line.removeprefix("New, ")


def test_openssl_gets_modern_tls_and_nothing_else(port: int, program: Callable[[str], str]) -> None:
    openssl = program("openssl")
    weak = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
    assert "TLSv1.3" in (agreed(openssl, port) or "")
    for old in ("-tls1", "-tls1_1"):
        assert agreed(openssl, port, old, "-cipher", weak) is None
    assert agreed(openssl, port, "-tls1_2", "-cipher", f"{weak}:!AESGCM:!CHACHA20") is None
    assert agreed(openssl, port, "-tls1_2", "-cipher", f"{weak}:!ECDHE") is None
    for good in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
        assert good in (agreed(openssl, port, "-tls1_2", "-cipher", f"ECDHE-ECDSA-{good}") or "")


# --- who waits


QUICK = AcceptorLimits(
    first_byte_seconds=1.0, handshake_seconds=1.0, shutdown_seconds=1.0, request_seconds=1.0, idle_seconds=1.5
)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


UNFINISHED = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
UNFINISHED_IN_TLS = [b"", b"GET / HTTP/1.1\r\nHost: local"]


def test_who_does_not_go_on_is_closed(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    with serving(certificate, limits=QUICK) as port, contextlib.ExitStack() as waiting:
        connections: dict[bytes, socket.socket] = {}
        for sent in UNFINISHED_IN_TLS:
            connections[b"TLS" + sent] = waiting.enter_context(connected(port, issuer.trust()))
            connections[b"TLS" + sent].sendall(sent)
        for sent in UNFINISHED:
            connections[sent] = waiting.enter_context(plain(port))
            connections[sent].sendall(sent)
        closed: set[bytes] = set()

        def all_closed() -> bool:
            for kind in connections.keys() - closed:
                if is_closed(connections[kind]):
                    closed.add(kind)
            return len(closed) == len(connections)

        assert until(all_closed, 30), connections.keys() - closed


def test_an_answer_that_takes_long_is_not_idle(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    app = plain_app()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(3)
        return "late"

    with serving(certificate, app, limits=QUICK) as port, connected(port, issuer.trust()) as secure:
        status, _, body = asked(secure, GET.replace(b" / ", b" /slow "))
    assert b"200" in status
    assert body == b'"late"'


def test_who_leaves_in_an_upload_that_nobody_reads_is_let_go(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    app = plain_app()
    came, left = threading.Event(), threading.Event()

    @app.post("/unread")
    async def unread() -> str:
        came.set()
        await asyncio.to_thread(left.wait)
        await asyncio.sleep(0.5)  # in which its going is noticed
        return "late"

    with serving(certificate, app, limits=QUICK) as port, connected(port, issuer.trust()) as secure:
        # More than is taken in before somebody reads it, and less than would stop the TLS below.
        head = b"POST /unread HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
        secure.sendall(head + bytes(200_000))
        assert came.wait(60)
        secure.shutdown(socket.SHUT_WR)
        left.set()
        secure.settimeout(30)
        while secure.recv(65536):
            pass


def test_three_hundred_idlers_delay_no_page_and_are_closed(issuer: Issuer, certificate: ReloadingCertificate) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    # Those that wait all come from one address here: the limit for one must not be what ends them.
    limits = AcceptorLimits(
        waiting_per_address=400, first_byte_seconds=8, handshake_seconds=8, request_seconds=8, idle_seconds=8
    )
    trust = issuer.trust()

    def page_seconds() -> float:
        """The quickest of a few medians: what another program does to this machine is no delay of ours."""

        def once() -> float:
            began = time.perf_counter()
            with connected(port, trust) as secure:
                assert b"200" in asked(secure, GET)[0]
            return time.perf_counter() - began

        return min(statistics.median(once() for _ in range(5)) for _ in range(3))

    with serving(certificate, limits=limits) as port, contextlib.ExitStack() as idlers:
        alone = page_seconds()
        kinds = {"silent": b"", "half a hello": b"\x16\x03\x01\x02\x00\x01\x00", "half a request": b"GET / HT"}
        connections: list[socket.socket] = []
        for sent in kinds.values():
            for _ in range(80):
                connection = idlers.enter_context(plain(port))
                connection.sendall(sent)
                connections.append(connection)
        for _ in range(60):
            connections.append(idlers.enter_context(connected(port, trust)))
        assert len(connections) == 300
        among = page_seconds()
        assert among - alone < 0.1, f"{alone * 1000:.0f} ms alone, {among * 1000:.0f} ms among 300"
        print(f"{alone * 1000:.1f} ms alone, {among * 1000:.1f} ms among 300")
        ended = [False] * len(connections)

        def all_closed() -> bool:
            for number, connection in enumerate(connections):
                ended[number] = ended[number] or is_closed(connection)
            return all(ended)

        assert until(all_closed)


def test_of_too_many_the_oldest_of_the_largest_crowd_goes() -> None:
    async def run() -> None:
        waiting = Waiting(most=6, most_per_address=4)
        tasks: dict[str, asyncio.Task[None]] = {}

        def come(name: str) -> None:
            tasks[name] = asyncio.create_task(asyncio.sleep(60))
            waiting.add(name[0], tasks[name])

        async def gone() -> set[str]:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return {name for name, task in tasks.items() if task.cancelled()}

        for number in range(5):
            come(f"a{number}")
        assert await gone() == {"a0"}
        come("b0")
        come("c0")
        assert await gone() == {"a0"}
        come("d0")
        assert await gone() == {"a0", "a1"}
        tasks["a2"].cancel()
        assert await gone() == {"a0", "a1", "a2"}
        come("d1")
        assert await gone() == {"a0", "a1", "a2"}
        assert len(waiting.all()) == 6
        waiting.cancel()
        await gone()
        assert waiting.all() == []

    asyncio.run(run())


def test_many_from_one_address_keep_nobody_out(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    limits = AcceptorLimits(waiting_per_address=8)
    with serving(certificate, limits=limits) as port, contextlib.ExitStack() as silent:
        connections = [silent.enter_context(plain(port)) for _ in range(30)]
        with connected(port, issuer.trust()) as secure:
            assert b"200" in asked(secure, GET)[0]
        assert until(lambda: sum(is_closed(connection) for connection in connections) >= 20)


def test_a_crowd_is_an_address_or_a_network() -> None:
    assert client_prefix("192.0.2.1") == "192.0.2.1"
    assert client_prefix("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_prefix("2001:db8:1:2:3::4") == client_prefix("2001:db8:1:2::5") != client_prefix("2001:db8:1:3::5")
    assert client_prefix("fe80::1%eth0") == "fe80::/64"


# --- what is told about the certificate


def test_health_tells_the_end_of_the_certificate(issuer: Issuer, tmp_path: Path) -> None:
    from qwen_asr.config.config import Config
    from qwen_asr.service.service import Service
    from qwen_asr.web.rest import routes as rest

    def health(ends: timedelta) -> dict[str, object]:
        app = plain_app()
        rest.add_routes(app, Service(Config()))
        issued = issuer.issue(begins=timedelta(days=-60), ends=ends)
        certificate = ReloadingCertificate(*issued.write(tmp_path))
        with serving(certificate, app) as port, connected(port, issuer.trust()) as secure:
            answer: dict[str, object] = json.loads(asked(secure, GET.replace(b" / ", b" /healthz "))[2])
        assert answer["status"] == "ok"
        told = answer["certificate"]
        assert isinstance(told, dict)
        assert told["not_after"] == issued.certificate.not_valid_after_utc.isoformat()
        return told

    assert health(timedelta(days=60))["warning"] is None
    assert "renew it" in str(health(timedelta(days=10))["warning"])
