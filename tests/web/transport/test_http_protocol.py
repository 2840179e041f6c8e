"""Which requests are the last of their connection: a real server, and bytes on a socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request

from qwen_asr.web.transport.uvicorn_server import bind, create_server

TIMEOUT = 60  # seconds; no test is about speed
LENGTH, CHUNKED = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = b"GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    app = FastAPI()
    app.state.end_streams = lambda: None

    @app.post("/first")
    async def first(request: Request) -> str:
        return f"first {(await request.body()).decode()}"

    @app.get("/second")
    async def second() -> str:
        return "second"

    bound = bind("127.0.0.1", 0)
    server = create_server(app, timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)
        bound.close()
    assert not thread.is_alive()


def answers(port: int, *parts: bytes) -> bytes:
    """Everything that the server sends until it closes; each part is sent when the one before it was answered."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        for part in parts:
            connection.sendall(part)
            received += connection.recv(65_536)
        while more := connection.recv(65_536):
            received += more
    return received


def post(*headers: bytes, body: bytes = CHUNKS, version: bytes = b"1.1") -> bytes:
    return b"POST /first HTTP/%b\r\nHost: localhost\r\n%b\r\n%b" % (version, b"".join(headers), body)


@pytest.mark.parametrize("headers", [(LENGTH, CHUNKED), (CHUNKED, LENGTH), (LENGTH.lower(), CHUNKED.upper())])
def test_a_request_with_two_lengths_is_the_last_of_its_connection(port: int, headers: tuple[bytes, ...]) -> None:
    received = answers(port, post(*headers) + SMUGGLED)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received
    assert received.endswith(b'"first hello"')  # by Transfer-Encoding


def test_also_if_its_parts_come_one_by_one_and_it_is_not_the_first(port: int) -> None:
    whole = post(LENGTH, CHUNKED)
    received = answers(port, SMUGGLED, post(LENGTH, body=b"hello"), whole)
    assert received.count(b"HTTP/1.1 200 ") == 3
    assert received.lower().count(b"\r\nconnection: close\r\n") == 1
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        for byte in whole[:-1]:
            connection.sendall(bytes([byte]))
        connection.sendall(whole[-1:] + SMUGGLED)
        received = b""
        while more := connection.recv(65_536):
            received += more
    assert received.count(b"HTTP/1.1 ") == received.count(b"connection: close") == 1


def test_one_length_keeps_the_connection(port: int) -> None:
    last = SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = answers(port, post(CHUNKED), post(LENGTH, body=b"hello"), last)
    assert received.count(b"HTTP/1.1 200 ") == 3
    assert received.lower().count(b"\r\nconnection: close\r\n") == 1


def test_two_different_lengths_are_refused(port: int) -> None:
    received = answers(port, post(LENGTH, b"Content-Length: 6\r\n", body=b"hello") + SMUGGLED)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_http_1_0_closes(port: int) -> None:
    assert answers(port, post(CHUNKED, version=b"1.0") + SMUGGLED).count(b"HTTP/1.1 ") == 1
