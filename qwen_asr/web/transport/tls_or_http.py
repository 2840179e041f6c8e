"""The first byte of a connection on the HTTPS port: TLS is led to the app, plain HTTP is sent to https.

The byte is looked at and left in the socket, so that both find all that was sent. A TLS record of a handshake begins
with 22 (RFC 8446, section 5.1), a request with a letter.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_asr.web.transport.redirect import Respond, answer

if TYPE_CHECKING:
    from qwen_asr.config.limits import AcceptorLimits
    from qwen_asr.web.transport.acceptor import Admit

TLS_HANDSHAKE = b"\x16"


def tls_or_redirect(
    context: Callable[[], ssl.SSLContext],
    protocol: Callable[[], asyncio.Protocol],
    respond: Respond,
    limits: AcceptorLimits,
) -> Admit:
    """What an Entrance on the HTTPS port admits by. `context` is asked for each connection, `protocol` is uvicorn's."""

    async def admit(connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(limits.first_byte_seconds):
                first = await _first_byte(connection)
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
            await answer(connection, respond, limits)
        else:
            connection.close()

    return admit


async def _first_byte(connection: socket.socket) -> bytes:
    """The first byte that comes, which stays to be read; empty where the connection ends without any."""
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
