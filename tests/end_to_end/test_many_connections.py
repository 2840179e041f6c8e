"""One address opens more connections than the server has files: others still get the page, and the log stays short."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.processes import ServerProcess

pytestmark = pytest.mark.slow

FILES = 1024
CONNECTIONS = 1100
FLOODER = "127.0.0.2"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
KINDS = {
    "idle": b"",
    "requests of the page": b"GET /gradio_api/queue/data HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bodies that never come": b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
    "uploads that never come": b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n",
    "half-open WebSockets": b"GET /ws/asr HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + b"\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[ServerProcess]:
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))"
    # Its log goes to a file: a pipe that nobody reads would stop a server that logs too much.
    log = tmp_path_factory.mktemp("log") / "errors"
    to_file = f"import os; os.dup2(os.open({str(log)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), 2)"
    started = ServerProcess(
        log.parent, repository, "--asr-model-path", "demo", "--port", "0", first=f"{few}\n{to_file}"
    )
    started.log = log  # type: ignore[attr-defined]  # read below
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="module")
def port(server: ServerProcess) -> int:
    address = server.line_with("http://localhost")
    server.line_with("Ready.")
    found = urlsplit(address).port
    assert found
    return found


@contextlib.contextmanager
def flood(port: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many connections from one address, each of which has sent those bytes."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.socket())
            connection.settimeout(30)
            connection.bind((FLOODER, 0))
            connection.connect(("127.0.0.1", port))
            with contextlib.suppress(OSError):  # closed already
                connection.sendall(sent)
            opened.append(connection)
        yield opened


def fastest(port: int, path: str) -> float:
    """Seconds of the fastest of five requests on connections of their own. The machine may be busy with others."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        assert httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code == 200
        taken.append(time.monotonic() - began)
    return min(taken)


def test_another_address_is_served_beside_a_flood_of_each_kind(server: ServerProcess, port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    log: Path = server.log  # type: ignore[attr-defined]  # set above
    fastest(port, "/")
    for kind, sent in KINDS.items():
        before = log.read_text().count("\n")
        with flood(port, sent) as connections:
            assert len(connections) == CONNECTIONS
            for path in ("/healthz", "/"):
                assert fastest(port, path) < 1.0, kind
        text = log.read_text()
        assert text.count("\n") - before < 100, kind
        assert "Traceback" not in text
    assert f"{FLOODER} has " in text
    assert server.end(signal.SIGTERM)[0] == 0
