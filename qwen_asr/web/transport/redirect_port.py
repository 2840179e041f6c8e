"""The port for plain HTTP beside that for HTTPS: redirects, and what ACME authorities ask.

It runs in a thread of its own from before the first certificate is there, since that is when it is asked, to the end.
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
from qwen_asr.web.transport.redirect import CHALLENGE_PATH, Respond, answer

MAX_CHALLENGE_BYTES = 4096
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")  # base64url (RFC 8555, section 8.3): nothing that leads out of a folder


@contextlib.contextmanager
def answering(listening: socket.socket, respond: Respond, limits: AcceptorLimits | None = None) -> Iterator[None]:
    """Answers on the socket, which is closed at the end, by `respond`, while the context lasts."""
    limits = limits or AcceptorLimits()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def admit(connection: socket.socket) -> None:
        await answer(connection, respond, limits)

    async def run() -> None:
        door = Acceptor(listening, admit, limits)
        await ended.wait()
        door.close()
        await door.wait_closed()

    def live() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner, listening:
            runner.run(run())

    thread = threading.Thread(target=live, name="qwen-asr-redirects", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


Challenge = Callable[[str], bytes | None]
"""What a token of an ACME authority is answered with; None where there is nothing."""


def challenges_in(webroot: Path, known: Challenge = lambda _: None) -> Challenge:
    """By `known`, else by certbot's file below `webroot`."""

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
