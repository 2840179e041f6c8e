"""One request in plain HTTP, answered with the way to https, or with what a certificate authority came to read.

The status is 307, which keeps the method and is not remembered: a browser that had stored a permanent one could not
open a plain server on that port ever again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11

if TYPE_CHECKING:
    from qwen_asr.config.limits import AcceptorLimits

CHALLENGE_PATH = "/.well-known/acme-challenge/"
"""Where an ACME authority asks, always over plain HTTP (RFC 8555, section 8.3)."""
MAX_HEAD_BYTES = 16 << 10
"""The longest request with its headers that is still answered."""

_HTTP_PORT, _HTTPS_PORT = 80, 443
_HOST = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Answer:
    """A status, a text of one line, and where to go instead."""

    status: int
    text: bytes
    location: str | None = None


Respond = Callable[[str, str], Answer]
"""Makes the answer of a Host header ("" where there is none) and a target."""


def to_https(host: str, target: str, port: Callable[[str | None], int | None]) -> Answer:
    """The same target over https. `port` makes the port there of the one in `host`, both None where it is the usual.

    The name comes from the request, so it is used only if it is one and nothing else; the header is no part of a link
    that somebody could have laid out.
    """
    match = _HOST.fullmatch(host)
    if match is None or not _is_host(match["name"]) or int(match["port"] or 0) > 65535:
        return Answer(400, b"This port speaks HTTPS: write https:// in front of its address.\n")
    chosen = port(match["port"])
    where = match["name"] + ("" if chosen in (None, _HTTPS_PORT) else f":{chosen}")
    return Answer(307, b"This port speaks HTTPS.\n", f"https://{where}{_path(target)}")


def same_port(host: str, target: str) -> Answer:
    """For plain HTTP on the HTTPS port: the port stays as it was typed, since a router may have mapped it."""
    return to_https(host, target, lambda port: int(port) if port else _HTTP_PORT)


def other_port(http_port: int, https_port: int, challenge: Callable[[str], bytes | None]) -> Respond:
    """For `--http-redirect-port`; `challenge` knows the answer for a token of an ACME authority, or None."""

    def https_port_for(port: str | None) -> int | None:
        if port is None and http_port != _HTTP_PORT:
            return None  # they came to 80, so a router or a container maps ports, and https to its usual one as well
        return https_port

    def respond(host: str, target: str) -> Answer:
        path = _path(target).partition("?")[0]
        if path.startswith(CHALLENGE_PATH):
            authorization = challenge(path.removeprefix(CHALLENGE_PATH))
            return Answer(200, authorization) if authorization else Answer(404, b"No such challenge.\n")
        return to_https(host, target, https_port_for)

    return respond


def _path(target: str) -> str:
    if target.startswith("/"):
        return target
    parts = urlsplit(target)  # a request as to a proxy: http://host/path
    path = parts.path if parts.netloc and parts.path else "/"
    return f"{path}?{parts.query}" if parts.query else path


def _is_host(name: str) -> bool:
    if not name.startswith("["):
        return ".." not in name and name[0] not in ".-"
    try:
        ipaddress.IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True


async def answer(connection: socket.socket, respond: Respond, limits: AcceptorLimits) -> None:
    """Reads one request from the connection, answers it, and closes it; whatever is no request is not answered."""
    try:
        reader, writer = await _streams(connection)
    except BaseException:
        connection.close()
        raise
    http = h11.Connection(h11.SERVER, MAX_HEAD_BYTES)
    try:
        async with asyncio.timeout(limits.request_seconds):
            request = await _request(reader, http)
            host = next((value for name, value in request.headers if name == b"host"), b"")
            reply = respond(host.decode("ascii", "replace"), request.target.decode("ascii", "replace"))
            writer.write(_written(http, reply, request.method == b"HEAD"))
            writer.write_eof()
            while await reader.read(1 << 16):  # what was sent after it, read to the end: else the answer may be lost
                pass
    except (h11.RemoteProtocolError, TimeoutError, OSError):
        pass  # no request, or nobody who waits for the answer
    finally:
        writer.transport.abort()  # nothing is left to be sent, or nobody takes it


async def _streams(connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader), connection)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _request(reader: asyncio.StreamReader, http: h11.Connection) -> h11.Request:
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise h11.RemoteProtocolError("the connection ended before a request")
        http.receive_data(await reader.read(1 << 12))


def _written(http: h11.Connection, reply: Answer, head: bool) -> bytes:
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(reply.text))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    if reply.location is not None:
        headers.append(("Location", reply.location))
    response = h11.Response(status_code=reply.status, headers=headers, reason=HTTPStatus(reply.status).phrase)
    sent = http.send(response) or b""
    return sent if head else sent + (http.send(h11.Data(data=reply.text)) or b"")
