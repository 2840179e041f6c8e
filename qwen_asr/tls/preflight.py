"""Checks a certificate, its chain and its key before they are served.

``check_pair`` reads the files and reports what is wrong in one sentence. It is fast, uses no network, and never prompts
for a password.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

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
