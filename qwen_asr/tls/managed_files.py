"""The certificate files that the program creates: recognized by a mark, written atomically.

A certificate carries the mark in its subject, a key in front of its PEM text (where PEM allows comments). Files with
the mark are reused while they are suitable and replaced otherwise. Files without it belong to the user and are never
changed.

The mark is no proof: any user can write it. So the files, and the folder that they are in, must belong to this user or
to root, and must not be writable by everybody. A new folder can be entered by its owner only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names
from qwen_asr.tls.checks import same_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate and its key, as PEM files.

    `fingerprint` (SHA-256, hexadecimal pairs) can be compared with the one in the browser's warning. `newly_created` is
    true if the files are new, so browsers will warn again.
    """

    certfile: Path
    keyfile: Path
    fingerprint: str
    newly_created: bool


@dataclass(frozen=True)
class OwnerMark:
    """How the program recognizes its files: `text` is the organization in the subject, `option` creates the files."""

    text: str
    option: str

    @property
    def key_line(self) -> bytes:
        """The first line of a key file. Files of earlier versions have it too, so it must not change."""
        return f"# {self.text}: the key. Made by the program, and replaced by it.\n".encode()


# --- who may change the files


def check_folder(folder: Path) -> None:
    """Checks that no other user can replace files in the folder. Does nothing if it does not exist yet.

    If the folder is this user's and its group may write, as a umask of 002 leaves it, that is ended. A group may write
    to a folder of root: Kubernetes gives volumes to a group. Raises CertificateError. See `check_owner`.
    """
    try:
        status = folder.stat()
    except OSError:
        return  # reading or writing a file in it reports why
    check_owner(folder, status)
    if (
        os.name == "posix"
        and status.st_uid == os.geteuid()
        and status.st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP
    ):
        try:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWGRP)
        except OSError as error:
            raise CertificateError(
                f"The group of {folder} may change what is in it ({error.strerror}): run chmod g-w {folder}, or start "
                "the server from another folder."
            ) from error
        log.info("The group of %s may no longer change what is in it: keys are kept there.", folder)


def check_owner(path: Path, status: os.stat_result) -> None:
    """Checks that a file or folder belongs to this user or to root, and that not everybody may write to it.

    Systems without POSIX permissions are not checked. Raises CertificateError.
    """
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise CertificateError(
            f"{path} belongs to {_user_name(status.st_uid)}, but this program runs as {_user_name(os.geteuid())}, and "
            "keys and certificates of another user are not used: start it as that user, change the owner with chown, "
            "or move it away so that a new one is created."
        )
    if status.st_mode & stat.S_IWOTH:
        raise CertificateError(
            f"Every user of this machine may change {path}: check that it holds only what you put there, then run "
            f"chmod o-w {path}. If its disk has no permissions, start the server from a folder on another one."
        )


def _user_name(number: int) -> str:
    import pwd  # POSIX only

    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user with the number {number}"


# --- reading


def load_own_certificate(path: Path, mark: OwnerMark) -> x509.Certificate | None:
    """The first certificate in a file with the mark; None if the file does not exist.

    Raises CertificateError for a file without the mark.
    """
    content = _read(path, mark)
    if content is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(content)
        organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except (ValueError, TypeError):
        raise _unreadable(path, content, "certificate") from None
    if [organization.value for organization in organizations] != [mark.text]:
        raise not_ours(path, mark)
    return certificate


def load_own_key(path: Path, mark: OwnerMark) -> ec.EllipticCurvePrivateKey | None:
    """The key in a file with the mark; None if the file does not exist or is damaged after its first line.

    Raises CertificateError for a file without the mark.
    """
    content = _read(path, mark)
    if content is None:
        return None
    if not content.startswith(mark.key_line):
        raise not_ours(path, mark) if b"-----BEGIN " in content else _unreadable(path, content, "key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def read_own(path: Path) -> bytes:
    """The content of a file. Raises CertificateError for one that another user can change, and OSError."""
    with path.open("rb") as file:
        check_owner(path, os.fstat(file.fileno()))
        return file.read()


def _read(path: Path, mark: OwnerMark) -> bytes | None:
    try:
        return read_own(path)
    except FileNotFoundError:
        # A dangling link belongs to the user too: replacing it would break what it is meant to point to.
        if path.is_symlink():
            raise not_ours(path, mark) from None
        return None
    except NotADirectoryError:
        raise _not_a_folder(path.parent) from None
    except IsADirectoryError:
        raise CertificateError(
            f"{path} is a folder, but the program keeps a file of that name: move it away so that the file can be "
            "created."
        ) from None
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or move it away so that a new one is created."
        ) from error


# --- errors


def not_ours(path: Path, mark: OwnerMark) -> CertificateError:
    """The error for a file without the mark."""
    return CertificateError(
        f"{path} was not made by {mark.option} and is left untouched: move it away so that a new one is created."
    )


def _unreadable(path: Path, content: bytes, kind: str) -> CertificateError:
    # Without the mark, the owner is unknown, and a key may be the only copy.
    problem = f"not a readable {kind}" if content else "empty"
    return CertificateError(
        f"{path} is {problem}, and is left untouched: delete it or move it away so that a new one is created."
    )


def _not_a_folder(path: Path) -> CertificateError:
    return CertificateError(
        f"{path} is not a folder, but the certificate is kept in a folder of that name: move it away or rename it."
    )


# --- keys and certificates


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key on P-256: quick to generate, small in the handshake, and accepted by every browser.

    An RSA key of the same strength is ten times as large; Ed25519 is not accepted by browsers.
    """
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, mark: OwnerMark) -> bytes:
    """The content of the key file."""
    return mark.key_line + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def is_for_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate belongs to the key."""
    return same_key(certificate.public_key(), key.public_key())


def is_private(keyfile: Path) -> bool:
    """Whether only the owner may read the key. Always true on systems without POSIX modes."""
    return os.name != "posix" or keyfile.stat().st_mode & 0o077 == 0


def includes_names(certificate: x509.Certificate, names: Names) -> bool:
    """Whether the certificate contains all of `names`."""
    try:
        included = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    ips: set[object] = set(included.get_values_for_type(x509.IPAddress))
    return set(names.dns) <= set(included.get_values_for_type(x509.DNSName)) and set(names.ips) <= ips


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as hexadecimal pairs separated by colons."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


# --- writing


def write_files(folder: Path, files: dict[str, tuple[bytes, int]]) -> None:
    """Writes name → (content, mode) into `folder` in this order, each file atomically; creates the folder.

    Raises CertificateError if that fails.
    """
    try:
        make_folder(folder)
        for name, (content, mode) in files.items():
            atomic_write(folder / name, content, mode=mode)
    except FileExistsError:  # a dangling link
        raise _not_a_folder(folder) from None
    except OSError as error:
        raise CertificateError(
            f"The certificate cannot be written to {folder}: {error.strerror}. Start the server from a folder that "
            "you may write to, or make that one writable."
        ) from error


def make_folder(folder: Path) -> None:
    """Creates the folder and those above it that are missing, for this user alone whatever the umask.

    Raises OSError, and what `check_folder` raises for a folder that exists.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)  # a umask may have taken even the owner's permissions
    check_folder(folder)


def atomic_write(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces `path` with a new file that never has more permissions than `mode`. Raises OSError.

    The content goes to a temporary file in the same folder, which is created with that mode; a umask can only remove
    permissions. The temporary file is then renamed.
    """
    with _temporary_file(path, mode) as (temporary, descriptor):
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if os.name == "posix":
                os.fchmod(file.fileno(), mode)  # under a umask of 0777 the file could not be read again
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def _temporary_file(path: Path, mode: int) -> Iterator[tuple[Path, int]]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        yield temporary, descriptor
    finally:
        temporary.unlink(missing_ok=True)  # after the rename it no longer exists
