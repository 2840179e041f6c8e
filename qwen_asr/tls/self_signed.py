"""A certificate that the server signs itself: HTTPS in one flag, at the price of a warning in the browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qwen_asr.tls.addresses import Names, own_names
from qwen_asr.tls.managed_files import (
    CertificateFiles,
    OwnerMark,
    belong_together,
    covers,
    fingerprint,
    is_private,
    key_pem,
    new_key,
    not_ours,
    own_certificate,
    own_key,
)
from qwen_asr.tls.writing import write_files

CERTIFICATE_NAME = "qwen_asr_cert.pem"
KEY_NAME = "qwen_asr_key.pem"
LIFETIME = timedelta(days=365)
RENEWED_AT = 1 / 3
"""The part of its lifetime that is left when a certificate is made anew: that of a foreign one is warned of then."""
CLOCK_TOLERANCE = timedelta(hours=1)
"""How far the clock of a phone may lag behind ours and still find the certificate valid."""
MARK = OwnerMark("qwen-asr self-signed certificate", "--generate-self-signed-cert")


def ensure_self_signed(
    folder: Path, *, names: Names | None = None, now: datetime | None = None, renew: bool = False
) -> CertificateFiles:
    """The certificate and key in `folder`: those that are there while they fit, else new ones.

    They fit while certificate and key belong together, the key is readable by its owner only, a third of the
    certificate's lifetime is left, and it is for all of `names` (by default those of this machine now). With `renew`
    nothing fits. Raises `CertificateError` where a file with that name was not made here, or cannot be read or written.
    """
    certfile, keyfile = folder / CERTIFICATE_NAME, folder / KEY_NAME
    names = own_names() if names is None else names
    now = datetime.now(UTC) if now is None else now
    certificate, key = _own_certificate(certfile), own_key(keyfile, MARK)
    fits = certificate and key and belong_together(certificate, key) and is_private(keyfile) and not renew
    if certificate and fits and is_current(certificate, now) and covers(certificate, names):
        return CertificateFiles(certfile, keyfile, fingerprint(certificate), made=False)
    key = new_key()
    certificate = self_sign(key, names, now)
    # The key first: should we be stopped in between, what is left is two marked files, to be made anew.
    pem = certificate.public_bytes(Encoding.PEM)
    write_files(folder, {KEY_NAME: (key_pem(key, MARK), 0o600), CERTIFICATE_NAME: (pem, 0o644)})
    return CertificateFiles(certfile, keyfile, fingerprint(certificate), made=True)


def _own_certificate(path: Path) -> x509.Certificate | None:
    certificate = own_certificate(path, MARK)
    if certificate is not None:
        try:
            certificate.verify_directly_issued_by(certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise not_ours(path, MARK) from None
    return certificate


def self_sign(key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> x509.Certificate:
    """A certificate of `key` for `names`, valid 365 days, that can serve TLS and sign nothing else (RFC 5280)."""
    begins = now - CLOCK_TOLERANCE
    subject = subject_of(MARK)
    return sign_leaf(key.public_key(), names, subject, key, subject, begins, begins + LIFETIME)


def subject_of(mark: OwnerMark, common_name: str = "localhost") -> x509.Name:
    """The subject of a certificate with the mark."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, mark.text),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def sign_leaf(
    public: ec.EllipticCurvePublicKey,
    names: Names,
    subject: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    begins: datetime,
    ends: datetime,
) -> x509.Certificate:
    """A certificate of the key `public` for `names`, signed by `signer`, that can serve TLS and sign nothing else."""
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names.dns]
    alternatives += [x509.IPAddress(address) for address in names.ips]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # An elliptic-curve key only ever signs the handshake; key encipherment is RSA's.
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        # Strict verifiers (Python 3.13's default) want to find the signer's key named, be it the same.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())


def key_usage(**allowed: bool) -> x509.KeyUsage:
    """What a key may do: what is named, nothing else."""
    nothing = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    return x509.KeyUsage(**nothing | allowed)


def is_current(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether the certificate is valid and more than a third of its lifetime is left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins <= now < ends - (ends - begins) * RENEWED_AT
