"""Certificates and keys for tests, and the mistakes that users make with them."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = datetime.now(UTC).replace(microsecond=0)  # certificates hold whole seconds
DAY = timedelta(days=1)
PASSWORD = "pässword with blanks"  # noqa: S105 - of keys that live as long as a test


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, password: str | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
        kind = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return bytes(self.key.private_bytes(Encoding.PEM, form, kind))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes `cert.pem` and `key.pem`, each replaced atomically, and returns their paths."""
        paths = folder / "cert.pem", folder / "key.pem"
        for path, content in zip(paths, (self.pem, self.key_pem()), strict=True):
            replace(path, content)
        return paths


def replace(path: Path, content: bytes) -> None:
    """Replaces the file atomically by a new one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


def new_ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def issue(
    name: str = "localhost",
    by: Issued | None = None,
    *,
    key: Any = None,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    ca: bool = False,
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + 90 * DAY,
    digest: Any = hashes.SHA256(),  # noqa: B008 - it is stateless
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Issued:
    """A certificate signed by `by`; self-signed without it."""
    key = key or new_ec()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer = by.key if by else key
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    builder = builder.issuer_name(by.certificate.subject if by else subject).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer_key, critical=False)
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(_name, names)]), critical=False)
    return Issued(builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else digest), key)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Issuer:
    """An authority of the test: certificates with any key and validity, signed by one root."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        name = f"test root {os.urandom(4).hex()}"
        self._root = issue(name, ca=True, begins=now - 400 * DAY, ends=now + 400 * DAY)

    def issue(
        self,
        *names: str,
        kind: str = "EC",
        begins: timedelta = timedelta(hours=-1),
        ends: timedelta = timedelta(days=90),
    ) -> Issued:
        """A certificate for names and addresses with a new key, EC or RSA. The times are relative to now."""
        names = names or ("localhost", "127.0.0.1")
        key = new_ec() if kind == "EC" else rsa.generate_private_key(65537, 2048)
        now = datetime.now(UTC)
        return issue(names[0], self._root, key=key, names=names, begins=now + begins, ends=now + ends)

    @property
    def root_pem(self) -> bytes:
        return self._root.pem

    def trust(self) -> ssl.SSLContext:
        """A client context that trusts only this root."""
        return ssl.create_default_context(cadata=self.root_pem.decode())


@dataclass
class Chained:
    """A leaf, the intermediate that signed it, and the root."""

    root: Issued = field(default_factory=lambda: issue("Root", ca=True))
    middle: Issued = None  # type: ignore[assignment]  # set in __post_init__
    leaf: Issued = None  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        self.middle = issue("Middle", self.root, ca=True)
        self.leaf = issue("leaf", self.middle)


@dataclass(frozen=True)
class Mistake:
    """A mistake in files, options or environment, and a pattern that the error message must match."""

    make: Callable[[Path], Sequence[str | Path]]
    message: str
    environ: dict[str, str] = field(default_factory=dict)
    unprivileged: bool = False


def put(folder: Path, certificate: bytes | None, key: bytes | None = None) -> list[str | Path]:
    """Writes both and returns the options for them."""
    options: list[str | Path] = []
    for name, option, content in (("cert.pem", "--ssl-certfile", certificate), ("key.pem", "--ssl-keyfile", key)):
        if content is not None:
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)
            options += [option, folder / name]
    return options


def pair(folder: Path, made: Issued | None = None, **options: Any) -> list[str | Path]:
    """A valid pair, unless the `options` for `issue` make it invalid."""
    made = made or issue(**options)
    return put(folder, made.pem, made.key_pem())


def _swapped(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.key_pem(), made.pem)


def _folder(folder: Path) -> list[str | Path]:
    (folder / "here").mkdir()
    return ["--ssl-certfile", folder / "here"]


def _unreadable(folder: Path) -> list[str | Path]:
    options = pair(folder)
    (folder / "key.pem").chmod(0)
    return options


def _dangling(folder: Path) -> list[str | Path]:
    (folder / "cert.pem").symlink_to("../archive/cert1.pem")
    return ["--ssl-certfile", folder / "cert.pem"]


def _pkcs12(folder: Path) -> list[str | Path]:
    made = issue()
    kind = BestAvailableEncryption(b"secret")
    return put(folder, pkcs12.serialize_key_and_certificates(b"x", made.key, made.certificate, None, kind))


def _public(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.pem, made.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _request(folder: Path) -> list[str | Path]:
    key = new_ec()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return put(folder, request.public_bytes(Encoding.PEM), issue(key=key).key_pem())


def _der(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.certificate.public_bytes(Encoding.DER), made.key_pem())


def _der_key(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.pem, made.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _locked(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.pem, made.key_pem(PASSWORD))


def _traditional(folder: Path) -> list[str | Path]:
    made = issue(key=rsa.generate_private_key(65537, 2048))
    return put(folder, made.pem, made.key_pem(PASSWORD, PrivateFormat.TraditionalOpenSSL))


def _another_key(folder: Path) -> list[str | Path]:
    return put(folder, issue().pem, issue().key_pem())


def _cut_off(folder: Path) -> list[str | Path]:
    made = issue()
    return put(folder, made.pem[:-60], made.key_pem())


def _damaged(folder: Path) -> list[str | Path]:
    made = issue()
    lines = made.pem.splitlines(keepends=True)
    return put(folder, b"".join([*lines[:2], *lines[4:]]), made.key_pem())


def _weak(folder: Path) -> list[str | Path]:
    return pair(folder, key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - the mistake under test


def _sha1(folder: Path) -> list[str | Path]:
    options: list[str | Path] = ["--ssl-certfile", folder / "cert.pem", "--ssl-keyfile", folder / "key.pem"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-sha1", *subject]
    subprocess.run([*command, "-out", options[1], "-keyout", options[3]], check=True, capture_output=True)
    return options


def _taken(folder: Path) -> list[str | Path]:
    holder = socket.create_server(("127.0.0.1", 0))
    HELD_PORTS.append(holder)
    return [*pair(folder), "--host", "127.0.0.1", "--port", str(holder.getsockname()[1])]


HELD_PORTS: list[socket.socket] = []
_WRONG = {"QWEN_ASR_SSL_KEYFILE_PASSWORD": "wrong"}
MISTAKES = {
    "do not match": Mistake(_another_key, "do not belong together: give the key"),
    "expired": Mistake(lambda folder: pair(folder, begins=NOW - 90 * DAY, ends=NOW - DAY), "expired on .* renew"),
    "not yet valid": Mistake(lambda folder: pair(folder, begins=NOW + DAY), "is not valid before .* set the clock"),
    "wrong password": Mistake(_locked, "The password for the key in .* is wrong: check", _WRONG),
    "wrong password, traditional": Mistake(_traditional, "The password for the key in .* is wrong: check", _WRONG),
    "missing password": Mistake(_locked, "is encrypted, and no password was given: set QWEN_ASR_SSL_KEYFILE_PASSWORD"),
    "missing password, traditional": Mistake(_traditional, "is encrypted, and no password was given"),
    "swapped": Mistake(_swapped, "swapped, so give them the other way round"),
    "a key for the certificate": Mistake(lambda folder: put(folder, issue().key_pem()), "a key and no certificate"),
    "a certificate for the key": Mistake(lambda folder: put(folder, *[issue().pem] * 2), "a certificate and no key"),
    "DER": Mistake(_der, "certificate in DER format: openssl x509 -inform der"),
    "DER key": Mistake(_der_key, "key in DER format: openssl pkey -inform der"),
    "PKCS#12": Mistake(_pkcs12, r"PKCS#12 file: openssl pkcs12 -in .*cert\.pem -out new\.pem"),
    "public key": Mistake(_public, "holds no private key, but a public key: give the private key"),
    "signing request": Mistake(_request, "a certificate signing request: give the certificate"),
    "garbage": Mistake(
        lambda folder: put(folder, b"garbage \xff" * 9), "neither a certificate nor a key in PEM format"
    ),
    "UTF-16": Mistake(lambda folder: put(folder, issue().pem.decode().encode("utf-16")), "UTF-16: save it as plain"),
    "empty": Mistake(lambda folder: put(folder, b"\n"), "is empty: give the file"),
    "cut off": Mistake(_cut_off, "is damaged: a PEM block in it has no end"),
    "damaged": Mistake(_damaged, "is damaged: its certificate cannot be read"),
    "missing": Mistake(lambda folder: ["--ssl-certfile", folder / "cert.pem"], "does not exist: check the path"),
    "link into nowhere": Mistake(_dangling, "is a link to .*cert1.pem, which does not exist: fix the link"),
    "folder": Mistake(_folder, "is a folder: give the file in it"),
    "no file": Mistake(lambda _: ["--ssl-certfile", "/dev/null"], "is not a regular file"),
    "unreadable": Mistake(_unreadable, "cannot be read by this user: give the user", unprivileged=True),
    "certificate alone": Mistake(lambda folder: put(folder, issue().pem), "holds no key: .* --ssl-keyfile"),
    "key alone": Mistake(lambda folder: put(folder, None, b""), "--ssl-keyfile was given without --ssl-certfile: give"),
    "two ways": Mistake(
        lambda folder: ["--generate-self-signed-cert", *pair(folder)],
        "--generate-self-signed-cert and --ssl-certfile were given, .* give only one",
    ),
    "authority and own": Mistake(lambda folder: ["--local-ca", *pair(folder)], "give only one"),
    "share": Mistake(lambda folder: ["--share", *pair(folder)], "give either --share or --ssl-certfile"),
    "Space": Mistake(pair, "leave the option out there", {"SPACE_ID": "somebody/something"}),
    "weak RSA": Mistake(_weak, "an RSA key of 1024 bits, .* too weak"),
    "Ed25519": Mistake(lambda folder: pair(folder, key=ed25519.Ed25519PrivateKey.generate()), "Ed25519, .* browsers"),
    "curve": Mistake(
        lambda folder: pair(folder, key=ec.generate_private_key(ec.SECP256K1())),
        "on secp256k1, which browsers do not accept",
    ),
    "SHA-1": Mistake(_sha1, "is signed with SHA1, .* SHA-256"),
    "not for servers": Mistake(
        lambda folder: pair(folder, usage=ExtendedKeyUsageOID.CLIENT_AUTH), "was not issued for servers"
    ),
    "port in use": Mistake(_taken, r"Port \d+ on 127.0.0.1 is in use .* --port"),
    "port 443": Mistake(
        lambda folder: [*pair(folder), "--port", "443"], "reserved for administrators", unprivileged=True
    ),
}


def pattern_of(row: str) -> re.Pattern[str]:
    """A pattern for a sentence in the documentation, in which … stands for any text."""
    return re.compile(".*".join(re.escape(part.strip()) for part in row.split("…")), re.DOTALL)
