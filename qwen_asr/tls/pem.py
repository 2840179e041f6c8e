"""Reads PEM files (RFC 7468) with certificates and keys, and explains what else a file contains.

Python's `ssl` reports "[SSL] PEM lib" for a wrong password, swapped files, DER and garbage alike. The error messages
here tell these apart.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key, load_pem_private_key

from qwen_asr.errors import CertificateError

MAX_FILE_BYTES = 1 << 20
"""More than any certificate chain needs; a larger file is something else and is not read."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
KEYS = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
# Other kinds of PEM blocks that users confuse with certificates and keys: what each is, and what to do.
_OTHER_BLOCKS = {
    "CERTIFICATE REQUEST": "a certificate signing request: give the certificate that the authority issued for it",
    "NEW CERTIFICATE REQUEST": "a certificate signing request: give the certificate that the authority issued for it",
    "PUBLIC KEY": "a public key: give the private key and the certificate that belong to it",
    "RSA PUBLIC KEY": "a public key: give the private key and the certificate that belong to it",
    "OPENSSH PRIVATE KEY": "a key for SSH: give the key that the certificate was issued for",
    "TRUSTED CERTIFICATE": "a certificate with OpenSSL's own trust settings: openssl x509 -in FILE -out NEW "
    "converts it",
    "PKCS7": "a PKCS#7 file: openssl pkcs7 -print_certs -in FILE -out NEW extracts its certificates",
    "X509 CRL": "a list of revoked certificates: give the certificate and its key",
    "DH PARAMETERS": "parameters only: give the certificate and its key",
    "EC PARAMETERS": "parameters only: give the certificate and its key",
}
_PKCS7_DATA = bytes.fromhex("06092a864886f70d010701")
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # how a key in PKCS#8 is encrypted
_PKCS7_SIGNED = bytes.fromhex("06092a864886f70d010702")
# What cryptography raises for malformed data, either when it loads a file or when a field is accessed later.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class PemFile:
    """The blocks of a file in order, as (label, text with BEGIN and END lines); at least one."""

    path: Path
    blocks: tuple[tuple[str, bytes], ...]

    @property
    def certificate_blocks(self) -> tuple[bytes, ...]:
        """The text of each certificate."""
        return tuple(text for label, text in self.blocks if label in CERTIFICATES)

    @property
    def key_block(self) -> bytes | None:
        """The text of the first private key, which is the one that OpenSSL uses."""
        return next((text for label, text in self.blocks if label in KEYS), None)

    @property
    def is_encrypted(self) -> bool:
        """Whether the key needs a password: PKCS#8 has it in the label, the traditional format in a header."""
        block = self.key_block or b""
        return block.startswith(b"-----BEGIN ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block

    def description(self) -> str:
        """What the file contains instead of a certificate or key, and what to do: "a public key: give …"."""
        for label, _ in self.blocks:
            if label in _OTHER_BLOCKS:
                return _OTHER_BLOCKS[label].replace("FILE", str(self.path)).replace("NEW", "new.pem")
        return f"a PEM block named {self.blocks[0][0]}: give the certificate and its key"


def read_pem(path: Path) -> PemFile:
    """The PEM blocks of the file. Raises CertificateError if it cannot be read or contains none."""
    content = read_file(path)
    blocks = tuple((match[1].decode(), match[0]) for match in _BLOCK.finditer(content))
    if blocks:
        return PemFile(path, blocks)
    raise CertificateError(f"{path} {_problem_without_pem(path, content)}.")


def read_file(path: Path) -> bytes:
    """The content of a file. Raises CertificateError if it cannot be read."""
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise CertificateError(f"{path} is a folder: give the file in it.")
        if not stat.S_ISREG(state.st_mode):  # a pipe can be read only once, and might block
            raise CertificateError(f"{path} is not a regular file: give one, because it is read again after a renewal.")
        if state.st_size > MAX_FILE_BYTES:
            raise CertificateError(
                f"{path} has {state.st_size} bytes, far more than a certificate or a key: check the path."
            )
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        if path.is_symlink():
            raise CertificateError(
                f"{path} is a link to {path.readlink()}, which does not exist: fix the link, or give another file."
            ) from None
        raise CertificateError(f"{path} does not exist: check the path, which is relative to {Path.cwd()}.") from None
    except PermissionError:
        raise CertificateError(
            f"{path} cannot be read by this user: give the user who runs the server access to the file and the folders "
            "above it (certbot's files belong to root), for example through a group."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(f"{path} cannot be read ({reason}): give another file.") from None


def _problem_without_pem(path: Path, content: bytes) -> str:
    """The problem with a file without PEM blocks, as the rest of a sentence that begins with its name."""
    if not content.strip():
        return "is empty: give the file that the certificate or key was written to"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is text in UTF-16: save it as plain text (UTF-8 or ASCII)"
    if _BEGIN.search(content):
        return "is damaged: a PEM block in it has no end; copy the whole file again"
    if content[:1] == b"\x30":
        return _problem_with_der(path, content)
    return "is neither a certificate nor a key in PEM format: a PEM file is text with a line -----BEGIN … in it"


def _problem_with_der(path: Path, content: bytes) -> str:
    head = content[:64]
    if _PKCS7_SIGNED in head:
        convert = f"openssl pkcs7 -inform der -print_certs -in {path} -out new.pem"
        return f"is a PKCS#7 file: {convert} extracts its certificates"
    if b"\x02\x01\x03" in head[:12] and _PKCS7_DATA in head:
        return f"is a PKCS#12 file: openssl pkcs12 -in {path} -out new.pem converts it to PEM"
    convert = f"{{}} -inform der -in {path} -out new.pem converts it to PEM"
    if _can_load(x509.load_der_x509_certificate, content):
        return "is a certificate in DER format: " + convert.format("openssl x509")
    if _can_load(x509.load_der_x509_csr, content):
        return "is a certificate signing request: give the certificate that the authority issued for it"
    if _can_load(load_der_public_key, content):
        return "is a public key: give the private key and the certificate that belong to it"
    if _can_load(lambda data: load_der_private_key(data, None), content) or _PBES2 in head:
        return "is a key in DER format: " + convert.format("openssl pkey")
    return "is neither a certificate nor a key in PEM format: a PEM file is text with a line -----BEGIN … in it"


def _can_load(load: Callable[[bytes], object], content: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(content)
    except UNREADABLE:
        return False
    return True


def certificates_in(file: PemFile) -> tuple[x509.Certificate, ...]:
    """All certificates of the file, in order. Raises CertificateError if one is damaged."""
    found = []
    for number, block in enumerate(file.certificate_blocks, 1):
        try:
            with warnings.catch_warnings():  # `checks` reports unusual certificates with better messages
                warnings.simplefilter("ignore")
                found.append(x509.load_pem_x509_certificate(block))
        except UNREADABLE:
            count = len(file.certificate_blocks)
            which = f"certificate {number} of {count}" if count > 1 else "its certificate"
            raise CertificateError(
                f"{file.path} is damaged: {which} cannot be read; copy the whole file again."
            ) from None
    return tuple(found)


def key_in(file: PemFile, password: str | None) -> PrivateKeyTypes:
    """The private key of a file that has one. Raises CertificateError if it cannot be read or decrypted."""
    block, path = file.key_block or b"", file.path
    if file.is_encrypted and not password:
        raise CertificateError(
            f"The key in {path} is encrypted, and no password was given: set QWEN_ASR_SSL_KEYFILE_PASSWORD in the "
            "environment, or use --ssl-keyfile-password."
        )
    secret = os.fsencode(password) if password and file.is_encrypted else None  # ignored for a plain key
    try:
        return load_pem_private_key(block, secret)
    except UnsupportedAlgorithm:
        raise CertificateError(
            f"The key in {path} has an unsupported type or encryption: openssl pkey -in {path} -aes256 -out new.pem "
            "re-encrypts it; or use an RSA key of 2048 bits or an EC key on P-256."
        ) from None
    except UNREADABLE:
        if secret is not None:
            raise CertificateError(
                f"The password for the key in {path} is wrong: check --ssl-keyfile-password or "
                "QWEN_ASR_SSL_KEYFILE_PASSWORD."
            ) from None
        raise CertificateError(f"{path} is damaged: its key cannot be read; copy the whole file again.") from None
