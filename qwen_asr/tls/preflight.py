"""Checks a certificate, its chain and its key before they are served, and loads them into an SSL context.

``check_pair`` reads the files and reports what is wrong in one sentence; ``load_context`` creates the `ssl.SSLContext`
for connections. Both are fast, use no network, and never prompt for a password.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from qwen_asr.errors import CertificateError
from qwen_asr.tls.checks import (
    common_name,
    dns_and_ip_names,
    is_authority,
    key_type,
    refuse_weak,
    refuse_wrong_time,
    same_key,
    warnings_for,
)
from qwen_asr.tls.pem import UNREADABLE, PemFile, certificates_in, key_in, read_pem

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


@dataclass(frozen=True)
class Chain:
    """The certificates of a file that are sent after the leaf, each one signing the one before.

    `reordered`: the file has the leaf and its chain in another order, or other certificates between them.
    `unrelated`: the number of other certificates in the file. `missing`: the name of the issuer of the last
    certificate if that issuer is not in the file; None if the chain ends in a root.
    """

    certificates: tuple[x509.Certificate, ...]
    reordered: bool
    unrelated: int
    missing: str | None


@dataclass(frozen=True)
class CheckedPair:
    """A certificate that belongs to its key and is valid. If `keyfile` is None, the key is in `certfile`.

    `chain` is sent after `leaf`, each certificate signed by the next. `reordered` is true if the file has them in
    another order or mixed with others. `names` are DNS names and addresses. `warnings` are sentences about problems
    that do not prevent serving.
    """

    certfile: Path
    keyfile: Path | None
    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key_type: str
    names: tuple[str, ...]
    not_valid_before: datetime
    not_valid_after: datetime
    warnings: tuple[str, ...] = ()
    reordered: bool = False
    password: str | None = field(default=None, repr=False)


def check_pair(certfile: Path, keyfile: Path | None, password: str | None, now: datetime) -> CheckedPair:
    """The certificate in `certfile` and its key, by default in the same file.

    Raises CertificateError if they cannot be served at `now`.
    """
    certificate_pem, key_pem = read_pem(certfile), read_pem(keyfile or certfile)
    _refuse_wrong_files(certificate_pem, key_pem, separate=keyfile is not None)
    found, key = certificates_in(certificate_pem), key_in(key_pem, password)
    try:
        return _checked(certfile, keyfile, found, key, password, now)
    except UNREADABLE:  # cryptography parses many fields of a certificate only when they are accessed
        raise CertificateError(
            f"{certfile} contains a malformed certificate: have the authority issue it again."
        ) from None


def _checked(
    certfile: Path,
    keyfile: Path | None,
    found: tuple[x509.Certificate, ...],
    key: PrivateKeyTypes,
    password: str | None,
    now: datetime,
) -> CheckedPair:
    key_path = keyfile or certfile
    leaf = leaf_for_key(key.public_key(), found)
    if leaf is None:
        raise CertificateError(
            f"The certificate in {certfile} and the key in {key_path} do not belong together: give the key that the "
            "certificate was issued for, or get a certificate for this key."
        )
    chain = sort_chain(leaf, found)
    refuse_weak(certfile, leaf, chain.certificates)
    refuse_wrong_time(certfile, leaf, now)
    warnings = (*chain_warnings(certfile, chain), *warnings_for(certfile, leaf, chain.certificates, now))
    return CheckedPair(
        certfile,
        keyfile,
        leaf,
        chain.certificates,
        key_type(leaf.public_key()),
        dns_and_ip_names(leaf),
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        (*warnings, *_permission_warnings(key_path)),
        chain.reordered,
        password,
    )


def _refuse_wrong_files(certificates: PemFile, key: PemFile, *, separate: bool) -> None:
    """Raises CertificateError if a file contains the wrong thing. `separate`: the key has its own file."""
    if not certificates.certificate_blocks:
        if separate and certificates.key_block and key.certificate_blocks:
            raise CertificateError(
                f"{certificates.path} holds a key and {key.path} a certificate: the two files are swapped, so give "
                "them the other way round."
            )
        if certificates.key_block:
            raise CertificateError(f"{certificates.path} holds a key and no certificate: give the certificate's file.")
        raise CertificateError(f"{certificates.path} holds no certificate, but {certificates.description()}.")
    if key.key_block:
        return
    if not separate:
        raise CertificateError(f"{certificates.path} holds no key: give the key's file too, with --ssl-keyfile.")
    if key.certificate_blocks:
        raise CertificateError(f"{key.path} holds a certificate and no key: give the file of the certificate's key.")
    raise CertificateError(f"{key.path} holds no private key, but {key.description()}.")


def leaf_for_key(key: PublicKeyTypes, found: tuple[x509.Certificate, ...]) -> x509.Certificate | None:
    """The certificate for the key. An authority's certificate counts only if it is the first in the file."""
    matching = (certificate for certificate in found if same_key(certificate.public_key(), key))
    return next(
        (certificate for certificate in matching if certificate == found[0] or not is_authority(certificate)), None
    )


def sort_chain(leaf: x509.Certificate, found: tuple[x509.Certificate, ...]) -> Chain:
    """The chain of `leaf` among the certificates of its file."""
    rest = [certificate for certificate in dict.fromkeys(found) if certificate != leaf]
    chain: list[x509.Certificate] = []
    last = leaf
    while not is_signed_by(last, last):
        signer = next((other for other in rest if is_signed_by(last, other)), None)
        if signer is None:
            break
        rest.remove(signer)
        chain.append(signer)
        last = signer
    missing = None if is_signed_by(last, last) else common_name(last.issuer)
    return Chain(tuple(chain), (leaf, *chain) != found, len(rest), missing)


def is_signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    """Whether `signer` signed `certificate`. For a root both are the same."""
    if certificate.issuer != signer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(signer)
    except UNREADABLE:
        return False
    return True


def chain_warnings(certfile: Path, chain: Chain) -> tuple[str, ...]:
    """Sentences about a chain in the wrong order, unrelated certificates, and a missing issuer."""
    warnings = []
    if chain.reordered and not chain.unrelated:
        warnings.append(f"{certfile} has its chain in the wrong order; it is served in the right order.")
    if chain.unrelated:
        warnings.append(
            f"{certfile} holds {chain.unrelated} certificate(s) that do not belong to its chain; they are not served."
        )
    if chain.missing is not None:
        warnings.append(
            f"{certfile} lacks the certificate of “{chain.missing}”, which signed the last one in it: if that is an "
            "intermediate, append it, because not every device finds it by itself (give fullchain.pem, not cert.pem)."
        )
    return tuple(warnings)


def _permission_warnings(path: Path) -> tuple[str, ...]:
    try:
        world_readable = os.name == "posix" and path.stat().st_mode & 0o004
    except OSError:
        return ()  # the file was removed or replaced after it was read
    warning = f"The key in {path} can be read by every user of this machine: run chmod 600 {path}."
    return (warning,) if world_readable else ()


def load_context(checked: CheckedPair) -> ssl.SSLContext:
    """A server context for the pair: TLS 1.2 and later, AEAD ciphers with forward secrecy, ALPN http/1.1.

    Raises CertificateError if OpenSSL rejects it, for example because a file changed after the check.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
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
