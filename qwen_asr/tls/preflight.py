"""Whether a certificate and its key can serve, found before anything is served with them.

``check_pair`` reads the files and says in one sentence what is wrong and what to do; ``load_context`` makes what TLS
connections are served with. Both are quick and never ask anybody for anything.
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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from qwen_asr.errors import CertificateError
from qwen_asr.tls.chain import Chain, sort_chain
from qwen_asr.tls.checks import dns_and_ip_names, is_authority, key_type, refuse_weak, refuse_wrong_time, warnings_of
from qwen_asr.tls.pem import UNREADABLE, PemFile, certificates_in, key_in, read_pem

# Mozilla's "intermediate" profile, version 5.7: forward secrecy and AEAD only. TLS 1.3 has no others.
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
_OPENSSL_SAYS = {
    "EE_KEY_TOO_SMALL": "its key is too weak",
    "CA_KEY_TOO_SMALL": "a key in its chain is too weak",
    "CA_MD_TOO_WEAK": "a signature in its chain is too weak",
    "KEY_VALUES_MISMATCH": "certificate and key do not belong together",
}


@dataclass(frozen=True)
class CheckedPair:
    """A certificate that fits its key and is valid now. `keyfile` None: the key is in `certfile`.

    `chain` is what is served behind `leaf`, each certificate signed by the next; `reordered` whether the file holds
    that in another order or among others. `names` are DNS names and addresses. `warnings` are sentences: it can serve,
    but somebody may mind.
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

    Raises CertificateError where they cannot serve at `now`.
    """
    certificates, holder = read_pem(certfile), read_pem(keyfile or certfile)
    _refuse_wrong_files(certificates, holder, given=keyfile is not None)
    found, key = certificates_in(certificates), key_in(holder, password)
    try:
        return _checked(certfile, keyfile, found, key, password, now)
    except UNREADABLE:  # cryptography reads many parts of a certificate only when they are looked at
        raise CertificateError(
            f"{certfile} holds a certificate that is malformed inside: have the authority make it anew."
        ) from None


def _checked(
    certfile: Path,
    keyfile: Path | None,
    found: tuple[x509.Certificate, ...],
    key: PrivateKeyTypes,
    password: str | None,
    now: datetime,
) -> CheckedPair:
    holder = keyfile or certfile
    leaf = leaf_of(key.public_key(), found)
    if leaf is None:
        raise CertificateError(
            f"The certificate in {certfile} and the key in {holder} do not belong together: give the key that the "
            "certificate was made with, or have a certificate made with this key."
        )
    chain = sort_chain(leaf, found)
    refuse_weak(certfile, leaf, chain.certificates)
    refuse_wrong_time(certfile, leaf, now)
    warnings = (*chain_warnings(certfile, chain), *warnings_of(certfile, leaf, chain.certificates, now))
    return CheckedPair(
        certfile,
        keyfile,
        leaf,
        chain.certificates,
        key_type(leaf.public_key()),
        dns_and_ip_names(leaf),
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        (*warnings, *_readable_by_others(holder)),
        chain.reordered,
        password,
    )


def _refuse_wrong_files(certificates: PemFile, key: PemFile, *, given: bool) -> None:
    """Raises CertificateError where one of the two holds something else. `given`: the key has a file of its own."""
    if not certificates.certificate_blocks:
        if given and certificates.key_block and key.certificate_blocks:
            raise CertificateError(
                f"{certificates.path} holds a key and {key.path} a certificate: the two files are swapped, so give "
                "them the other way round."
            )
        if certificates.key_block:
            raise CertificateError(f"{certificates.path} holds a key and no certificate: give the certificate's file.")
        raise CertificateError(f"{certificates.path} holds no certificate, but {certificates.described()}.")
    if key.key_block:
        return
    if not given:
        raise CertificateError(f"{certificates.path} holds no key: give the file of its key too, with --ssl-keyfile.")
    if key.certificate_blocks:
        raise CertificateError(f"{key.path} holds a certificate and no key: give the file of the certificate's key.")
    raise CertificateError(f"{key.path} holds no private key, but {key.described()}.")


def same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether two public keys are the same."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return one.public_bytes(*form) == other.public_bytes(*form)


def leaf_of(key: PublicKeyTypes, found: tuple[x509.Certificate, ...]) -> x509.Certificate | None:
    """The certificate of that key. An authority's that stands behind others is not meant: its key serves nothing."""
    fitting = (one for one in found if same_key(one.public_key(), key))
    return next((one for one in fitting if one == found[0] or not is_authority(one)), None)


def chain_warnings(certfile: Path, chain: Chain) -> tuple[str, ...]:
    """What is to be said of the chain: its order, what is not of it, and what is missing."""
    said = []
    if chain.reordered and not chain.left_out:
        said.append(f"{certfile} holds its chain in the wrong order; it is served in the right one.")
    if chain.left_out:
        said.append(f"{certfile} holds {chain.left_out} certificate(s) beside its own chain; they are not served.")
    if chain.missing is not None:
        said.append(
            f"{certfile} lacks the certificate of “{chain.missing}”, which signed the last one in it: if that is an "
            "intermediate, append it, since not every device finds it by itself (give fullchain.pem, not cert.pem)."
        )
    return tuple(said)


def _readable_by_others(holder: Path) -> tuple[str, ...]:
    try:
        open_to_all = os.name == "posix" and holder.stat().st_mode & 0o004
    except OSError:
        return ()  # replaced this moment; it was read before
    said = f"The key in {holder} can be read by every user of this machine: chmod 600 {holder}."
    return (said,) if open_to_all else ()


def load_context(checked: CheckedPair) -> ssl.SSLContext:
    """A context that serves the pair: TLS 1.2 and up, AEAD ciphers with forward secrecy, ALPN http/1.1.

    Raises CertificateError where OpenSSL does not take it, as when a file has changed since it was checked.
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
            # A function, because OpenSSL would ask on the terminal for a password that it is not given.
            context.load_cert_chain(certfile, checked.keyfile or checked.certfile, lambda: password)
    except ssl.SSLError as error:
        reason = _OPENSSL_SAYS.get(error.reason or "", f"OpenSSL says {error.reason or 'nothing more'}")
        raise CertificateError(
            f"{checked.certfile} with its key cannot be loaded ({reason}): have the certificate made anew, with an RSA "
            "key of 2048 bits or an EC key on P-256, or write both files anew as plain PEM."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(
            f"{checked.certfile} with its key cannot be loaded ({reason}): check both files."
        ) from None
    return context


@contextmanager
def _in_order(checked: CheckedPair) -> Iterator[Path]:
    """A file with the chain as it is to be served, while the context lasts; OpenSSL takes it from files only."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        for certificate in (checked.leaf, *checked.chain):
            file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        yield Path(file.name)
