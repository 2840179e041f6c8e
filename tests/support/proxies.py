"""The real nginx and the real Caddy, as a user's processes, with the configurations of docs/ in front of a server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_asr.tls.self_signed import CertificateFiles
from tests.support.network import free_ports
from tests.support.processes import until

DOMAIN = "speech.example.com"
UPSTREAM = "127.0.0.1:8000"


@dataclass(frozen=True)
class Behind:
    """A server as the world sees it: `url` without a slash at its end, and the port of plain HTTP."""

    url: str
    plain_port: int


@contextlib.contextmanager
def nginx(path: str, configuration: Path, folder: Path, files: CertificateFiles, upstream: int) -> Iterator[Behind]:
    """nginx in front of a server on the port `upstream`, with a file of docs/ in which only names are replaced."""
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
    # A machine without IPv6 has no address for these; with it they differ from the others in nothing.
    text = re.sub(r"listen \[::\].*", "", text)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "client_body"))
    others = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("fastcgi", "uwsgi", "scgi"))
    (folder / "docs.conf").write_text(text, encoding="utf-8")
    main = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the folder is the test's own
    main.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; {user}\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log off; {temporary} {others} include {folder}/docs.conf; }}\n",
        encoding="utf-8",
    )
    with _running([path, "-p", str(folder), "-e", "stderr", "-c", str(main)], folder, secure):
        yield Behind(f"https://localhost:{secure}", plain)


@contextlib.contextmanager
def caddy(path: str, configuration: Path, folder: Path, files: CertificateFiles, upstream: int) -> Iterator[Behind]:
    """Caddy, likewise. It would get a certificate by itself; here it is told one, and to leave port 80 alone."""
    secure, plain = free_ports(2)
    text = _replaced(
        configuration.read_text(encoding="utf-8"),
        {
            f"{DOMAIN} {{": f"https://localhost:{secure} {{\n\ttls {files.certfile} {files.keyfile}",
            UPSTREAM: f"127.0.0.1:{upstream}",
        },
    )
    options = f"{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\thttp_port {plain}\n\thttps_port {secure}\n}}\n"
    (folder / "Caddyfile").write_text(options + text, encoding="utf-8")
    command = [path, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with _running(command, folder, secure):
        yield Behind(f"https://localhost:{secure}", plain)


def _replaced(text: str, names: dict[str, str]) -> str:
    for name, other in names.items():
        assert name in text, f"{name!r} is expected in the configuration"
        text = text.replace(name, other)
    return text


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, port: int) -> Iterator[None]:
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    said = folder / "said"
    with said.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        assert until(lambda: process.poll() is not None or _listens(port)), said.read_text()
        assert process.poll() is None, said.read_text()
        yield
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
