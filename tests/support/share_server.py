"""A stand-in for Gradio's share service: the address that hands out servers, and a share server with its public side.

`api` answers as `https://api.gradio.app/v3/tunnel-request` does. The share server listens for the tunnel program
(`tests/support/frpc.py`) and for visitors. Like the real one (github.com/huggingface/frp, pkg/util/vhost/http.go) it
passes on the Host header as it is and appends to X-Forwarded-For the address that it sees. In front of the real one
something else ends TLS, and puts the visitor's address and the scheme in: the stand-in does both.

All visitors of a test come from loopback. `X-Test-Visitor` says which address the public side takes them to have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import stat
import sys
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

FRPC = Path(__file__).with_name("frpc.py")
VISITOR = "203.0.113.20"
"""Whom visitors without `X-Test-Visitor` are taken for."""
DOMAIN = "share.localhost"
"""Where the links are. Browsers take every name that ends so for this machine; other programs use `visit`."""
BALANCER = "10.0.3.7"
"""The address inside the share service of what ends TLS: the last that X-Forwarded-For has."""


def install_frpc(hf_home: Path, source: bytes | None = None) -> Path:
    """Puts the stand-in, or other bytes, where Gradio looks for its program below `HF_HOME`. Returns its path."""
    from gradio import tunneling

    path = hf_home / "gradio" / "frpc" / tunneling.BINARY_FILENAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program() if source is None else source)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def program() -> bytes:
    """The stand-in as a file that can be run."""
    return f"#!{sys.executable} -u\n".encode() + FRPC.read_bytes()


@dataclass
class ShareServer:
    """The share server, on an event loop of its own. `certificate`: certificate, key, and the root that signed it."""

    certificate: tuple[Path, Path, Path]
    tls: bool = True
    refuses: str = ""
    """Why it refuses tunnels; "" while it does not."""
    salt: str = ""
    """What the names of links depend on beside the tunnel."""
    silent: bool = False
    """Whether it never gives a link."""
    programs: list[int] = field(default_factory=list)
    """The process id of each tunnel program that has logged in, once for each time."""
    _visits: int = 0
    _works: dict[str, asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = field(default_factory=dict)
    _done: dict[str, asyncio.Event] = field(default_factory=dict)
    _controls: dict[str, asyncio.StreamWriter] = field(default_factory=dict)
    _downloads: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listens on three free ports."""
        certfile, keyfile, _ = self.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certfile, keyfile)
        secure = context if self.tls else None
        listen = asyncio.start_server
        self._control = await listen(self._held(self._tunnel), "127.0.0.1", 0, ssl=secure)
        self._public = await listen(self._held(self._visitor), "127.0.0.1", 0, ssl=secure, limit=1 << 20)
        self._api = await listen(self._held(self._answer), "127.0.0.1", 0)

    async def close(self) -> None:
        """Closes everything."""
        for server in (self._control, self._public, self._api):
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """HOST:PORT for the tunnel program."""
        return f"127.0.0.1:{_port(self._control)}"

    @property
    def api(self) -> str:
        """The stand-in for `https://api.gradio.app/v3/tunnel-request`."""
        return f"http://127.0.0.1:{_port(self._api)}/v3/tunnel-request"

    def link(self, name: str) -> str:
        """The link of a tunnel. The fork prints https always; its name is the start of a hash."""
        return f"https://{hashlib.sha256((name + self.salt).encode()).hexdigest()[:18]}.{DOMAIN}:{_port(self._public)}"

    def offer(self, path: str, status: int, content: bytes) -> str:
        """Has the API server answer a path with this. Returns its address."""
        self._downloads[path] = status, content
        return f"http://127.0.0.1:{_port(self._api)}{path}"

    async def tell(self, **message: object) -> None:
        """Sends a message to the tunnel programs: `exit=3` ends them, `say=…` has them print a line."""
        for control in self._controls.values():
            control.write(json.dumps(message).encode() + b"\n")
            await control.drain()

    async def drop(self) -> None:
        """Cuts the control connections, as when the share server starts again."""
        for control in self._controls.values():
            control.transport.abort()

    def _held(self, handle: Any) -> Any:
        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await handle(reader, writer)
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        return handled

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads(await reader.readline())
        if "work" in message:
            await self._work(message["work"], reader, writer)
            return
        self.programs.append(message["pid"])
        if self.refuses:
            writer.write(json.dumps({"refused": self.refuses}).encode() + b"\n")
            await writer.drain()
            await reader.read()
            return
        link = self.link(message["login"])
        host = link.removeprefix("https://")
        self._controls[host] = writer
        try:
            if not self.silent:
                writer.write(json.dumps({"link": link}).encode() + b"\n")
            await reader.read()
        finally:
            if self._controls.get(host) is writer:
                del self._controls[host]

    async def _work(self, number: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done = self._done[number] = asyncio.Event()
        self._works.pop(number).set_result((reader, writer))
        await done.wait()

    async def _visitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.rstrip("\r\n").split("\r\n")
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        given = {name.lower(): value for name, value in headers}
        control = self._controls.get(given.get("host", ""))
        if control is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        visitor = given.pop("x-test-visitor", VISITOR)
        before = [given["x-forwarded-for"]] if "x-forwarded-for" in given else []
        ours = {
            "x-forwarded-for": ", ".join([*before, visitor, BALANCER]),
            "x-forwarded-proto": "https" if self.tls else "http",
            "x-test-visitor": None,
        }
        if "upgrade" not in given:
            ours["connection"] = "close"  # one request for each connection
        kept = [f"{name}: {value}" for name, value in headers if name.lower() not in ours]
        kept += [f"{name}: {value}" for name, value in ours.items() if value is not None]
        self._visits += 1
        number = str(self._visits)
        waiting = self._works[number] = asyncio.get_running_loop().create_future()
        control.write(json.dumps({"work": number}).encode() + b"\n")
        on_reader, on_writer = await asyncio.wait_for(waiting, 60)
        try:
            on_writer.write("\r\n".join([request, *kept, "", ""]).encode("latin-1"))
            up = asyncio.create_task(_copy(reader, on_writer))
            await _copy(on_reader, writer)
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
        finally:
            self._done[number].set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ")[1]
        root = self.certificate[2].read_text(encoding="ascii")
        host, _, port = self.address.rpartition(":")
        answer = json.dumps([{"host": host, "port": port, "root_ca": root}]).encode()
        status, content = self._downloads.get(path, (200, answer))
        begin = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(begin.encode() + content)
        await writer.drain()


class Running:
    """A `ShareServer` on a thread, for tests."""

    def __init__(self, server: ShareServer) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, doing: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine on its event loop, and waits for it."""
        asyncio.run_coroutine_threadsafe(doing, self._loop).result(60)

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


def visit(link: str, root: Path, path: str = "/", **options: Any) -> httpx.Response:
    """What a visitor gets. `root` is what the link's certificate is trusted by, `options` are those of httpx."""
    parts = urlsplit(link)
    options["headers"] = {"Host": parts.netloc, **options.get("headers", {})}
    with httpx.Client(verify=ssl.create_default_context(cafile=str(root)), timeout=60) as http:
        request = http.build_request(
            options.pop("method", "GET"), f"{parts.scheme}://127.0.0.1:{parts.port}{path}", **options
        )
        request.extensions["sni_hostname"] = parts.hostname
        return http.send(request)


@contextlib.contextmanager
def share_server(certificate: tuple[Path, Path, Path], **options: Any) -> Iterator[Running]:
    """A share service that runs."""
    running = Running(ShareServer(certificate, **options))
    running.call(running.server.start())
    try:
        yield running
    finally:
        running.call(running.server.close())
        running.close()


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
