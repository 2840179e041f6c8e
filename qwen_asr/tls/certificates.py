"""The certificate that the options ask for: made or checked, and loaded, before the server takes a port."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qwen_asr.config.config import Config
from qwen_asr.tls.managed_files import CertificateFiles, fingerprint
from qwen_asr.tls.preflight import CheckedPair, check_pair, load_context

log = logging.getLogger(__name__)

FOLDER = Path("certs")
"""Where the program keeps what it makes, seen from where it was started."""


@dataclass(frozen=True)
class ServerCertificate:
    """What is served with. `root` is the private authority's certificate, of `--local-ca`; `own` whether made here."""

    checked: CheckedPair
    context: ssl.SSLContext
    own: bool
    root: CertificateFiles | None = None


def choose_certificate(config: Config, folder: Path = FOLDER, now: datetime | None = None) -> ServerCertificate | None:
    """The certificate that `config` asks for, ready to be served; None without HTTPS. Warns in the log.

    Raises CertificateError.
    """
    now = datetime.now(UTC) if now is None else now
    root = None
    if config.ssl_certfile is not None:
        keyfile = Path(config.ssl_keyfile) if config.ssl_keyfile else None
        checked = check_pair(Path(config.ssl_certfile), keyfile, config.ssl_keyfile_password, now)
        for warning in checked.warnings:
            log.warning("%s", warning)
    elif config.local_ca:
        from qwen_asr.tls.local_ca import ensure_local_ca

        local = ensure_local_ca(folder, now=now)
        root = local.root
        if local.left_out:
            log.warning(
                "%s may not vouch for %s, which this machine is called too: move it away to have one made that may.",
                root.certfile,
                ", ".join(local.left_out),
            )
        checked = check_pair(local.files.certfile, local.files.keyfile, None, now)
        log.info("Authority %s, SHA-256 fingerprint %s", root.certfile, root.fingerprint)
    elif config.generate_self_signed_cert:
        from qwen_asr.tls.self_signed import ensure_self_signed

        files = ensure_self_signed(folder, now=now)
        checked = check_pair(files.certfile, files.keyfile, None, now)
    else:
        return None
    log.info("Certificate %s, SHA-256 fingerprint %s", checked.certfile, fingerprint(checked.leaf))
    return ServerCertificate(checked, load_context(checked), own=config.ssl_certfile is None, root=root)
