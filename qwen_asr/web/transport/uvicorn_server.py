"""A socket to listen on, and uvicorn behind it: with HTTPS through doors of ours, and with an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from qwen_asr.config.limits import AcceptorLimits
from qwen_asr.errors import PortInUse, StartupError
from qwen_asr.web.transport.acceptor import Acceptor
from qwen_asr.web.transport.http_protocol import HttpProtocol
from qwen_asr.web.transport.idle_timeout import IdleConnections
from qwen_asr.web.transport.redirect import same_port
from qwen_asr.web.transport.tls_or_http import tls_or_redirect
from qwen_asr.web.transport.websocket_protocol import socket_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qwen_asr.service.shutdown import Stopping
    from qwen_asr.tls.reloading import ReloadingCertificate

GRACE_SECONDS = 2
"""How long open requests may take when the server stops; each open page holds one that would never end by itself."""
_LOOK_SECONDS = 0.1
_QUIET_LOOKS = 3  # for what was written last to reach the other side


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises PortInUse, or StartupError for an address or port that cannot be had.

    `option` is what the port was given by.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise StartupError(f"--host {host} is no address: give a name or address of this machine.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        # A port that was in use until a moment ago may be taken again; one that is listened on may not.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.set_inheritable(True)
    except OSError as error:
        listening.close()
        raise _bind_error(error, host, port, option) from None
    return listening


def _bind_error(error: OSError, host: str, port: int, option: str) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"Port {port} on {host} is in use by another program: stop it, or give another with {option}.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartupError(
            f"Port {port} is reserved for administrators: give one of 1024 or above with {option}, or give the server "
            "the right to it (on Linux CAP_NET_BIND_SERVICE, as docs/https.md shows)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartupError(f"--host {host} is no address of this machine: give one that is, or 0.0.0.0 for all.")
    return StartupError(f"Cannot listen on {host}:{port} ({error.strerror}): give another --host or {option}.")


def create_server(
    app: FastAPI,
    around: Callable[[Any], Any] = lambda app: app,
    *,
    certificate: ReloadingCertificate | None = None,
    limits: AcceptorLimits | None = None,
    **options: Any,
) -> Server:
    """A server for what `create_app` made, inside of the ASGI middleware `around`; `options` are uvicorn's.

    It speaks HTTPS where there is a `certificate`. Run it on sockets from `bind`.
    """
    settings: dict[str, Any] = {
        "http": HttpProtocol,
        "log_config": None,  # its records go where all others do, and look alike
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # `Forwarded` does it, and more; nothing may be done twice
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    configured = uvicorn.Config(around(app), **settings | socket_options() | options)
    return Server(configured, app.state.end_streams, getattr(app.state, "stopping", None), certificate, limits)


class Server(uvicorn.Server):
    """uvicorn's, that ends at a signal and returns, instead of raising the signal again: a stop is no failure.

    With a certificate it lets connections in itself, each with the certificate of the moment; see `first_byte`.
    """

    stopped_by: int | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None] = lambda: None,
        stopping: Stopping | None = None,
        certificate: ReloadingCertificate | None = None,
        limits: AcceptorLimits | None = None,
    ) -> None:
        """`stopping` ends the open sessions first, while all is still served; `on_stop` is called then, in the server's
        loop, before open requests are waited for. With a `certificate` it serves HTTPS, within `limits`."""
        super().__init__(config)
        self._on_stop = on_stop
        self._stopping = stopping
        self._certificate = certificate
        self._limits = limits or AcceptorLimits()
        self._idle = IdleConnections(self._limits.idle_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's; with a certificate the sockets get doors of ours."""
        certificate = self._certificate
        if certificate is None or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        admit = tls_or_redirect(lambda: certificate.context, self._protocol, same_port, self._limits)
        self.servers = [Acceptor(listening, admit, self._limits) for listening in sockets]  # type: ignore[misc]  # all that is asked of asyncio's they do

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's, ten times a second; and once a second what is idle is closed."""
        if counter % 10 == 0:
            self._idle.sweep(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    def _protocol(self) -> asyncio.Protocol:
        # As uvicorn's own startup makes them.
        made: asyncio.Protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )  # type: ignore[call-arg]  # of any of uvicorn's protocols, which share these
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server while it runs; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # tests run it in a thread and set `should_exit`
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the sessions, then the connections as uvicorn does, then what is still open."""
        if self._stopping is not None:
            await self._stopping.run(lambda: self.force_exit)
        self._on_stop()
        hanging_up = asyncio.create_task(self._hang_up())
        await super().shutdown(sockets)
        hanging_up.cancel()
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves it out then, and the app's end would be a traceback
        self._abort()
        await asyncio.sleep(0.1)  # the loop's own turn, in which transports are really closed

    async def _hang_up(self) -> None:
        """A browser need not answer the end of TLS, or of a socket: where nothing is left to say, nobody waits."""
        quiet = 0
        while quiet < _QUIET_LOOKS:
            await asyncio.sleep(_LOOK_SECONDS)
            quiet = 0 if self.server_state.tasks else quiet + 1
        self._abort()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    def _stop(self, number: int, _: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = number
        if self._stopping is not None:
            self._stopping.announce()
