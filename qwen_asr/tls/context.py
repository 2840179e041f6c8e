"""Builds the SSL context that serves a certificate: TLS versions and ciphers."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from qwen_asr.errors import CertificateError
from qwen_asr.tls.preflight import CheckedPair

# Mozilla's "intermediate" profile, version 5.7: forward secrecy and AEAD only, which TLS 1.3 always has.
CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)
_OPENSSL_REASONS = {
    "EE_KEY_TOO_SMALL": "its key is too weak",
    "CA_KEY_TOO_SMALL": "a key in its chain is too weak",
    "CA_MD_TOO_WEAK": "a signature in its chain is too weak",
    "KEY_VALUES_MISMATCH": "certificate and key do not belong together",
}


def load_context(checked: CheckedPair) -> ssl.SSLContext:
    """A server context for the pair: TLS 1.2 and later, AEAD ciphers with forward secrecy, ALPN http/1.1.

    Raises CertificateError if OpenSSL rejects it, for example because a file changed after the check.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # TLS 1.3 sends session tickets right after the handshake. A synchronous WebSocket client reads them in one thread
    # while another writes the request, and CPython's `ssl` sometimes loses that request (1 of 1,800 on two busy cores).
    context.num_tickets = 0
    password = os.fsencode(checked.password or "")
    try:
        with ExitStack() as opened:
            certfile = opened.enter_context(_in_order(checked)) if checked.reordered else checked.certfile
            # A function: without a password, OpenSSL would prompt for one on the terminal.
            context.load_cert_chain(certfile, checked.keyfile or checked.certfile, lambda: password)
    except ssl.SSLError as error:
        reason = _OPENSSL_REASONS.get(error.reason or "", f"OpenSSL error {error.reason or 'without a reason'}")
        raise CertificateError(
            f"{checked.certfile} with its key cannot be loaded ({reason}): get a certificate for an RSA key of 2048 "
            "bits or an EC key on P-256, or save both files again as plain PEM."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(
            f"{checked.certfile} with its key cannot be loaded ({reason}): check both files."
        ) from None
    return context


@contextmanager
def _in_order(checked: CheckedPair) -> Iterator[Path]:
    """A temporary file with the chain in the right order; OpenSSL loads chains only from files."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        for certificate in (checked.leaf, *checked.chain):
            file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        yield Path(file.name)
