"""A real HTTPS server in this process, and looks at what it serves."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.app import bind, create_server
from tests.support.processes import until

PATIENCE = 60.0  # seconds; a busy machine is slow


@contextlib.contextmanager
def serving(
    certificate: ReloadingCertificate,
    app: FastAPI | None = None,
    limits: AcceptorLimits | None = None,
    around: Callable[[Any], Any] = lambda app: app,
) -> Iterator[int]:
    """Serves the app, or one with a word at "/", on a port of 127.0.0.1, which it gives; watches the certificate."""
    app = app or plain_app()
    app.state.end_streams = lambda: None
    app.state.certificate = certificate
    server = create_server(app, around, certificate=certificate, limits=limits, timeout_graceful_shutdown=1)
    with bind("127.0.0.1", 0) as listening, certificate:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def plain_app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def word() -> str:
        return "here"

    return app


@contextlib.contextmanager
def connected(
    port: int, trust: ssl.SSLContext, name: str | None = "localhost", session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection; without a name none is asked for, and none is checked."""
    trust.check_hostname = name is not None
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        trust.wrap_socket(plain, server_hostname=name, session=session) as secure,
    ):
        yield secure


def served(port: int, trust: ssl.SSLContext, name: str | None = "localhost") -> x509.Certificate:
    """The certificate that a new connection gets."""
    with connected(port, trust, name) as secure:
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found)


def kind_of(certificate: x509.Certificate) -> str:
    return "EC" if isinstance(certificate.public_key(), ec.EllipticCurvePublicKey) else "RSA"


def asked(connection: socket.socket, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Sends a request and reads to the end: status line, headers in lower case, body."""
    if request:
        connection.sendall(request)
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    pairs = (line.decode().split(": ", 1) for line in lines)
    return status, {name.lower(): value for name, value in pairs}, body
