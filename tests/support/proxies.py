"""nginx and Caddy as processes, with the configurations in docs/, in front of a test server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_asr.tls.managed_files import CertificateFiles
from tests.support.network import free_ports
from tests.support.processes import until

DOMAIN = "speech.example.com"
UPSTREAM = "127.0.0.1:8000"


@dataclass(frozen=True)
class RunningProxy:
    """A proxy on 127.0.0.1."""

    url: str
    """Its public address, without a trailing slash."""
    http_port: int
    """The port of plain HTTP."""


@contextlib.contextmanager
def nginx(
    path: str, configuration: Path, folder: Path, files: CertificateFiles, upstream: int
) -> Iterator[RunningProxy]:
    """Runs nginx in front of the port `upstream`, with a file of docs/ in which only names and ports are replaced."""
    secure, plain = free_ports(2)
    text = _replaced(
        configuration.read_text(encoding="utf-8"),
        {
            f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem": str(files.certfile),
            f"/etc/letsencrypt/live/{DOMAIN}/privkey.pem": str(files.keyfile),
            DOMAIN: "localhost",
            UPSTREAM: f"127.0.0.1:{upstream}",
            "listen 443": f"listen 127.0.0.1:{secure}",
            "listen 80": f"listen 127.0.0.1:{plain}",
        },
    )
    # Without these lines the test also runs on machines without IPv6.
    text = re.sub(r"listen \[::\].*", "", text)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "client_body"))
    others = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("fastcgi", "uwsgi", "scgi"))
    (folder / "docs.conf").write_text(text, encoding="utf-8")
    main = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its workers read the folder of the test
    main.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; {user}\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log off; {temporary} {others} include {folder}/docs.conf; }}\n",
        encoding="utf-8",
    )
    with _running([path, "-p", str(folder), "-e", "stderr", "-c", str(main)], folder, secure):
        yield RunningProxy(f"https://localhost:{secure}", plain)


@contextlib.contextmanager
def caddy(
    path: str, configuration: Path, folder: Path, files: CertificateFiles, upstream: int
) -> Iterator[RunningProxy]:
    """Runs Caddy likewise, with this certificate instead of one that it obtains, and without port 80."""
    secure, plain = free_ports(2)
    text = _replaced(
        configuration.read_text(encoding="utf-8"),
        {
            f"{{$DOMAIN:{DOMAIN}}} {{": f"https://localhost:{secure} {{\n\ttls {files.certfile} {files.keyfile}",
            f"{{$UPSTREAM:{UPSTREAM}}}": f"127.0.0.1:{upstream}",
        },
    )
    options = f"{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\thttp_port {plain}\n\thttps_port {secure}\n}}\n"
    (folder / "Caddyfile").write_text(options + text, encoding="utf-8")
    command = [path, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with _running(command, folder, secure):
        yield RunningProxy(f"https://localhost:{secure}", plain)


def _replaced(text: str, names: dict[str, str]) -> str:
    for name, other in names.items():
        assert name in text, f"{name!r} is expected in the configuration"
        text = text.replace(name, other)
    return text


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, port: int) -> Iterator[None]:
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    output = folder / "output"
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        assert until(lambda: process.poll() is not None or _accepts(port)), output.read_text()
        assert process.poll() is None, output.read_text()
        yield
    finally:
        process.terminate()
        process.wait(30)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
