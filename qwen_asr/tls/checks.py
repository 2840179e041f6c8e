"""What browsers and OpenSSL demand of a certificate: what none of them takes is refused, the rest is warned of.

Sources: the CA/Browser Forum's Baseline Requirements (key sizes, hashes), OpenSSL's security level 2, Apple's limit of
825 days, and what Chromium and Firefox offer in a handshake.
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
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, own_names, page_urls
from qwen_asr.tls.chain import common_name, is_self_issued

SMALLEST_RSA = 2048
WARNED_AT = 1 / 3
"""The part of its lifetime that a certificate has left when its end is warned of; certbot renews at that point."""
APPLES_LONGEST = timedelta(days=825)
T = TypeVar("T", bound=x509.ExtensionType)
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_REMEDY = "have a certificate made for an RSA key of 2048 bits or an EC key on P-256"


def key_type(key: CertificatePublicKeyTypes) -> str:
    """What people call the key: `RSA 2048`, `EC P-256`, `Ed25519`."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def refuse_weak(certfile: Path, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> None:
    """Raises CertificateError for keys, signatures and purposes that browsers do not take."""
    key = leaf.public_key()
    pss = leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS
    if pss or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise CertificateError(
            f"{certfile} is for a key of the type {'RSASSA-PSS' if pss else key_type(key)}, which browsers do "
            f"not take: {_REMEDY}."
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise CertificateError(f"{certfile} is for a key on {key.curve.name}, which browsers do not take: {_REMEDY}.")
    for certificate in (leaf, *chain):
        where = "" if certificate is leaf else f"“{common_name(certificate.subject)}” in "
        _refuse_weak_one(certfile, certificate, where)
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usage is not None and not allowed & set(usage):
        raise CertificateError(
            f"{certfile} was not made for servers (its extended key usage lacks serverAuth): have one made for servers."
        )


def _refuse_weak_one(certfile: Path, certificate: x509.Certificate, where: str) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA:
        raise CertificateError(
            f"{where}{certfile} is for an RSA key of {key.key_size} bits, which is too weak: {_REMEDY}."
        )
    # Nobody checks what a root says of itself.
    if is_self_issued(certificate) and where:
        return
    if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
        name = certificate.signature_hash_algorithm.name.upper()
        raise CertificateError(
            f"{where}{certfile} is signed with {name}, which browsers do not take: have it made anew, with SHA-256."
        )


def refuse_wrong_time(certfile: Path, leaf: x509.Certificate, now: datetime) -> None:
    """Raises CertificateError where the certificate is not valid now."""
    if now >= leaf.not_valid_after_utc:
        raise CertificateError(
            f"{certfile} has expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it (certbot renew, or "
            "your authority)."
        )
    if now < leaf.not_valid_before_utc:
        raise CertificateError(
            f"{certfile} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and the clock here says "
            f"{now:%Y-%m-%d %H:%M}: set the clock right, or wait."
        )


def warnings_of(
    certfile: Path, leaf: x509.Certificate, chain: Sequence[x509.Certificate], now: datetime, own: Names | None = None
) -> tuple[str, ...]:
    """Sentences about what can serve but will bother somebody. `own` are the names of this machine."""
    said = []
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now >= ends - (ends - begins) * WARNED_AT:
        days = (ends - now).days
        left = f"in {days} day{'s' * (days != 1)}" if days else f"in {(ends - now).seconds // 3600} hours"
        said.append(f"{certfile} ends {left}, on {ends:%Y-%m-%d %H:%M} UTC: renew it.")
    if ends - begins > APPLES_LONGEST:
        said.append(
            f"{certfile} is made for {(ends - begins).days} days, and Apple's devices take {APPLES_LONGEST.days} at "
            "most: have one made for a shorter time."
        )
    for certificate in chain:
        if now >= certificate.not_valid_after_utc:
            said.append(
                f"“{common_name(certificate.subject)}” in {certfile}, on which it rests, has expired on "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}: get the present chain from the authority."
            )
    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp521r1":
        said.append(f"{certfile} is for a key on P-521, which Chromium does not take: {_REMEDY}.")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        said.append(
            f"{certfile} may not sign (key usage lacks digitalSignature), which some browsers refuse: {_REMEDY}."
        )
    said += _name_warnings(certfile, leaf, own_names() if own is None else own)
    return tuple(said)


def _name_warnings(certfile: Path, leaf: x509.Certificate, own: Names) -> list[str]:
    names = dns_and_ip_names(leaf)
    if not names:
        return [
            f"{certfile} is for no name (browsers read subjectAltName only, not the common name): have one made for "
            "the name or address under which the page is opened."
        ]
    if fits(names, own):
        return []
    return [
        f"{certfile} is for {listed(names)}, and this machine knows none of that as its own name or address: the page "
        "opens without a warning only under a name of the certificate, which has to lead here."
    ]


def listed(names: Sequence[str]) -> str:
    """The names with commas between, the first five of many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def fits(names: Sequence[str], own: Names) -> bool:
    """Whether one of a certificate's names is one of the machine's, localhost and its addresses among them."""
    return any(covers(names, host) for host in (*own.dns, *map(str, own.ips)))


def covers(names: Sequence[str], host: str) -> bool:
    """Whether a certificate for `names` is for `host`, a DNS name or an address."""
    return any(_matches(name, host) for name in names)


def certified_urls(names: Sequence[str], port: int, urls: Sequence[str]) -> tuple[str, ...]:
    """Where the page of a certificate for `names` is opened: under its names, then at those of `urls` it is for.

    Where it is for none of `urls`, all of them are kept: nobody knows here where its names lead.
    """
    hosts = (name for name in names if "*" not in name and name != "localhost")
    first = (page_urls(host, port, True)[0] for host in hosts)
    covered = [url for url in urls if covers(names, urlsplit(url).hostname or "")]
    return tuple(dict.fromkeys((*first, *(covered or urls))))


def _matches(pattern: str, name: str) -> bool:
    """Whether a certificate for `pattern` is for `name`: a * stands for exactly one label (RFC 6125)."""
    pattern, name = pattern.lower(), name.lower()
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign other certificates."""
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def may_serve(certificate: x509.Certificate) -> bool:
    """Whether it is meant to be served with, as all are but those of authorities.

    What `openssl req -x509` makes calls itself an authority too; that it is none shows in its names.
    """
    return not is_authority(certificate) or (is_self_issued(certificate) and bool(dns_and_ip_names(certificate)))


def dns_and_ip_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """What a certificate is for, as text: its DNS names, then its addresses."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress) if not isinstance(ip, _NETWORKS)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
