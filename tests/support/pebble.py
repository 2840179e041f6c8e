"""Let's Encrypt's own test authority, Pebble, on loopback: with a name server that knows every name as 127.0.0.1."""

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

from tests.support.https import PATIENCE
from tests.support.issuing import Issuer
from tests.support.network import free_ports
from tests.support.processes import until

BLOCKED = "blocked.example.com"
"""A name for which it issues nothing."""


@dataclass(frozen=True)
class Pebble:
    """A running authority."""

    directory: str
    """Its ACME directory, as a URL."""
    bundle: Path
    """The root of its own HTTPS, which clients are to trust (REQUESTS_CA_BUNDLE)."""
    http_port: int
    """Where it asks for challenges in place of 80."""
    root: str
    """The root of what it issues, PEM; a new one at each start."""

    def trust(self) -> ssl.SSLContext:
        """A client's context that knows this root and no other."""
        return ssl.create_default_context(cadata=self.root)


@contextlib.contextmanager
def running(
    folder: Path, program: Callable[[str], str], lifetime: int = 90 * 86_400, refused_nonces: int = 0
) -> Iterator[Pebble]:
    """Pebble, issuing for `lifetime` seconds, with its files in `folder`.

    Of all good nonces it refuses `refused_nonces` percent, to see that its clients try again. Pebble by itself would
    refuse 5; certbot tries once more only, and so fails in about one run of twenty.
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
            with urllib.request.urlopen(url, context=trust, timeout=PATIENCE) as answer:
                return str(answer.read().decode())

        def answers() -> bool:
            assert process.poll() is None, (folder / "pebble.log").read_text(encoding="utf-8")
            with contextlib.suppress(OSError):
                return bool(root())
            return False

        assert until(answers)
        yield Pebble(f"https://localhost:{listen}/dir", bundle, http, root())
