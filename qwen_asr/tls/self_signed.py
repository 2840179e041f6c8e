"""Self-signed certificates for `--generate-self-signed-cert`: HTTPS with one option, but browsers warn."""

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
    check_folder,
    fingerprint,
    includes_names,
    is_for_key,
    is_private,
    key_pem,
    load_own_certificate,
    load_own_key,
    new_key,
    not_ours,
    write_files,
)

CERTIFICATE_NAME = "qwen_asr_cert.pem"
KEY_NAME = "qwen_asr_key.pem"
LIFETIME = timedelta(days=365)
RENEW_FRACTION = 1 / 3
"""The certificate is replaced when this part of its lifetime is left."""
CLOCK_TOLERANCE = timedelta(hours=1)
"""Validity begins this much earlier, because the clock of a phone may be behind the clock of this machine."""
MARK = OwnerMark("qwen-asr self-signed certificate", "--generate-self-signed-cert")


def ensure_self_signed(
    folder: Path, *, names: Names | None = None, now: datetime | None = None, renew: bool = False
) -> CertificateFiles:
    """The certificate and key in `folder`, reused while they are suitable, otherwise created.

    They are suitable while they belong together, only the owner can read the key, more than a third of the lifetime is
    left, and the certificate contains all of `names` (default: the names of this machine now). With `renew` they never
    are. Raises CertificateError if a file does not carry the program's mark, cannot be read or written, or can be
    changed by another user.
    """
    check_folder(folder)
    certfile, keyfile = folder / CERTIFICATE_NAME, folder / KEY_NAME
    names = own_names() if names is None else names
    now = datetime.now(UTC) if now is None else now
    certificate, key = _load_certificate(certfile), load_own_key(keyfile, MARK)
    usable = certificate and key and is_for_key(certificate, key) and is_private(keyfile) and not renew
    if certificate and usable and is_current(certificate, now) and includes_names(certificate, names):
        return CertificateFiles(certfile, keyfile, fingerprint(certificate), newly_created=False)
    key = new_key()
    certificate = self_sign(key, names, now)
    # The key first: if the program is stopped in between, both files carry the mark and are replaced next time.
    pem = certificate.public_bytes(Encoding.PEM)
    write_files(folder, {KEY_NAME: (key_pem(key, MARK), 0o600), CERTIFICATE_NAME: (pem, 0o644)})
    return CertificateFiles(certfile, keyfile, fingerprint(certificate), newly_created=True)


def _load_certificate(path: Path) -> x509.Certificate | None:
    certificate = load_own_certificate(path, MARK)
    if certificate is not None:
        try:
            certificate.verify_directly_issued_by(certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise not_ours(path, MARK) from None
    return certificate


def self_sign(key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> x509.Certificate:
    """A self-signed server certificate for `names`, valid for 365 days; it cannot sign others (RFC 5280)."""
    begins = now - CLOCK_TOLERANCE
    subject = marked_subject(MARK)
    return sign_leaf(key.public_key(), names, subject, key, subject, begins, begins + LIFETIME)


def marked_subject(mark: OwnerMark, common_name: str = "localhost") -> x509.Name:
    """The subject of a certificate that carries the mark."""
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
    """A server certificate for the key `public` and `names`, signed by `signer`; it cannot sign other certificates."""
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
        # An EC key only signs the handshake; key encipherment is for RSA.
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        # Strict verifiers (the default of Python 3.13) require the key identifier of the issuer, even if self-signed.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())


def key_usage(**allowed: bool) -> x509.KeyUsage:
    """The extension that allows the given uses and no others."""
    none_allowed = {
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
    return x509.KeyUsage(**none_allowed | allowed)


def is_current(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether the certificate is valid and more than a third of its lifetime is left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins <= now < ends - (ends - begins) * RENEW_FRACTION
