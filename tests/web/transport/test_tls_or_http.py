"""The HTTPS port: TLS and plain HTTP on it, connections that do not proceed, and the TLS versions that it accepts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.tls.reloading import ReloadingCertificate
from tests.support.certificates import Issuer
from tests.support.https import https_server, plain_app, send_request, tls_connection
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
    """A server with the default limits."""
    with https_server(certificate) as port:
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
        ("GET / HTTP/1.1", "ASR.example.com.:443", "https://asr.example.com/"),
    ],
)
def test_plain_http_is_redirected_to_https_on_the_same_port(
    port: int, request_line: str, host: str, location: str
) -> None:
    with plain(port) as connection:
        status, headers, body = send_request(connection, f"{request_line}\r\nHost: {host}\r\n\r\n".encode())
    assert status.startswith(b"HTTP/1.1 307")
    assert headers["location"] == location
    assert "server" not in headers
    assert bool(body) != request_line.startswith("HEAD")


@pytest.mark.parametrize(
    "host",
    ["evil.example/", "a@b", "a b", "", "x:99999", "x:0", "x:y", "[::1", "[zz]", "..", "-x", "a?b", "a#b", "a\\b", "ä"],
)
def test_an_invalid_host_is_not_redirected(port: int, host: str) -> None:
    with plain(port) as connection:
        status, headers, _ = send_request(connection, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status.startswith(b"HTTP/1.1 400")
    assert "location" not in headers


def test_without_a_host_the_response_says_that_https_is_needed(port: int) -> None:
    with plain(port) as connection:
        status, _, body = send_request(connection, b"GET / HTTP/1.0\r\n\r\n")
    assert b"400" in status
    assert b"https://" in body


def test_a_request_with_a_body_gets_its_redirect(port: int) -> None:
    with plain(port) as connection:
        head = b"POST /x HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 300000\r\n\r\n"
        connection.sendall(head + bytes(300_000))
        connection.shutdown(socket.SHUT_WR)
        status, headers, _ = send_request(connection, b"")
    assert b"307" in status
    assert headers["location"] == "https://localhost:1/x"


GARBAGE = {
    "zeros": bytes(3),
    "ones": b"\xff" * 100,
    "ssh": b"SSH-2.0-x\r\n\r\n",
    "endless": b"GET " + b"a" * 40_000,
    "no hello": b"\x16garbage" * 9,
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
def test_connections_with_neither_http_nor_tls_are_closed(port: int, sent: bytes) -> None:
    with plain(port) as connection:
        with contextlib.suppress(OSError):  # reset, or closed before all of it was sent
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert b"HTTP" not in received


# --- TLS


def test_the_app_is_served_over_tls(port: int, issuer: Issuer, certificate: ReloadingCertificate) -> None:
    trust = issuer.trust()
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with tls_connection(port, trust) as secure:
        assert secure.selected_alpn_protocol() == "http/1.1"
        status, headers, body = send_request(secure, GET)
    assert status == b"HTTP/1.1 200 OK"
    assert body == b'"here"'
    assert "server" not in headers
    assert "strict-transport-security" not in headers


def test_a_handshake_that_arrives_byte_by_byte_succeeds(port: int, issuer: Issuer) -> None:
    trust = issuer.trust()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with plain(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                incoming.write(connection.recv(65536))
        assert tls.version() == "TLSv1.3"


def negotiated(program: str, port: int, *options: str) -> str | None:
    """Protocol and cipher that `openssl s_client` negotiates with the server; None if the handshake fails."""
    done = subprocess.run(
        [program, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("New, ")] or [""]
    return None if "(NONE)" in line or not line else line.removeprefix("New, ")


@pytest.mark.slow
def test_openssl_negotiates_modern_tls_only(port: int, program: Callable[[str], str]) -> None:
    openssl = program("openssl")
    weak = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
    assert "TLSv1.3" in (negotiated(openssl, port) or "")
    for old in ("-tls1", "-tls1_1"):
        assert negotiated(openssl, port, old, "-cipher", weak) is None
    assert negotiated(openssl, port, "-tls1_2", "-cipher", f"{weak}:!AESGCM:!CHACHA20") is None
    assert negotiated(openssl, port, "-tls1_2", "-cipher", f"{weak}:!ECDHE") is None
    for good in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
        assert good in (negotiated(openssl, port, "-tls1_2", "-cipher", f"ECDHE-ECDSA-{good}") or "")


# --- connections that do not proceed


SHORT = AcceptorLimits(shutdown_seconds=1.0, idle_seconds=3.0)
"""Short for established connections. Handshakes keep the defaults: their time depends on the machine."""


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


@pytest.mark.slow
def test_connections_without_a_complete_request_are_closed(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    with https_server(certificate, limits=SHORT) as port, contextlib.ExitStack() as opened:
        connections: dict[bytes, socket.socket] = {}
        for sent in UNFINISHED_IN_TLS:
            connections[b"TLS" + sent] = opened.enter_context(tls_connection(port, issuer.trust()))
            connections[b"TLS" + sent].sendall(sent)
        for sent in UNFINISHED:
            connections[sent] = opened.enter_context(plain(port))
            connections[sent].sendall(sent)
        closed: set[bytes] = set()

        def all_closed() -> bool:
            for kind in connections.keys() - closed:
                if is_closed(connections[kind]):
                    closed.add(kind)
            return len(closed) == len(connections)

        assert until(all_closed), connections.keys() - closed


@pytest.mark.slow
def test_a_slow_response_is_not_idle(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    app = plain_app()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(3 * SHORT.idle_seconds)
        return "late"

    with https_server(certificate, app, limits=SHORT) as port, tls_connection(port, issuer.trust()) as secure:
        status, _, body = send_request(secure, GET.replace(b" / ", b" /slow "))
    assert b"200" in status
    assert body == b'"late"'


@pytest.mark.slow
def test_a_client_that_leaves_during_an_unread_upload_is_disconnected(
    certificate: ReloadingCertificate, issuer: Issuer
) -> None:
    app = plain_app()
    started, left = threading.Event(), threading.Event()

    @app.post("/unread")
    async def unread() -> str:
        started.set()
        await asyncio.to_thread(left.wait)
        await asyncio.sleep(0.5)  # time for the server to notice
        return "late"

    with https_server(certificate, app, limits=SHORT) as port, tls_connection(port, issuer.trust()) as secure:
        # More than the server buffers of an unread body, less than the TLS layer buffers.
        head = b"POST /unread HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
        secure.sendall(head + bytes(200_000))
        assert started.wait(60)
        secure.shutdown(socket.SHUT_WR)
        left.set()
        while secure.recv(65536):
            pass


@pytest.mark.slow
def test_three_hundred_idle_connections_do_not_block_the_page(
    issuer: Issuer, certificate: ReloadingCertificate
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    # No limit closes these connections while the test runs, so the page is served beside all of them or not at all.
    forever = 3600.0
    limits = AcceptorLimits(
        waiting_per_address=400,
        first_byte_seconds=forever,
        handshake_seconds=forever,
        request_seconds=forever,
        idle_seconds=forever,
    )
    trust = issuer.trust()
    with https_server(certificate, limits=limits) as port, contextlib.ExitStack() as opened:
        connections: list[socket.socket] = []
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HT"):
            for _ in range(80):
                connection = opened.enter_context(plain(port))
                connection.sendall(sent)
                connections.append(connection)
        for _ in range(60):
            connections.append(opened.enter_context(tls_connection(port, trust)))
        assert len(connections) == 300
        for _ in range(5):
            with tls_connection(port, trust) as secure:
                assert b"200" in send_request(secure, GET)[0]
        assert [connection for connection in connections if is_closed(connection)] == []


@pytest.mark.slow
def test_many_connections_of_one_address_do_not_block_it(certificate: ReloadingCertificate, issuer: Issuer) -> None:
    limits = AcceptorLimits(waiting_per_address=8)
    with https_server(certificate, limits=limits) as port, contextlib.ExitStack() as opened:
        connections = [opened.enter_context(plain(port)) for _ in range(30)]
        with tls_connection(port, issuer.trust()) as secure:
            assert b"200" in send_request(secure, GET)[0]
        assert until(lambda: sum(is_closed(connection) for connection in connections) >= 20)


# --- the certificate in /healthz


@pytest.mark.slow
def test_healthz_reports_the_expiry_of_the_certificate(issuer: Issuer, tmp_path: Path) -> None:
    from qwen_asr.config.config import Config
    from qwen_asr.service.service import Service
    from qwen_asr.web.rest import routes as rest

    def health(ends: timedelta) -> dict[str, object]:
        app = plain_app()
        rest.add_routes(app, Service(Config()))
        issued = issuer.issue(begins=timedelta(days=-60), ends=ends)
        certificate = ReloadingCertificate(*issued.write(tmp_path))
        with https_server(certificate, app) as port, tls_connection(port, issuer.trust()) as secure:
            answer: dict[str, object] = json.loads(send_request(secure, GET.replace(b" / ", b" /healthz "))[2])
        assert answer["status"] == "ok"
        reported = answer["certificate"]
        assert isinstance(reported, dict)
        assert reported["not_after"] == issued.certificate.not_valid_after_utc.isoformat()
        return reported

    assert health(timedelta(days=60))["warning"] is None
    assert "renew it" in str(health(timedelta(days=10))["warning"])
