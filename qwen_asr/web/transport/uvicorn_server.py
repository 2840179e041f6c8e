"""The uvicorn server: binding its port, TLS with a reloading certificate, and graceful shutdown."""

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
from qwen_asr.web.transport.acceptor import Acceptor, Handler
from qwen_asr.web.transport.http_protocol import HttpProtocol
from qwen_asr.web.transport.idle_timeout import IdleTimeout
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.redirect import redirect_same_port
from qwen_asr.web.transport.tls_or_http import tls_or_http_handler
from qwen_asr.web.transport.websocket_protocol import websocket_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qwen_asr.service.shutdown import Stopping
    from qwen_asr.tls.reloading import ReloadingCertificate

GRACE_SECONDS = 2
"""How long open requests may take after shutdown began. Each open page has one that never ends by itself."""
_POLL_SECONDS = 0.1
_QUIET_POLLS = 3  # time in which the last bytes written reach the client


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Returns a listening socket. Raises PortInUse, or StartupError for an address or port that cannot be used.

    `option` is the option that set `port`, for error messages.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise StartupError(f"--host {host} is not an address: give a name or address of this machine.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        # Allows a port on which connections are in TIME_WAIT, but not one on which another socket listens.
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
            f"Port {port} is reserved for administrators: give one of 1024 or above with {option}, or allow the server "
            "to use it (on Linux with CAP_NET_BIND_SERVICE; see docs/https.md)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartupError(
            f"--host {host} is not an address of this machine: give one of its addresses, or 0.0.0.0 for all."
        )
    return StartupError(f"Cannot listen on {host}:{port} ({error.strerror}): give another --host or {option}.")


def create_server(
    app: FastAPI,
    middleware: Callable[[Any], Any] = lambda app: app,
    *,
    certificate: ReloadingCertificate | None = None,
    limits: AcceptorLimits | None = None,
    connections: OpenConnections | None = None,
    **options: Any,
) -> Server:
    """Creates the server for an app from `create_app`, wrapped in ASGI `middleware`. Run it on sockets from `bind`.

    With a `certificate` it serves HTTPS. It keeps to `limits`, and its connections count among `connections`.
    `options` are uvicorn's.
    """
    settings: dict[str, Any] = {
        "http": HttpProtocol,
        "log_config": None,  # log records go to the handlers of the root logger
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # `ForwardedHeaders` does this
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    configured = uvicorn.Config(middleware(app), **settings | websocket_options() | options)
    return Server(
        configured, app.state.end_streams, getattr(app.state, "stopping", None), certificate, limits, connections
    )


class Server(uvicorn.Server):
    """uvicorn's server, with three changes.

    - After a signal it shuts down and returns. uvicorn raises the signal again, so the process would seem to fail.
    - It accepts connections itself (see `acceptor`), with a certificate each with the current one (see `tls_or_http`).
    - It closes idle connections, and at shutdown ends the open sessions first.
    """

    stopped_by: int | None = None
    """The number of the signal that stopped it."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None] = lambda: None,
        stopping: Stopping | None = None,
        certificate: ReloadingCertificate | None = None,
        limits: AcceptorLimits | None = None,
        connections: OpenConnections | None = None,
    ) -> None:
        """At shutdown `stopping` ends the open sessions, while requests are still served; then `on_stop` is called in
        the event loop, before the server waits for open requests."""
        super().__init__(config)
        self._on_stop = on_stop
        self._stopping = stopping
        self._certificate = certificate
        self._limits = limits or AcceptorLimits()
        self._open_connections = connections or OpenConnections.within(
            self._limits.open_files, self._limits, lambda _: False
        )
        self._idle_timeout = IdleTimeout(self._limits)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but an `Acceptor` serves each socket."""
        if sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        handler = self._handler()
        self.servers = [
            Acceptor(listening, handler, self._limits, self._open_connections)  # type: ignore[misc]  # has the methods of `asyncio.Server` that uvicorn calls
            for listening in sockets
        ]

    def _handler(self) -> Handler:
        certificate = self._certificate
        if certificate is not None:
            return tls_or_http_handler(
                lambda: certificate.context, self._create_protocol, redirect_same_port, self._limits
            )

        async def serve_plain(connection: socket.socket) -> None:
            await asyncio.get_running_loop().connect_accepted_socket(self._create_protocol, connection)

        return serve_plain

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's, which runs ten times a second; checks for idle connections once a second."""
        if counter % 10 == 0:
            self._idle_timeout.check(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    def _create_protocol(self) -> asyncio.Protocol:
        # As in uvicorn's `startup`.
        protocol: asyncio.Protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )  # type: ignore[call-arg]  # the constructor's arguments, which all of uvicorn's protocols share
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM while the server runs. A second signal skips waiting."""
        if threading.current_thread() is not threading.main_thread():
            yield  # as in tests, which set `should_exit`
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the sessions, then connections as uvicorn does, then aborts the remaining ones."""
        if self._stopping is not None:
            await self._stopping.run(lambda: self.force_exit)
        self._on_stop()
        aborting = asyncio.create_task(self._abort_when_quiet())
        await super().shutdown(sockets)
        aborting.cancel()
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn skips it then, and the app would end with a traceback
        self._abort_connections()
        await asyncio.sleep(0.1)  # lets the event loop close the transports

    async def _abort_when_quiet(self) -> None:
        """Aborts the connections when no request is left: browsers may never answer the end of TLS or a WebSocket."""
        quiet_polls = 0
        while quiet_polls < _QUIET_POLLS:
            await asyncio.sleep(_POLL_SECONDS)
            quiet_polls = 0 if self.server_state.tasks else quiet_polls + 1
        self._abort_connections()

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    def _on_signal(self, number: int, _: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = number
        if self._stopping is not None:
            self._stopping.announce()
