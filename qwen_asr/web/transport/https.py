"""HTTPS as the options want it: which certificate is served, and what runs beside it."""

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
from qwen_asr.web.transport.redirect import other_port
from qwen_asr.web.transport.redirect_port import Challenge, answering, challenges_in

WEBROOT = FOLDER / "webroot"
"""Where `certbot --webroot` leaves its challenges for the redirect port to show."""
ACME = FOLDER / "acme"


# At least two labels, the last one with a letter in it: no address, no wildcard (HTTP-01 proves none), nothing local.
_PUBLIC_NAME = re.compile(
    r"(?=.{4,253}$)(?:(?!-)[A-Za-z0-9-]{1,63}(?<!-)\.)+(?!-)(?=.*[A-Za-z])[A-Za-z0-9-]{2,63}(?<!-)"
)


def check_https(config: Config) -> None:
    """What can be told of the options before a port is taken. Raises HttpsConflict, StartupError."""
    _check_options(config)
    if config.acme_domain:
        from qwen_asr.tls.acme_client import check_installed

        check_installed()


def _check_options(config: Config) -> None:
    for name in config.acme_domain:
        if not _PUBLIC_NAME.fullmatch(name):
            raise HttpsConflict(
                f"--acme-domain was given {name!r}, but expects a public name such as asr.example.com, without "
                "wildcards, and no address."
            )
    if config.acme_domain and config.http_redirect_port is None:
        raise HttpsConflict(
            "--acme-domain was given without --http-redirect-port: give that too, usually 80, since the authority asks "
            "over plain HTTP whether the name leads here."
        )
    if config.http_redirect_port is not None and not config.tls:
        raise HttpsConflict(
            "--http-redirect-port was given, but there is no HTTPS to send people to: give a certificate too, by "
            "--generate-self-signed-cert, --local-ca, --ssl-certfile or --acme-domain."
        )
    if config.http_redirect_port and config.http_redirect_port == config.port:
        raise HttpsConflict(
            f"--http-redirect-port and --port are both {config.port}: give two ports. Plain HTTP on the HTTPS port is "
            "sent to HTTPS anyway."
        )


def choose_certificate(config: Config, folder: Path = FOLDER, now: datetime | None = None) -> ServerCertificate | None:
    """The certificate that `config` selects; None without HTTPS and with ACME. Raises CertificateError."""
    if config.ssl_certfile is not None:
        keyfile = Path(config.ssl_keyfile) if config.ssl_keyfile else None
        return load_user_certificate(Path(config.ssl_certfile), keyfile, config.ssl_keyfile_password, now)
    if config.local_ca:
        return load_local_ca_certificate(folder, now)
    if config.generate_self_signed_cert:
        return load_self_signed_certificate(folder, now)
    return None


@contextlib.contextmanager
def opened_https(
    config: Config, chosen: ServerCertificate | None, https_port: int, plain: socket.socket | None
) -> Iterator[ReloadingCertificate | None]:
    """The certificate, watched and where need be renewed while the context lasts; None without HTTPS.

    `chosen` is the one that the options name, None where an ACME authority makes it: then the first one is got before
    this returns. `plain` is the socket of `--http-redirect-port`.
    Raises CertificateError.
    """
    if not config.tls:
        yield None
        return
    with contextlib.ExitStack() as running:
        if chosen is not None:
            if plain is not None:
                running.enter_context(_redirecting(plain, https_port))
            pair = chosen.checked
            yield running.enter_context(ReloadingCertificate(pair.certfile, pair.keyfile, pair.password))
            return
        from qwen_asr.tls.acme_client import Authority
        from qwen_asr.tls.acme_renewal import WARN_FRACTION, AcmeCertificate

        authority = Authority(config.acme_directory, config.acme_email, ACME)
        if plain is not None:  # which Config sees to
            running.enter_context(_redirecting(plain, https_port, authority.key_authorization))
        renewed = running.enter_context(AcmeCertificate(authority, config.acme_domain))
        yield running.enter_context(ReloadingCertificate(renewed.file, warn_fraction=WARN_FRACTION))


def _redirecting(
    plain: socket.socket, https_port: int, known: Challenge = lambda _: None
) -> contextlib.AbstractContextManager[None]:
    return answering(plain, other_port(plain.getsockname()[1], https_port, challenges_in(WEBROOT, known)))
