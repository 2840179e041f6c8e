"""HTTPS as the options want it: which certificate is served, and what runs beside it."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from qwen_asr.config import Config
from qwen_asr.errors import BadConfig
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.plain_port import Challenge, answering, challenges_in
from qwen_asr.web.redirect import other_port

log = logging.getLogger(__name__)

CERTIFICATES = Path("certs")
WEBROOT = CERTIFICATES / "webroot"
"""Where `certbot --webroot` leaves its challenges for the redirect port to show."""
ACME = CERTIFICATES / "acme"


# At least two labels, the last one with a letter in it: no address, no wildcard (HTTP-01 proves none), nothing local.
_PUBLIC_NAME = re.compile(
    r"(?=.{4,253}$)(?:(?!-)[A-Za-z0-9-]{1,63}(?<!-)\.)+(?!-)(?=.*[A-Za-z])[A-Za-z0-9-]{2,63}(?<!-)"
)


def check_https(config: Config) -> None:
    """What can be told before a port is taken. Raises BadConfig for options that do not go together, StartupError."""
    _check_options(config)
    if config.ssl_certfile:
        _own(config)
    if config.acme_domain:
        from qwen_asr.tls.acme_client import check_installed

        check_installed()


def _check_options(config: Config) -> None:
    ways = {
        "--generate-self-signed-cert": config.generate_self_signed_cert,
        "--ssl-certfile": config.ssl_certfile,
        "--acme-domain": config.acme_domain,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise BadConfig(f"{' and '.join(given)} were given, but one certificate is served: leave out all but one.")
    if config.ssl_keyfile and not config.ssl_certfile:
        raise BadConfig("--ssl-keyfile was given without --ssl-certfile: give the certificate of that key too.")
    for name in config.acme_domain:
        if not _PUBLIC_NAME.fullmatch(name):
            raise BadConfig(
                f"--acme-domain was given {name!r}, but expects a public name such as asr.example.com, without "
                "wildcards, and no address."
            )
    if config.acme_domain and config.http_redirect_port is None:
        raise BadConfig(
            "--acme-domain was given without --http-redirect-port: give that too, usually 80, since the authority asks "
            "over plain HTTP whether the name leads here."
        )
    if config.http_redirect_port is not None and not config.tls:
        raise BadConfig(
            "--http-redirect-port was given, but there is no HTTPS to send people to: give a certificate too, by "
            "--generate-self-signed-cert, --ssl-certfile or --acme-domain."
        )
    if config.http_redirect_port and config.http_redirect_port == config.port:
        raise BadConfig(
            f"--http-redirect-port and --port are both {config.port}: give two ports. Plain HTTP on the HTTPS port is "
            "sent to HTTPS anyway."
        )


@contextlib.contextmanager
def opened_https(
    config: Config, https_port: int, plain: socket.socket | None
) -> Iterator[ReloadingCertificate | None]:
    """The certificate, watched and where need be renewed while the context lasts; None without HTTPS.

    `plain` is the socket of `--http-redirect-port`. Gets the first certificate of an ACME authority before it returns.
    Raises CertificateError.
    """
    if not config.tls:
        yield None
        return
    with contextlib.ExitStack() as running:
        if not config.acme_domain:
            if plain is not None:
                running.enter_context(_redirecting(plain, https_port))
            yield running.enter_context(_own(config) if config.ssl_certfile else _self_signed())
            return
        from qwen_asr.tls.acme_client import Authority
        from qwen_asr.tls.acme_renewal import WARNED_AT, AcmeCertificate

        authority = Authority(config.acme_directory, config.acme_email, ACME)
        if plain is not None:  # which Config sees to
            running.enter_context(_redirecting(plain, https_port, authority.challenge))
        renewed = running.enter_context(AcmeCertificate(authority, config.acme_domain))
        yield running.enter_context(ReloadingCertificate(renewed.file, warned_at=WARNED_AT))


def _redirecting(
    plain: socket.socket, https_port: int, known: Challenge = lambda _: None
) -> contextlib.AbstractContextManager[None]:
    return answering(plain, other_port(plain.getsockname()[1], https_port, challenges_in(WEBROOT, known)))


def _own(config: Config) -> ReloadingCertificate:
    keyfile = Path(config.ssl_keyfile) if config.ssl_keyfile else None
    return ReloadingCertificate(Path(config.ssl_certfile or ""), keyfile, config.ssl_keyfile_password)


def _self_signed() -> ReloadingCertificate:
    from qwen_asr.tls.self_signed import ensure_self_signed

    files = ensure_self_signed(CERTIFICATES)
    log.info("Certificate %s, SHA-256 fingerprint %s", files.certfile, files.fingerprint)
    return ReloadingCertificate(files.certfile, files.keyfile)
