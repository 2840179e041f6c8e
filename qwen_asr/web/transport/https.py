"""HTTPS from the options: checks how they fit together, and keeps the served certificate current."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from qwen_asr.config.config import Config
from qwen_asr.errors import HttpsConflict
from qwen_asr.tls.certificates import (
    FOLDER,
    ServerCertificate,
    load_local_ca_certificate,
    load_self_signed_certificate,
    load_user_certificate,
)
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.redirect import redirect_to_port
from qwen_asr.web.transport.redirect_port import Challenges, answering, challenges_in

WEBROOT = FOLDER / "webroot"
"""Folder for `certbot --webroot`. The redirect port serves the challenges that certbot writes there."""
ACME = FOLDER / "acme"
"""Folder of the ACME account and its certificates."""

# At least two labels, and a letter in the last one. Not addresses and local names, which have no public certificates,
# nor wildcards, which HTTP-01 cannot validate.
_PUBLIC_NAME = re.compile(
    r"(?=.{4,253}$)(?:(?!-)[A-Za-z0-9-]{1,63}(?<!-)\.)+(?!-)(?=.*[A-Za-z])[A-Za-z0-9-]{2,63}(?<!-)"
)


def check_https_options(config: Config) -> None:
    """Checks what can be known before a port is bound. Raises HttpsConflict, or StartupError without `acme`."""
    for name in config.acme_domain:
        if not _PUBLIC_NAME.fullmatch(name):
            raise HttpsConflict(
                f"--acme-domain was given {name!r}, but expects a public name such as asr.example.com: no wildcard and "
                "no address."
            )
    if config.acme_domain and config.http_redirect_port is None:
        raise HttpsConflict(
            "--acme-domain was given without --http-redirect-port: give that too, usually 80, because the authority "
            "validates the name over plain HTTP."
        )
    if config.http_redirect_port is not None and not config.tls:
        raise HttpsConflict(
            "--http-redirect-port was given, but the server does not serve HTTPS: give a certificate too, with "
            "--generate-self-signed-cert, --local-ca, --ssl-certfile or --acme-domain."
        )
    if config.http_redirect_port and config.http_redirect_port == config.port:
        raise HttpsConflict(
            f"--http-redirect-port and --port are both {config.port}: give two ports, or leave the first out. Plain "
            "HTTP on the HTTPS port is redirected anyway."
        )
    if config.acme_domain:
        from qwen_asr.tls.acme_client import check_installed

        check_installed()


def choose_certificate(config: Config, folder: Path = FOLDER, now: datetime | None = None) -> ServerCertificate | None:
    """The certificate that `config` selects; None without HTTPS and with ACME. Raises CertificateError."""
    if config.ssl_certfile is not None:
        keyfile = Path(config.ssl_keyfile) if config.ssl_keyfile else None
        return load_user_certificate(Path(config.ssl_certfile), keyfile, config.ssl_keyfile_password, now)
    if config.local_ca:
        return load_local_ca_certificate(folder, now, config.allowed_hosts)
    if config.generate_self_signed_cert:
        return load_self_signed_certificate(folder, now, config.allowed_hosts)
    return None


@contextlib.contextmanager
def active_certificate(
    config: Config,
    certificate: ServerCertificate | None,
    https_port: int,
    redirect_socket: socket.socket | None,
    connections: OpenConnections,
) -> Iterator[ReloadingCertificate | None]:
    """Keeps the certificate current while the context lasts: watches its files, and renews that of `--acme-domain`.

    `certificate` is the one that the options name. With `--acme-domain` it is None, and the first certificate is
    obtained before the context starts. `redirect_socket` is that of `--http-redirect-port`, whose connections count
    among `connections`. Yields None without HTTPS. Raises CertificateError.
    """
    if not config.tls:
        yield None
        return
    with contextlib.ExitStack() as running:
        if certificate is not None:
            if redirect_socket is not None:
                running.enter_context(_redirects(redirect_socket, https_port, connections))
            pair = certificate.checked
            yield running.enter_context(ReloadingCertificate(pair.certfile, pair.keyfile, pair.password))
            return
        from qwen_asr.tls.acme_client import Authority
        from qwen_asr.tls.acme_renewal import WARN_FRACTION, AcmeCertificate

        authority = Authority(config.acme_directory, config.acme_email, ACME)
        if redirect_socket is not None:  # `check_https_options` requires it
            running.enter_context(_redirects(redirect_socket, https_port, connections, authority.key_authorization))
        renewed = running.enter_context(AcmeCertificate(authority, config.acme_domain))
        yield running.enter_context(ReloadingCertificate(renewed.file, warn_fraction=WARN_FRACTION))


def _redirects(
    listening: socket.socket, https_port: int, connections: OpenConnections, known: Challenges = lambda _: None
) -> contextlib.AbstractContextManager[None]:
    http_port = listening.getsockname()[1]
    responder = redirect_to_port(http_port, https_port, challenges_in(WEBROOT, known))
    return answering(listening, responder, connections)
