"""The plain HTTP port beside the HTTPS port: redirects, and ACME challenges.

It runs in its own thread, because ACME authorities ask before the first certificate exists and the server can start.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.web.transport.acceptor import Acceptor
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.redirect import CHALLENGE_PATH, Responder, answer_one_request

MAX_CHALLENGE_BYTES = 4096
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")  # base64url (RFC 8555, section 8.3): cannot leave a folder


@contextlib.contextmanager
def answering(
    listening: socket.socket,
    respond: Responder,
    connections: OpenConnections,
    limits: AcceptorLimits | None = None,
) -> Iterator[None]:
    """Answers requests on the socket while the context lasts, and closes it at the end.

    `connections` counts those of the HTTPS port too.
    """
    limits = limits or AcceptorLimits()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def handler(connection: socket.socket) -> None:
        await answer_one_request(connection, respond, limits)

    async def run() -> None:
        acceptor = Acceptor(listening, handler, limits, connections)
        await ended.wait()
        acceptor.close()
        await acceptor.wait_closed()

    def run_loop() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner, listening:
            runner.run(run())

    thread = threading.Thread(target=run_loop, name="qwen-asr-redirects", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


Challenges = Callable[[str], bytes | None]
"""Returns the response to an ACME token, or None for an unknown one."""


def challenges_in(webroot: Path, known: Challenges = lambda _: None) -> Challenges:
    """Looks tokens up in `known`, then among certbot's files below `webroot`."""

    def challenge(token: str) -> bytes | None:
        if not _TOKEN.fullmatch(token):
            return None
        if (authorization := known(token)) is not None:
            return authorization
        try:
            with (webroot / CHALLENGE_PATH.strip("/") / token).open("rb") as file:
                return file.read(MAX_CHALLENGE_BYTES)
        except OSError:
            return None

    return challenge
