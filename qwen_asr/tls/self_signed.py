"""A certificate that the server signs itself: HTTPS in one flag, at the price of a warning in the browser.

The two files carry a mark of who made them. Files with it are used again while they fit, and replaced once they do
not; files without it belong to somebody else and are never touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, own_names

CERTIFICATE_NAME = "qwen_asr_cert.pem"
KEY_NAME = "qwen_asr_key.pem"
LIFETIME = timedelta(days=365)
RENEWED_BEFORE_END = timedelta(days=30)
CLOCK_TOLERANCE = timedelta(hours=1)
"""How far the clock of a phone may lag behind ours and still find the certificate valid."""

MARK = "qwen-asr self-signed certificate"
"""The organisation in the certificate's subject, and the first line of the key file (PEM allows text in front)."""
_KEY_MARK = f"# {MARK}: the key. Made by the program, and replaced by it.\n".encode()


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate and its key, as PEM files.

    `fingerprint` (SHA-256, hexadecimal in pairs) is what a browser shows beside its warning, to compare. `made`
    tells whether the files are new, so that browsers will ask again.
    """

    certfile: Path
    keyfile: Path
    fingerprint: str
    made: bool


def ensure_self_signed(folder: Path, *, names: Names | None = None, now: datetime | None = None) -> CertificateFiles:
    """The certificate and key in `folder`: those that are there while they fit, else new ones.

    They fit while certificate and key belong together, the key is readable by its owner only, the certificate is
    valid for another 30 days, and it is for all of `names` (by default those of this machine now). Raises
    `CertificateError` where a file with that name was not made here, or cannot be read or written.
    """
    certfile, keyfile = folder / CERTIFICATE_NAME, folder / KEY_NAME
    names = own_names() if names is None else names
    now = datetime.now(UTC) if now is None else now
    certificate, key = _own_certificate(certfile), _own_key(keyfile)
    fits = certificate and key and _belong_together(certificate, key) and _is_private(keyfile)
    if certificate and fits and _is_current(certificate, now) and _covers(certificate, names):
        return CertificateFiles(certfile, keyfile, _fingerprint(certificate), made=False)
    key = new_key()
    certificate = self_sign(key, names, now)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The key first: should we be stopped in between, what is left is two marked files, to be made anew.
        _write(keyfile, _KEY_MARK + _key_pem(key), mode=0o600)
        _write(certfile, certificate.public_bytes(Encoding.PEM), mode=0o644)
    except FileExistsError:  # a link into nowhere
        raise _no_folder(folder) from None
    except OSError as error:
        raise CertificateError(
            f"The certificate cannot be written to {folder}: {error.strerror}. Start the server from a folder that "
            "you may write to, or make that one writable."
        ) from error
    return CertificateFiles(certfile, keyfile, _fingerprint(certificate), made=True)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on P-256: made in no time, small in the handshake, and accepted by every browser.

    RSA would be ten times the bytes for less strength; Ed25519 is not accepted by browsers.
    """
    return ec.generate_private_key(ec.SECP256R1())


def self_sign(key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> x509.Certificate:
    """A certificate of `key` for `names`, valid 365 days, that can serve TLS and sign nothing else (RFC 5280)."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, MARK),
            x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
        ]
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names.dns]
    alternatives += [x509.IPAddress(address) for address in names.ips]
    begins = now - CLOCK_TOLERANCE
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNATURES_ONLY, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        # Strict verifiers (Python 3.13's default) want to find the signer's key named, be it the same.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


# An elliptic-curve key only ever signs the handshake; key encipherment is RSA's.
_SIGNATURES_ONLY = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _own_certificate(path: Path) -> x509.Certificate | None:
    """The certificate that was made here; None where there is no file. Raises CertificateError for any other file."""
    content = _read(path)
    if content is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(content)
        organisations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except (ValueError, TypeError):
        raise _unknown(path, content, "certificate") from None
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise _foreign(path) from None
    if [organisation.value for organisation in organisations] != [MARK]:
        raise _foreign(path)
    return certificate


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key that was made here; None where there is none, or one that was damaged since."""
    content = _read(path)
    if content is None:
        return None
    if not content.startswith(_KEY_MARK):
        raise _foreign(path) if b"-----BEGIN " in content else _unknown(path, content, "key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # A link into nowhere is somebody's too: replacing it would break what it is going to point to.
        if path.is_symlink():
            raise _foreign(path) from None
        return None
    except NotADirectoryError:
        raise _no_folder(path.parent) from None
    except IsADirectoryError:
        raise CertificateError(
            f"{path} is a folder, but the program keeps a file of that name: move it away to have one made."
        ) from None
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or move it away to have a new one made."
        ) from error


def _foreign(path: Path) -> CertificateError:
    return CertificateError(
        f"{path} was not made by --generate-self-signed-cert and is left untouched: move it away to have one made."
    )


def _unknown(path: Path, content: bytes, kind: str) -> CertificateError:
    # Whose it was cannot be told any more, and a key may be the only one of its kind.
    found = f"no {kind} that can be read" if content else "empty"
    return CertificateError(f"{path} is {found}, and is left untouched: delete it or move it away to have one made.")


def _no_folder(path: Path) -> CertificateError:
    return CertificateError(
        f"{path} is no folder, but the certificate is kept in a folder of that name: move it away or rename it."
    )


def _belong_together(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def _is_private(keyfile: Path) -> bool:
    """Whether nobody but the owner may read the key. Where the system has no such modes, it always is."""
    return os.name != "posix" or keyfile.stat().st_mode & 0o077 == 0


def _is_current(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEWED_BEFORE_END


def _covers(certificate: x509.Certificate, names: Names) -> bool:
    try:
        covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    ips: set[object] = set(covered.get_values_for_type(x509.IPAddress))
    return set(names.dns) <= set(covered.get_values_for_type(x509.DNSName)) and set(names.ips) <= ips


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Puts `content` in the place of `path` at once, in a file that has at most `mode` from its birth.

    It is created under another name with that mode, and only there: a umask can take from it, never add.
    """
    with _fresh_file(path, mode) as (temporary, descriptor):
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if os.name == "posix":
                os.fchmod(file.fileno(), mode)  # a umask of 0777 would leave a file that we cannot read again
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def _fresh_file(path: Path, mode: int) -> Iterator[tuple[Path, int]]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        yield temporary, descriptor
    finally:
        temporary.unlink(missing_ok=True)  # gone already where it took its place
