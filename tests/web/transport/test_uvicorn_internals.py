"""What the transport modules use or override inside uvicorn and asyncio exists as they expect it.

If a test fails after an update of uvicorn, compare the new uvicorn code with the module that its message names.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import uvicorn
from uvicorn import _types
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from qwen_asr.config.limits import AcceptorLimits, SocketLimits
from qwen_asr.web.transport.http_protocol import HttpProtocol
from qwen_asr.web.transport.idle_timeout import IdleTimeout
from qwen_asr.web.transport.uvicorn_server import Server
from qwen_asr.web.transport.websocket_protocol import protocol_class, websocket_options

OVERRIDES: list[tuple[type, type, set[str]]] = [
    (HttpProtocol, H11Protocol, {"connection_made", "data_received", "handle_events"}),
    (
        protocol_class(SocketLimits()),
        WebSocketsSansIOProtocol,
        {
            *(
                "__init__",
                "connection_lost",
                "data_received",
                "run_asgi",
                "receive",
                "send",
                "send_receive_event_to_app",
            ),
            *("handle_connect", "handle_text", "handle_bytes", "handle_cont", "handle_ping", "handle_pong"),
        },
    ),
    (Server, uvicorn.Server, {"__init__", "startup", "on_tick", "capture_signals", "shutdown"}),
]


def changed(what: str, module: str) -> str:
    return f"uvicorn {uvicorn.__version__}: {what} is not as qwen_asr/web/transport/{module} expects it"


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("own", "base", "names"), OVERRIDES, ids=[base.__name__ for _, base, _ in OVERRIDES])
def test_overridden_methods_exist_with_the_same_parameters(own: type, base: type, names: set[str]) -> None:
    defined = {name for name, value in vars(own).items() if inspect.isfunction(value) and hasattr(base, name)}
    assert defined == names
    for name in names - {"__init__"}:
        ours, theirs = getattr(own, name), getattr(base, name)
        message = changed(f"{base.__name__}.{name}", own.__module__.rpartition(".")[2] + ".py")
        assert [part.strip("_") for part in parameters(ours)] == parameters(theirs), message
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs), message


# Object, method, parameters that we pass by name or position, whether it is awaited.
CALLED: list[tuple[type, str, list[str], bool, str]] = [
    (uvicorn.Server, "__init__", ["self", "config"], False, "uvicorn_server.py"),
    (uvicorn.Server, "run", ["self", "sockets"], False, "uvicorn_server.py"),
    (LifespanOn, "shutdown", ["self"], True, "uvicorn_server.py"),
    (H11Protocol, "__init__", ["self", "config", "server_state", "app_state"], False, "uvicorn_server.py"),
    (WebSocketsSansIOProtocol, "handle_parser_exception", ["self"], False, "websocket_protocol.py"),
]


@pytest.mark.parametrize(
    ("kind", "name", "expected", "awaited", "module"),
    CALLED,
    ids=[f"{kind.__name__}.{name}" for kind, name, *_ in CALLED],
)
def test_called_methods_have_the_expected_parameters(
    kind: type, name: str, expected: list[str], awaited: bool, module: str
) -> None:
    method = getattr(kind, name)
    message = changed(f"{kind.__name__}.{name}", module)
    found = inspect.signature(method).parameters
    assert list(found)[: len(expected)] == expected, message
    others = list(found.values())[len(expected) :]
    assert all(other.default is not other.empty for other in others), message
    assert inspect.iscoroutinefunction(method) == awaited, message


def test_all_options_exist() -> None:
    known = set(parameters(uvicorn.Config))
    options = {*websocket_options(), "http", "log_config", "log_level", "access_log", "server_header", "proxy_headers"}
    assert options | {"timeout_graceful_shutdown"} <= known, changed("Config", "uvicorn_server.py")
    assert issubclass(ClientDisconnected, OSError)
    assert hasattr(_types, "ASGISendEvent")


async def here(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers "here" and refuses WebSockets."""
    if scope["type"] == "lifespan":
        return
    await asyncio.sleep(0)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


def loaded_config() -> uvicorn.Config:
    config = uvicorn.Config(here, http=HttpProtocol, log_config=None, **websocket_options())
    config.load()
    return config


class RecordingTransport(asyncio.Transport):
    """Records what a protocol does with its transport."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.written = b""
        self.calls: list[str] = []

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return "close" in self.calls

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.calls.append("set_protocol")

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")


def test_a_server_has_the_attributes_that_are_used() -> None:
    async def run() -> None:
        server = uvicorn.Server(loaded_config())
        for name in ("config", "server_state", "started", "should_exit", "force_exit"):
            assert hasattr(server, name), changed(f"Server.{name}", "uvicorn_server.py")
        for name in ("connections", "tasks"):
            assert getattr(server.server_state, name) == set(), changed(f"ServerState.{name}", "uvicorn_server.py")
        assert issubclass(server.config.http_protocol_class, HttpProtocol)  # may be a name
        server.lifespan = server.config.lifespan_class(server.config)
        assert isinstance(server.lifespan.state, dict), changed("Lifespan.state", "uvicorn_server.py")
        # With an empty list of sockets it listens on none, and `servers` may be replaced.
        await server.startup([])
        assert server.started
        assert server.servers == [], changed("Server.servers", "uvicorn_server.py")
        await server.lifespan.shutdown()
        assert isinstance(server.capture_signals(), AbstractContextManager)

    asyncio.run(run())


def test_shutdown_closes_the_servers_and_shuts_connections_down() -> None:
    calls: list[str] = []
    server: uvicorn.Server

    class OwnServer:
        def close(self) -> None:
            calls.append("close")

        async def wait_closed(self) -> None:
            calls.append("wait_closed")

    class Connection:
        def shutdown(self) -> None:
            calls.append("shutdown")
            server.server_state.connections.clear()

    async def run() -> None:
        nonlocal server
        server = uvicorn.Server(loaded_config())
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([])
        server.servers = [OwnServer()]  # type: ignore[list-item]  # as `Server` does with an `Acceptor`
        server.server_state.connections.add(Connection())  # type: ignore[arg-type]  # only what shutdown uses
        await server.shutdown()

    asyncio.run(run())
    assert calls == ["close", "shutdown", "wait_closed"], changed("Server.shutdown", "acceptor.py")


def test_an_http_protocol_has_the_attributes_that_are_used() -> None:
    async def run() -> None:
        server = uvicorn.Server(loaded_config())
        transport = RecordingTransport()
        protocol = HttpProtocol(config=server.config, server_state=server.server_state, app_state={})
        protocol.connection_made(transport)
        assert server.server_state.connections == {protocol}
        assert protocol.cycle is None, changed("H11Protocol.cycle", "idle_timeout.py")
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert protocol.cycle.response_complete is False, changed("cycle.response_complete", "idle_timeout.py")
        assert isinstance(protocol.cycle.default_headers, list), changed("cycle.default_headers", "http_protocol.py")
        assert (b"host", b"localhost") in protocol.cycle.scope["headers"], changed("cycle.scope", "http_protocol.py")
        assert protocol.received == 35
        for name, value in {"more_body": False, "waiting_for_100_continue": False}.items():
            assert getattr(protocol.cycle, name) is value, changed(f"cycle.{name}", "idle_timeout.py")
        assert protocol.flow.read_paused is False, changed("flow.read_paused", "idle_timeout.py")
        await asyncio.gather(*server.server_state.tasks)
        assert protocol.cycle.response_complete is True, changed("cycle.response_complete", "idle_timeout.py")
        assert b"here" in transport.written
        idle = IdleTimeout(AcceptorLimits(idle_seconds=1.0))
        idle.check(server.server_state.connections, 0.0)
        assert "close" not in transport.calls
        idle.check(server.server_state.connections, 1.0)
        assert transport.calls.count("close") == 1
        protocol.connection_lost(None)
        assert server.server_state.connections == set()

    asyncio.run(run())


def test_a_websocket_protocol_has_the_attributes_that_are_used() -> None:
    async def run() -> None:
        server = uvicorn.Server(loaded_config())
        kind: Any = server.config.ws_protocol_class
        assert issubclass(kind, WebSocketsSansIOProtocol)
        protocol = kind(config=server.config, server_state=server.server_state, app_state={})
        module = "websocket_protocol.py"
        assert isinstance(protocol.queue, asyncio.Queue), changed("queue", module)
        assert protocol.handshake_complete is False, changed("handshake_complete", module)
        assert protocol.close_sent is False, changed("close_sent", module)
        assert protocol.frames == [], changed("frames", module)
        assert protocol.read_paused is False, changed("read_paused", module)
        assert protocol.loop is asyncio.get_running_loop(), changed("loop", module)
        assert callable(protocol.conn.send_close), changed("conn.send_close", module)
        assert protocol.handshake_initiated is False, changed("handshake_initiated", module)
        assert protocol.close_timer is None, changed("close_timer", module)
        assert "transport" in vars(protocol), changed("transport", module)
        assert not hasattr(protocol, "cycle"), changed("cycle", "idle_timeout.py")
        for name in ("handle_text", "handle_bytes"):
            assert "curr_msg_data_type" in inspect.getsource(getattr(WebSocketsSansIOProtocol, name)), changed(
                "curr_msg_data_type", module
            )

    asyncio.run(run())


def test_an_upgrade_hands_the_wrapped_transport_to_the_websocket_protocol() -> None:
    async def run() -> None:
        server = uvicorn.Server(loaded_config())
        transport = RecordingTransport()
        protocol = HttpProtocol(config=server.config, server_state=server.server_state, app_state={})
        protocol.connection_made(transport)
        wrapped = protocol.transport
        protocol.data_received(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        [websocket] = server.server_state.connections
        assert isinstance(websocket, WebSocketsSansIOProtocol)
        assert websocket.transport is wrapped, changed("H11Protocol.handle_websocket_upgrade", "http_protocol.py")
        await asyncio.gather(*server.server_state.tasks)

    asyncio.run(run())


def test_asyncio_has_the_calls_that_are_used() -> None:
    loop = asyncio.new_event_loop()
    try:
        accepted = inspect.signature(loop.connect_accepted_socket).parameters
        assert {"ssl", "ssl_handshake_timeout", "ssl_shutdown_timeout"} <= set(accepted)
        assert parameters(loop.sock_accept) == ["sock"]
        assert callable(loop.add_reader)
        assert callable(loop.remove_reader)
    finally:
        loop.close()
    assert {"close", "wait_closed"} <= set(dir(asyncio.Server))
    assert socket.MSG_PEEK
