"""What a file with a certificate or a key really holds: PEM (RFC 7468), or what people mistake for it.

Python's `ssl` says "[SSL] PEM lib" to a wrong password, swapped files, DER and rubbish alike; the sentences here do
not.
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

LARGEST_BYTES = 1 << 20
"""More than any chain of certificates has; what is larger is something else, and is not read."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
KEYS = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
# What else people have, by the label of its block: what it is, and what would be right.
_OTHERS = {
    "CERTIFICATE REQUEST": "a certificate signing request: give the certificate that the authority made of it",
    "NEW CERTIFICATE REQUEST": "a certificate signing request: give the certificate that the authority made of it",
    "PUBLIC KEY": "a public key: give the private key and the certificate that belong to it",
    "RSA PUBLIC KEY": "a public key: give the private key and the certificate that belong to it",
    "OPENSSH PRIVATE KEY": "a key for ssh: give the key that the certificate was made with",
    "TRUSTED CERTIFICATE": "a certificate with OpenSSL's own trust settings: openssl x509 -in FILE -out NEW makes a "
    "plain one of it",
    "PKCS7": "a PKCS#7 file: openssl pkcs7 -print_certs -in FILE -out NEW takes its certificates out",
    "X509 CRL": "a list of revoked certificates: give the certificate and its key",
    "DH PARAMETERS": "parameters only: give the certificate and its key",
    "EC PARAMETERS": "parameters only: give the certificate and its key",
}
_PKCS7_DATA = bytes.fromhex("06092a864886f70d010701")
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # how a key in PKCS#8 is encrypted
_PKCS7_SIGNED = bytes.fromhex("06092a864886f70d010702")
# What cryptography raises for what it cannot read, here or when a part is looked at later.
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
    """A file's blocks, as (label, text with its first and last line), in their order; at least one."""

    path: Path
    blocks: tuple[tuple[str, bytes], ...]

    @property
    def certificate_blocks(self) -> tuple[bytes, ...]:
        """The texts of its certificates."""
        return tuple(text for label, text in self.blocks if label in CERTIFICATES)

    @property
    def key_block(self) -> bytes | None:
        """The text of its first private key, which is the one that OpenSSL takes."""
        return next((text for label, text in self.blocks if label in KEYS), None)

    @property
    def is_encrypted(self) -> bool:
        """Whether that key wants a password: PKCS#8 says so in its label, the traditional form in its headers."""
        block = self.key_block or b""
        return block.startswith(b"-----BEGIN ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block

    def described(self) -> str:
        """What it holds, for people who expected something else: "a public key: give …"."""
        for label, _ in self.blocks:
            if label in _OTHERS:
                return _OTHERS[label].replace("FILE", str(self.path)).replace("NEW", "new.pem")
        return f"a PEM block that is called {self.blocks[0][0]}: give the certificate and its key"


def read_pem(path: Path) -> PemFile:
    """The PEM blocks of the file. Raises CertificateError where it cannot be read or holds none."""
    content = read_file(path)
    blocks = tuple((match[1].decode(), match[0]) for match in _BLOCK.finditer(content))
    if blocks:
        return PemFile(path, blocks)
    raise CertificateError(f"{path} {_no_pem(path, content)}.")


def read_file(path: Path) -> bytes:
    """The content of a file. Raises CertificateError, with what to do, where it cannot be had."""
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise CertificateError(f"{path} is a folder: give the file in it.")
        if not stat.S_ISREG(state.st_mode):  # a pipe could be read once only, and might keep us waiting
            raise CertificateError(f"{path} is no regular file: give one, since it is read again when it is renewed.")
        if state.st_size > LARGEST_BYTES:
            raise CertificateError(
                f"{path} has {state.st_size} bytes, far more than a certificate or a key: give the right file."
            )
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except FileNotFoundError:
        if path.is_symlink():
            raise CertificateError(
                f"{path} is a link to {path.readlink()}, which does not exist: mend the link, or give another file."
            ) from None
        raise CertificateError(f"{path} does not exist: check the path, seen from {Path.cwd()}.") from None
    except PermissionError:
        raise CertificateError(
            f"{path} cannot be read by this user: let the user who runs the server read it and the folders above it "
            "(certbot's are root's alone), for example through a group of their own."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(f"{path} cannot be read ({reason}): give another file.") from None


def _no_pem(path: Path, content: bytes) -> str:
    """What a file without a single PEM block is, as the rest of a sentence that begins with its name."""
    if not content.strip():
        return "is empty: give the file that the certificate or key was written to"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is text in UTF-16: save it as plain text (UTF-8 or ASCII)"
    if _BEGIN.search(content):
        return "is damaged: a PEM block begins in it that does not end; copy the file again, whole"
    if content[:1] == b"\x30":
        return _der(path, content)
    return "is neither a certificate nor a key in PEM form: a PEM file is text with a line -----BEGIN … in it"


def _der(path: Path, content: bytes) -> str:
    head = content[:64]
    if _PKCS7_SIGNED in head:
        convert = f"openssl pkcs7 -inform der -print_certs -in {path} -out new.pem"
        return f"is a PKCS#7 file: {convert} takes its certificates out"
    if b"\x02\x01\x03" in head[:12] and _PKCS7_DATA in head:
        return f"is a PKCS#12 file: openssl pkcs12 -in {path} -out new.pem writes its certificate and key as PEM"
    convert = f"{{}} -inform der -in {path} -out new.pem makes PEM of it"
    if _reads(x509.load_der_x509_certificate, content):
        return "is a certificate in DER form: " + convert.format("openssl x509")
    if _reads(x509.load_der_x509_csr, content):
        return "is a certificate signing request: give the certificate that the authority made of it"
    if _reads(load_der_public_key, content):
        return "is a public key: give the private key and the certificate that belong to it"
    if _reads(lambda data: load_der_private_key(data, None), content) or _PBES2 in head:
        return "is a key in DER form: " + convert.format("openssl pkey")
    return "is neither a certificate nor a key in PEM form: a PEM file is text with a line -----BEGIN … in it"


def _reads(load: Callable[[bytes], object], content: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(content)
    except UNREADABLE:
        return False
    return True


def certificates_in(file: PemFile) -> tuple[x509.Certificate, ...]:
    """All its certificates, in their order. Raises CertificateError for one that is damaged."""
    found = []
    for number, block in enumerate(file.certificate_blocks, 1):
        try:
            with warnings.catch_warnings():  # that a certificate is odd is told by the checks, in words of ours
                warnings.simplefilter("ignore")
                found.append(x509.load_pem_x509_certificate(block))
        except UNREADABLE:
            count = len(file.certificate_blocks)
            which = f"certificate {number} of {count}" if count > 1 else "its certificate"
            raise CertificateError(
                f"{file.path} is damaged: {which} cannot be read; copy the file again, whole."
            ) from None
    return tuple(found)


def key_in(file: PemFile, password: str | None) -> PrivateKeyTypes:
    """Its private key, of which it must have one. Raises CertificateError where it cannot be read or opened."""
    block, path = file.key_block or b"", file.path
    if file.is_encrypted and not password:
        raise CertificateError(
            f"The key in {path} is encrypted, and no password was given: give it in the environment as "
            "QWEN_ASR_SSL_KEYFILE_PASSWORD, or with --ssl-keyfile-password."
        )
    secret = os.fsencode(password) if password and file.is_encrypted else None  # of a plain key a password is ignored
    try:
        return load_pem_private_key(block, secret)
    except UnsupportedAlgorithm:
        raise CertificateError(
            f"The key in {path} is of a kind or encrypted in a way that is not supported: openssl pkey -in {path} "
            "-aes256 -out new.pem writes it anew; or make an RSA key of 2048 bits or an EC key on P-256."
        ) from None
    except UNREADABLE:
        if secret is not None:
            raise CertificateError(
                f"The key in {path} is not opened by the password that was given: check --ssl-keyfile-password or "
                "QWEN_ASR_SSL_KEYFILE_PASSWORD."
            ) from None
        raise CertificateError(f"{path} is damaged: its key cannot be read; copy the file again, whole.") from None
