"""HTTPS as the options want it: which certificate is served, and what runs beside it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from qwen_asr.config import Config
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.plain_port import Challenge, answering, challenges_in
from qwen_asr.web.redirect import other_port

log = logging.getLogger(__name__)

CERTIFICATES = Path("certs")
WEBROOT = CERTIFICATES / "webroot"
"""Where `certbot --webroot` leaves its challenges for the redirect port to show."""
ACME = CERTIFICATES / "acme"


def check_https(config: Config) -> None:
    """What can be told before a port is taken. Raises StartupError."""
    if config.ssl_certfile:
        _own(config)
    if config.acme_domain:
        from qwen_asr.tls.acme_client import check_installed

        check_installed()


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
