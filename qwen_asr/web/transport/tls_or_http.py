"""Detects TLS or plain HTTP on the HTTPS port: TLS goes to the app, plain HTTP is redirected to HTTPS.

The first byte tells them apart: that of a TLS handshake record is 22 (RFC 8446, section 5.1), that of a request is a
letter. It is only peeked at, so the TLS or HTTP parser still reads it from the socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.web.transport.redirect import Responder, answer_one_request

if TYPE_CHECKING:
    from qwen_asr.config.limits import AcceptorLimits
    from qwen_asr.web.transport.acceptor import Handler

TLS_HANDSHAKE = b"\x16"


def tls_or_http_handler(
    context: Callable[[], ssl.SSLContext],
    protocol: Callable[[], asyncio.Protocol],
    respond: Responder,
    limits: AcceptorLimits,
) -> Handler:
    """The handler of an `Acceptor` on the HTTPS port.

    `context` is called for each connection and returns the current TLS context, `protocol` makes uvicorn's protocol,
    and `respond` answers plain HTTP.
    """

    async def handler(connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(limits.first_byte_seconds):
                first = await _peek_first_byte(connection)
        except BaseException:
            connection.close()
            raise
        if first == TLS_HANDSHAKE:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                connection,
                ssl=context(),
                ssl_handshake_timeout=limits.handshake_seconds,
                ssl_shutdown_timeout=limits.shutdown_seconds,
            )
        elif first.isalpha():
            await answer_one_request(connection, respond, limits)
        else:
            connection.close()

    return handler


async def _peek_first_byte(connection: socket.socket) -> bytes:
    """Waits for the first byte and leaves it in the socket; empty if the connection ends without one."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, wake)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)
