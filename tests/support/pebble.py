"""Pebble, Let's Encrypt's test authority, on loopback, with a DNS server that resolves every name to 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Issuer
from tests.support.https import TIMEOUT_SECONDS
from tests.support.network import free_ports
from tests.support.processes import until

BLOCKED = "blocked.example.com"
"""A name for which Pebble refuses a certificate."""


@dataclass(frozen=True)
class Pebble:
    """A running Pebble."""

    directory: str
    """The URL of its ACME directory."""
    bundle: Path
    """The root of its own HTTPS certificate, for REQUESTS_CA_BUNDLE."""
    http_port: int
    """The port that it uses for challenges instead of 80."""
    root: str
    """The root of the certificates that it issues, PEM; a new one at each start."""

    def trust(self) -> ssl.SSLContext:
        """A client context that trusts only this root."""
        return ssl.create_default_context(cadata=self.root)


@contextlib.contextmanager
def running(
    folder: Path, program: Callable[[str], str], lifetime: int = 90 * 86_400, refused_nonces: int = 0
) -> Iterator[Pebble]:
    """Pebble with its files in `folder`; its certificates live for `lifetime` seconds.

    It rejects `refused_nonces` percent of valid nonces, to test the retries of clients. Pebble's default is 5 percent,
    with which certbot, which retries only once, fails in about one of twenty runs.
    """
    listen, manage, http, dns, control = free_ports(5)
    issuer = Issuer()
    certfile, keyfile = issuer.issue("localhost", "127.0.0.1").write(folder)
    bundle = folder / "bundle.pem"
    bundle.write_bytes(issuer.root_pem)
    options = {
        "listenAddress": f"127.0.0.1:{listen}",
        "managementListenAddress": f"127.0.0.1:{manage}",
        "certificate": str(certfile),
        "privateKey": str(keyfile),
        "httpPort": http,
        "tlsPort": 1,
        "certificateValidityPeriod": lifetime,
        "domainBlocklist": [BLOCKED],
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": options}), encoding="utf-8")
    names = [program("pebble-challtestsrv"), "-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{control}"]
    names += ["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]
    authority = [program("pebble"), "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
    environ = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(refused_nonces)}
    with (folder / "pebble.log").open("wb") as log, contextlib.ExitStack() as processes:
        for command in (names, authority):
            process = processes.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=environ))
            processes.callback(process.terminate)
        trust = issuer.trust()

        def root() -> str:
            url = f"https://localhost:{manage}/roots/0"
            with urllib.request.urlopen(url, context=trust, timeout=TIMEOUT_SECONDS) as answer:
                return str(answer.read().decode())

        def answers() -> bool:
            assert process.poll() is None, (folder / "pebble.log").read_text(encoding="utf-8")
            with contextlib.suppress(OSError):
                return bool(root())
            return False

        assert until(answers)
        yield Pebble(f"https://localhost:{listen}/dir", bundle, http, root())
