"""A real HTTPS server in a thread, and helpers to connect to it."""

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
from qwen_asr.web.transport.uvicorn_server import bind, create_server
from tests.support.processes import until

TIMEOUT_SECONDS = 60.0
"""For operations that take milliseconds on an idle machine."""


@contextlib.contextmanager
def https_server(
    certificate: ReloadingCertificate,
    app: FastAPI | None = None,
    limits: AcceptorLimits | None = None,
    middleware: Callable[[Any], Any] = lambda app: app,
) -> Iterator[int]:
    """Serves `app`, or `plain_app()`, on 127.0.0.1 with a certificate that is watched for changes. Yields the port."""
    app = app or plain_app()
    app.state.end_streams = lambda: None
    app.state.certificate = certificate
    server = create_server(app, middleware, certificate=certificate, limits=limits, timeout_graceful_shutdown=1)
    with bind("127.0.0.1", 0) as listening, certificate:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()


def plain_app() -> FastAPI:
    """An app that answers "here" at `/`."""
    app = FastAPI()

    @app.get("/")
    async def word() -> str:
        return "here"

    return app


@contextlib.contextmanager
def tls_connection(
    port: int, trust: ssl.SSLContext, name: str | None = "localhost", session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection. With `name=None` it sends no server name, and checks none."""
    trust.check_hostname = name is not None
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as plain,
        trust.wrap_socket(plain, server_hostname=name, session=session) as secure,
    ):
        yield secure


def served_certificate(port: int, trust: ssl.SSLContext, name: str | None = "localhost") -> x509.Certificate:
    """The certificate that a new connection gets."""
    with tls_connection(port, trust, name) as secure:
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found)


def key_type(certificate: x509.Certificate) -> str:
    """Returns "EC" or "RSA"."""
    return "EC" if isinstance(certificate.public_key(), ec.EllipticCurvePublicKey) else "RSA"


def send_request(connection: socket.socket, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Sends a request and reads to the end. Returns the status line, the headers in lower case, and the body."""
    if request:
        connection.sendall(request)
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    pairs = (line.decode().split(": ", 1) for line in lines)
    return status, {name.lower(): value for name, value in pairs}, body
