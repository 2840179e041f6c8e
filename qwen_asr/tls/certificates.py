"""The ways to get the server's certificate: files of the user, a local CA, or a self-signed certificate."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qwen_asr.tls.addresses import own_names
from qwen_asr.tls.context import load_context
from qwen_asr.tls.managed_files import CertificateFiles, fingerprint
from qwen_asr.tls.preflight import CheckedPair, check_pair

log = logging.getLogger(__name__)

FOLDER = Path("certs")
"""Where the program keeps the certificates it creates, relative to the working directory."""


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate that is checked and loaded.

    `own` is true if the program created it. `root` is the certificate of the local CA that signed it, if any.
    """

    checked: CheckedPair
    context: ssl.SSLContext
    own: bool
    root: CertificateFiles | None = None


def load_user_certificate(
    certfile: Path, keyfile: Path | None = None, password: str | None = None, now: datetime | None = None
) -> ServerCertificate:
    """The certificate in the user's own files, which are only read. Logs what browsers may object to.

    Without `keyfile` the key is expected in `certfile`. Raises CertificateError.
    """
    checked = check_pair(certfile, keyfile, password, now or datetime.now(UTC))
    for warning in checked.warnings:
        log.warning("%s", warning)
    return _loaded(checked, own=False)


def load_local_ca_certificate(
    folder: Path = FOLDER, now: datetime | None = None, allowed_hosts: Iterable[str] = ()
) -> ServerCertificate:
    """A certificate signed by the local CA in `folder`; both are created if necessary.

    It is for the names of this machine and `allowed_hosts`. Raises CertificateError.
    """
    from qwen_asr.tls.local_ca import ensure_local_ca

    now = now or datetime.now(UTC)
    local = ensure_local_ca(folder, names=own_names(allowed_hosts), now=now)
    if local.excluded:
        log.warning(
            "%s must not sign for %s, which this machine is also called: move it away to create a CA that may.",
            local.root.certfile,
            ", ".join(local.excluded),
        )
    if local.note:
        log.info("%s", local.note)
    checked = check_pair(local.files.certfile, local.files.keyfile, None, now)
    log.info("Local CA %s, SHA-256 fingerprint %s", local.root.certfile, local.root.fingerprint)
    return _loaded(checked, own=True, root=local.root)


def load_self_signed_certificate(
    folder: Path = FOLDER, now: datetime | None = None, allowed_hosts: Iterable[str] = ()
) -> ServerCertificate:
    """The self-signed certificate in `folder`, created if necessary.

    It is for the names of this machine and `allowed_hosts`. Raises CertificateError.
    """
    from qwen_asr.tls.self_signed import ensure_self_signed

    now = now or datetime.now(UTC)
    files = ensure_self_signed(folder, names=own_names(allowed_hosts), now=now)
    return _loaded(check_pair(files.certfile, files.keyfile, None, now), own=True)


def _loaded(checked: CheckedPair, *, own: bool, root: CertificateFiles | None = None) -> ServerCertificate:
    log.info("Certificate %s, SHA-256 fingerprint %s", checked.certfile, fingerprint(checked.leaf))
    return ServerCertificate(checked, load_context(checked), own=own, root=root)
