"""Whether a certificate and its key can serve, found before anything is served with them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from qwen_asr.errors import CertificateError

# Mozilla's "intermediate" profile, version 5.7: forward secrecy and AEAD only. TLS 1.3 has no others.
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


@dataclass(frozen=True)
class CheckedPair:
    """A certificate that fits its key and is valid now."""

    certfile: Path
    keyfile: Path | None
    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key_type: str
    names: tuple[str, ...]
    not_valid_before: datetime
    not_valid_after: datetime
    warnings: tuple[str, ...] = ()
    password: str | None = field(default=None, repr=False)


def check_pair(certfile: Path, keyfile: Path | None, password: str | None, now: datetime) -> CheckedPair:
    """The certificate in `certfile` and its key. Raises CertificateError where they cannot serve at `now`."""
    try:
        leaf, *chain = x509.load_pem_x509_certificates(certfile.read_bytes())
    except OSError as error:
        raise CertificateError(f"{certfile} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise CertificateError(f"{certfile} holds no certificate in PEM form.") from None
    holder = keyfile or certfile
    try:
        secret = password.encode() if password and b"ENCRYPTED" in holder.read_bytes() else None
        key = load_pem_private_key(_from_key(holder.read_bytes()), secret)
    except OSError as error:
        raise CertificateError(f"{holder} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise CertificateError(f"{holder} holds no key that can be read.") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise CertificateError(f"{holder} is not the key of {certfile}: give the key that was made with it.")
    if now > leaf.not_valid_after_utc:
        raise CertificateError(f"{certfile} has expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it.")
    if now < leaf.not_valid_before_utc:
        raise CertificateError(f"{certfile} is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only.")
    kind = "EC" if isinstance(key, ec.EllipticCurvePrivateKey) else "RSA"
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return CheckedPair(certfile, keyfile, leaf, tuple(chain), kind, (), begins, ends, (), password)


def _from_key(content: bytes) -> bytes:
    """What follows the certificates, where one file holds both."""
    begin = content.find(b"PRIVATE KEY-----")
    return content[content.rfind(b"-----BEGIN", 0, begin) :] if begin >= 0 else content


def load_context(checked: CheckedPair) -> ssl.SSLContext:
    """A context that serves the pair: TLS 1.2 and up, AEAD ciphers with forward secrecy, ALPN http/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(checked.certfile, checked.keyfile, lambda: checked.password or "")
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"{checked.certfile} cannot be loaded ({error}).") from None
    return context
