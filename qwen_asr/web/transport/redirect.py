"""Answers one plain HTTP request: a redirect to HTTPS, or the challenge of an ACME authority.

The status is 307: it keeps the method, and browsers do not store it. After a stored permanent redirect a browser could
never again open a plain HTTP server on that port.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11

from qwen_asr.network import HostHeader, parse_host

if TYPE_CHECKING:
    from qwen_asr.config.limits import AcceptorLimits

CHALLENGE_PATH = "/.well-known/acme-challenge/"
"""Path of ACME challenges, always over plain HTTP (RFC 8555, section 8.3)."""
MAX_HEAD_BYTES = 16 << 10
"""Longest request line with headers that is answered."""

_HTTP_PORT, _HTTPS_PORT = 80, 443


@dataclass(frozen=True)
class Response:
    """The status, a text body of one line, and the Location header of a redirect."""

    status: int
    text: bytes
    location: str | None = None


Responder = Callable[[str, str], Response]
"""Makes the response from the Host header ("" if there is none) and the request target."""


def redirect_to_https(host: str, target: str, https_port: Callable[[int | None], int | None]) -> Response:
    """Redirects to the same target over HTTPS.

    `https_port` maps the port in `host` to that for HTTPS; None is the scheme's default in both. The location uses the
    host name of the request, so anything but a plain host and port is answered with 400. A link on another page cannot
    set the Host header.
    """
    requested = parse_host(host)
    if requested is None:
        return Response(400, b"This port speaks HTTPS: write https:// in front of its address.\n")
    port = https_port(requested.port)
    location = HostHeader(requested.name, None if port == _HTTPS_PORT else port)
    return Response(307, b"This port speaks HTTPS.\n", f"https://{location}{_path(target)}")


def redirect_same_port(host: str, target: str) -> Response:
    """For plain HTTP on the HTTPS port. The port stays as in the request: a router may map it to another."""
    return redirect_to_https(host, target, lambda port: port or _HTTP_PORT)


def redirect_to_port(http_port: int, https_port: int, challenge: Callable[[str], bytes | None]) -> Responder:
    """For `--http-redirect-port`. `challenge` returns the response to an ACME token, or None."""

    def mapped_port(port: int | None) -> int | None:
        if port is None and http_port != _HTTP_PORT:
            return None  # the client used port 80, so a router or container maps ports, and surely 443 too
        return https_port

    def respond(host: str, target: str) -> Response:
        path = _path(target).partition("?")[0]
        if path.startswith(CHALLENGE_PATH):
            authorization = challenge(path.removeprefix(CHALLENGE_PATH))
            return Response(200, authorization) if authorization else Response(404, b"No such challenge.\n")
        return redirect_to_https(host, target, mapped_port)

    return respond


def _path(target: str) -> str:
    if target.startswith("/"):
        return target
    parts = urlsplit(target)  # absolute form, as in requests to a proxy: http://host/path
    path = parts.path if parts.netloc and parts.path else "/"
    return f"{path}?{parts.query}" if parts.query else path


async def answer_one_request(connection: socket.socket, respond: Responder, limits: AcceptorLimits) -> None:
    """Reads one request from `connection`, answers and closes it. What is no HTTP request gets no answer."""
    try:
        reader, writer = await _streams(connection)
    except BaseException:
        connection.close()
        raise
    http = h11.Connection(h11.SERVER, MAX_HEAD_BYTES)
    try:
        async with asyncio.timeout(limits.request_seconds):
            request = await _read_request(reader, http)
            host = next((value for name, value in request.headers if name == b"host"), b"")
            response = respond(host.decode("ascii", "replace"), request.target.decode("ascii", "replace"))
            writer.write(_encode(http, response, request.method == b"HEAD"))
            writer.write_eof()
            # Reads a body to its end: closing with unread data would reset the connection and lose the response.
            while await reader.read(1 << 16):
                pass
    except (h11.RemoteProtocolError, TimeoutError, OSError, ValueError):
        pass  # not a request, one whose target is no address, or the client left
    finally:
        writer.transport.abort()  # everything was sent, or the client does not read it


async def _streams(connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader), connection)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _read_request(reader: asyncio.StreamReader, http: h11.Connection) -> h11.Request:
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise h11.RemoteProtocolError("the connection ended before a request")
        http.receive_data(await reader.read(1 << 12))


def _encode(http: h11.Connection, response: Response, head_only: bool) -> bytes:
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(response.text))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    if response.location is not None:
        headers.append(("Location", response.location))
    reason = HTTPStatus(response.status).phrase
    head = http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
    return head if head_only else head + (http.send(h11.Data(data=response.text)) or b"")
