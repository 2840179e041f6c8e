"""The files that the program makes for itself: how it knows them again, and that it never touches anybody else's.

Each carries a mark: a certificate in its subject, a key in front of its PEM text (where PEM allows a line). Files with
the mark are used again while they fit, and replaced once they do not; files without it belong to somebody else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names
from qwen_asr.tls.writing import no_folder


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


@dataclass(frozen=True)
class OwnerMark:
    """By what the program knows its files: `text` is the organisation in the subject, `option` what makes them."""

    text: str
    option: str

    @property
    def key_line(self) -> bytes:
        """The first line of a key's file."""
        return f"# {self.text}: the key. Made by the program, and replaced by it.\n".encode()


def own_certificate(path: Path, mark: OwnerMark) -> x509.Certificate | None:
    """The certificate at the head of a file with the mark; None where there is no file.

    Raises CertificateError for any other file.
    """
    content = _read(path, mark)
    if content is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(content)
        organisations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except (ValueError, TypeError):
        raise _unknown(path, content, "certificate") from None
    if [organisation.value for organisation in organisations] != [mark.text]:
        raise not_ours(path, mark)
    return certificate


def own_key(path: Path, mark: OwnerMark) -> ec.EllipticCurvePrivateKey | None:
    """The key of a file with the mark; None where there is none, or one that was damaged since."""
    content = _read(path, mark)
    if content is None:
        return None
    if not content.startswith(mark.key_line):
        raise not_ours(path, mark) if b"-----BEGIN " in content else _unknown(path, content, "key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _read(path: Path, mark: OwnerMark) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # A link into nowhere is somebody's too: replacing it would break what it is going to point to.
        if path.is_symlink():
            raise not_ours(path, mark) from None
        return None
    except NotADirectoryError:
        raise no_folder(path.parent) from None
    except IsADirectoryError:
        raise CertificateError(
            f"{path} is a folder, but the program keeps a file of that name: move it away to have one made."
        ) from None
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or move it away to have a new one made."
        ) from error


def not_ours(path: Path, mark: OwnerMark) -> CertificateError:
    """What to say of somebody else's file."""
    return CertificateError(
        f"{path} was not made by {mark.option} and is left untouched: move it away to have one made."
    )


def _unknown(path: Path, content: bytes, kind: str) -> CertificateError:
    # Whose it was cannot be told any more, and a key may be the only one of its kind.
    found = f"no {kind} that can be read" if content else "empty"
    return CertificateError(f"{path} is {found}, and is left untouched: delete it or move it away to have one made.")


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on P-256: made in no time, small in the handshake, and accepted by every browser.

    RSA would be ten times the bytes for less strength; Ed25519 is not accepted by browsers.
    """
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, mark: OwnerMark) -> bytes:
    """What the key's file holds."""
    return mark.key_line + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def belong_together(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate is for that key."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def is_private(keyfile: Path) -> bool:
    """Whether nobody but the owner may read the key. Where the system has no such modes, it always is."""
    return os.name != "posix" or keyfile.stat().st_mode & 0o077 == 0


def covers(certificate: x509.Certificate, names: Names) -> bool:
    """Whether the certificate is for all of `names`."""
    try:
        covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    ips: set[object] = set(covered.get_values_for_type(x509.IPAddress))
    return set(names.dns) <= set(covered.get_values_for_type(x509.DNSName)) and set(names.ips) <= ips


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, hexadecimal in pairs."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
