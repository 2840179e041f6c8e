"""`--http-redirect-port`: redirects, ACME challenges, and the message if the port is in use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.errors import PortInUse
from qwen_asr.web.app import serve
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.redirect import redirect_to_port
from qwen_asr.web.transport.redirect_port import answering, challenges_in
from qwen_asr.web.transport.uvicorn_server import bind
from tests.support.https import send_request
from tests.support.processes import until

AUTHORIZATION = b"token.thumbprint"


@pytest.fixture(scope="module")
def webroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    (folder / "secret").write_bytes(b"a secret file")
    shown = folder / "webroot" / ".well-known" / "acme-challenge"
    shown.mkdir(parents=True)
    (shown / "Tok-en_1").write_bytes(AUTHORIZATION)
    return folder / "webroot"


@pytest.fixture(scope="module")
def port(webroot: Path) -> Iterator[int]:
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    challenges = challenges_in(webroot, {"known": b"known.thumbprint"}.get)
    limits = AcceptorLimits(request_seconds=10, waiting_per_address=9)
    with answering(listening, redirect_to_port(port, 8443, challenges), OpenConnections(100, 100), limits):
        yield port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def request(port: int, target: str, host: str = "asr.example.com:80") -> tuple[bytes, dict[str, str], bytes]:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        return send_request(connection, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def test_requests_are_redirected_to_the_https_port(port: int) -> None:
    status, headers, _ = request(port, "/a?b=c", f"asr.example.com:{port}")
    assert b"307" in status
    assert headers["location"] == "https://asr.example.com:8443/a?b=c"
    # The Host header has neither this port nor 80, so a router maps ports, and 443 to the HTTPS port.
    assert request(port, "/", "asr.example.com")[1]["location"] == "https://asr.example.com/"
    assert request(port, "/", "evil.example/@x")[0].startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100) == b""  # no address at all
    assert request(port, "/", "asr.example.com")[0].startswith(b"HTTP/1.1 30")


@pytest.mark.parametrize(
    ("http_port", "https_port", "host", "location"),
    [
        (80, 443, "asr.example.com", "https://asr.example.com/"),
        (80, 443, "asr.example.com:80", "https://asr.example.com/"),
        (80, 8000, "asr.example.com", "https://asr.example.com:8000/"),
        (8080, 8000, "asr.example.com:8080", "https://asr.example.com:8000/"),
        (8080, 8000, "asr.example.com", "https://asr.example.com/"),
        (8080, 8000, "[2001:db8::1]:8080", "https://[2001:db8::1]:8000/"),
    ],
)
def test_the_port_of_the_location(http_port: int, https_port: int, host: str, location: str) -> None:
    assert redirect_to_port(http_port, https_port, lambda _: None)(host, "/").location == location


def test_challenges_of_an_authority_are_answered(port: int) -> None:
    for token, answer in (("known", b"known.thumbprint"), ("Tok-en_1", AUTHORIZATION)):
        status, headers, body = request(port, f"/.well-known/acme-challenge/{token}")
        assert status.startswith(b"HTTP/1.1 200")
        assert body == answer
        assert "location" not in headers


@pytest.mark.parametrize("token", ["", "other", "../../../secret", "..%2f..%2f..%2fsecret", "Tok-en_1/", "x" * 300])
def test_no_other_file_is_served(port: int, token: str) -> None:
    status, headers, body = request(port, f"/.well-known/acme-challenge/{token}")
    assert status.startswith(b"HTTP/1.1 404")
    assert b"secret" not in body
    assert "location" not in headers


@pytest.mark.slow
def test_silent_connections_do_not_block_others_and_are_closed(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    try:
        assert b"307" in request(port, "/")[0]
        for connection in silent:
            connection.setblocking(False)

        def closed(connection: socket.socket) -> bool:
            try:
                return connection.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        assert until(lambda: all(closed(connection) for connection in silent))
    finally:
        for connection in silent:
            connection.close()


def test_a_redirect_port_in_use_is_named_with_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("0.0.0.0", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortInUse, match=f"Port {taken} .* in use .*--http-redirect-port"):
            serve(Config(generate_self_signed_cert=True, http_redirect_port=taken, port=0))
