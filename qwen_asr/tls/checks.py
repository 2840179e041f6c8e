"""What browsers and OpenSSL require of a certificate: violations are errors, lesser problems are warnings.

Sources: the CA/Browser Forum's Baseline Requirements (key sizes, hashes), OpenSSL's security level 2, Apple's limit of
825 days, and the algorithms that Chromium and Firefox offer in a handshake.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, PublicKeyAlgorithmOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, own_names, page_urls

MIN_RSA_BITS = 2048
WARN_FRACTION = 1 / 3
"""A warning about the expiry is due when this part of the lifetime is left; certbot renews at that point."""
APPLE_MAX_LIFETIME = timedelta(days=825)
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_REMEDY = "get a certificate for an RSA key of 2048 bits or an EC key on P-256"
_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)
T = TypeVar("T", bound=x509.ExtensionType)


# --- errors


def refuse_weak(certfile: Path, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> None:
    """Raises CertificateError for keys, signatures and purposes that browsers reject."""
    key = leaf.public_key()
    pss = leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS
    if pss or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        kind = "RSASSA-PSS" if pss else key_type(key)
        raise CertificateError(f"{certfile} is for a key of type {kind}, which browsers do not accept: {_REMEDY}.")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise CertificateError(f"{certfile} is for a key on {key.curve.name}, which browsers do not accept: {_REMEDY}.")
    for certificate in (leaf, *chain):
        where = "" if certificate is leaf else f"“{common_name(certificate.subject)}” in "
        _refuse_weak_key_or_signature(certfile, certificate, where)
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usage is not None and not allowed & set(usage):
        raise CertificateError(
            f"{certfile} was not issued for servers (its extended key usage lacks serverAuth): get one for servers."
        )


def _refuse_weak_key_or_signature(certfile: Path, certificate: x509.Certificate, where: str) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise CertificateError(
            f"{where}{certfile} is for an RSA key of {key.key_size} bits, which is too weak: {_REMEDY}."
        )
    # Clients do not verify the signature of a root.
    if is_self_issued(certificate) and where:
        return
    if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
        name = certificate.signature_hash_algorithm.name.upper()
        raise CertificateError(
            f"{where}{certfile} is signed with {name}, which browsers do not accept: get one signed with SHA-256."
        )


def refuse_wrong_time(certfile: Path, leaf: x509.Certificate, now: datetime) -> None:
    """Raises CertificateError unless the certificate is valid at `now`."""
    if now >= leaf.not_valid_after_utc:
        raise CertificateError(
            f"{certfile} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it (certbot renew, or ask "
            "your authority)."
        )
    if now < leaf.not_valid_before_utc:
        raise CertificateError(
            f"{certfile} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, but the clock of this "
            f"machine shows {now:%Y-%m-%d %H:%M}: set the clock, or wait."
        )


# --- warnings


def warnings_for(
    certfile: Path, leaf: x509.Certificate, chain: Sequence[x509.Certificate], now: datetime, own: Names | None = None
) -> tuple[str, ...]:
    """Sentences about problems that do not prevent serving. `own` are the names of this machine."""
    warnings = []
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now >= ends - (ends - begins) * WARN_FRACTION:
        days = (ends - now).days
        left = f"in {days} day{'s' * (days != 1)}" if days else f"in {(ends - now).seconds // 3600} hours"
        warnings.append(f"{certfile} expires {left}, on {ends:%Y-%m-%d %H:%M} UTC: renew it.")
    if ends - begins > APPLE_MAX_LIFETIME:
        warnings.append(
            f"{certfile} is valid for {(ends - begins).days} days, but Apple's devices accept at most "
            f"{APPLE_MAX_LIFETIME.days}: get one with a shorter lifetime."
        )
    for certificate in chain:
        if now >= certificate.not_valid_after_utc:
            warnings.append(
                f"“{common_name(certificate.subject)}” in {certfile}, which is part of its chain, expired on "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}: get the current chain from the authority."
            )
    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp521r1":
        warnings.append(f"{certfile} is for a key on P-521, which Chromium does not accept: {_REMEDY}.")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        warnings.append(f"{certfile} has a key usage without digitalSignature, which some browsers reject: {_REMEDY}.")
    warnings += _name_warnings(certfile, leaf, own_names() if own is None else own)
    return tuple(warnings)


def _name_warnings(certfile: Path, leaf: x509.Certificate, own: Names) -> list[str]:
    names = dns_and_ip_names(leaf)
    if not names:
        return [
            f"{certfile} contains no names (browsers read only subjectAltName, not the common name): get one for the "
            "name or address under which the page is opened."
        ]
    if matches_machine(names, own):
        return []
    return [
        f"{certfile} is for {shortened(names)}, and none of these is a name or address of this machine: to open the "
        "page without a warning, use a name that is in the certificate and resolves to this machine."
    ]


# --- what a certificate contains


def key_type(key: CertificatePublicKeyTypes) -> str:
    """The usual name of the key's type: `RSA 2048`, `EC P-256`, `Ed25519`."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def same_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether two public keys are equal."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return one.public_bytes(*form) == other.public_bytes(*form)


def common_name(name: x509.Name) -> str:
    """The common name; the whole distinguished name if there is none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = found[0].value if found else name.rfc4514_string()
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether subject and issuer are equal (RFC 5280, section 3.2). `preflight.is_signed_by` verifies the signature."""
    return certificate.issuer == certificate.subject


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign other certificates."""
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def is_server_certificate(certificate: x509.Certificate) -> bool:
    """Whether it is meant for a server: every certificate except those of authorities.

    `openssl req -x509` marks its certificates as authorities too. If such a certificate contains names, it is for a
    server.
    """
    return not is_authority(certificate) or (is_self_issued(certificate) and bool(dns_and_ip_names(certificate)))


def dns_and_ip_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The subject alternative names as text: DNS names first, then IP addresses."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress) if not isinstance(ip, _NETWORKS)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def shortened(names: Sequence[str]) -> str:
    """The names separated by commas; of a long list the first five and a count."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# --- which hosts match the names of a certificate


def matches_host(names: Sequence[str], host: str) -> bool:
    """Whether a certificate with these `names` is valid for `host`, a DNS name or an address."""
    return any(_matches(name, host) for name in names)


def matches_machine(names: Sequence[str], own: Names) -> bool:
    """Whether a certificate with these `names` is valid for at least one name of the machine, localhost included."""
    return any(matches_host(names, host) for host in (*own.dns, *map(str, own.ips)))


def certified_urls(names: Sequence[str], port: int, urls: Sequence[str]) -> tuple[str, ...]:
    """The URLs to announce for a certificate with these `names`: its own names first, then the `urls` it is valid for.

    If it is valid for none of `urls`, all of them are kept: where its names lead is not known here.
    """
    hosts = (name for name in names if "*" not in name and name != "localhost")
    first = (page_urls(host, port, True)[0] for host in hosts)
    matching = [url for url in urls if matches_host(names, urlsplit(url).hostname or "")]
    return tuple(dict.fromkeys((*first, *(matching or urls))))


def _matches(pattern: str, name: str) -> bool:
    """Whether `name` matches `pattern`, in which * stands for exactly one label (RFC 6125)."""
    pattern, name = pattern.lower(), name.lower()
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])
