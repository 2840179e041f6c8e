"""A private authority for this machine: installed once on a phone, its pages open there without a warning.

Its root may vouch for local names and private addresses only (name constraints, RFC 5280 4.2.1.10), so that even
whoever steals its key cannot pose as anybody's bank to those who installed it. It signs one certificate, the server's,
which is made anew as often as need be; the root stays.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Address, Names, host_names, own_names
from qwen_asr.tls.chain import signed_by
from qwen_asr.tls.managed_files import (
    CertificateFiles,
    OwnerMark,
    belong_together,
    covers,
    fingerprint,
    is_private,
    key_pem,
    new_key,
    own_certificate,
    own_key,
)
from qwen_asr.tls.self_signed import CLOCK_TOLERANCE, is_current, key_usage, sign_leaf, subject_of
from qwen_asr.tls.writing import write_files

CA_NAME, CA_KEY_NAME = "local_ca.pem", "local_ca_key.pem"
LEAF_NAME, LEAF_KEY_NAME = "local_ca_leaf.pem", "local_ca_leaf_key.pem"
CA_MARK = OwnerMark("qwen-asr local CA", "--local-ca")
LEAF_MARK = OwnerMark("qwen-asr local certificate", "--local-ca")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)
"""A day less than browsers allow public authorities; Apple's devices allow private ones 825."""
CA_KEPT_UNTIL = timedelta(days=30)
"""How long before its end the root is made anew, since no certificate of use can be made with it any more."""
PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
# A constraint is for all names below it too, and a machine called "dev" must not vouch for the whole of .dev: for names
# that may be top-level domains (letters only, or xn--) what is below is excluded. That form, with a dot in front, is
# not the RFC's but understood alike by OpenSSL, Chromium, NSS, Go, Apple's and Microsoft's libraries.
_MAY_BE_TOP_LEVEL = re.compile(r"[a-z]+|xn--.*")


@dataclass(frozen=True)
class LocalCertificate:
    """The server's certificate, and the root that vouches for it. `left_out`: names and addresses that it may not."""

    files: CertificateFiles
    root: CertificateFiles
    left_out: tuple[str, ...]


def ensure_local_ca(
    folder: Path, *, names: Names | None = None, now: datetime | None = None, renew: bool = False
) -> LocalCertificate:
    """The root and the server's certificate in `folder`, kept while they fit, else made; with `renew` a new leaf.

    The leaf fits as `ensure_self_signed` says. Raises CertificateError where a file was not made here, cannot be read
    or written, or the root's key is missing when it is needed.
    """
    names = own_names() if names is None else names
    now = datetime.now(UTC) if now is None else now
    root, key, made = _root(folder, names, now)
    files = CertificateFiles(folder / CA_NAME, folder / CA_KEY_NAME, fingerprint(root), made)
    allowed, left_out = permitted(names, root)
    certificate, leaf_key = own_certificate(folder / LEAF_NAME, LEAF_MARK), own_key(folder / LEAF_KEY_NAME, LEAF_MARK)
    whole = certificate and leaf_key and belong_together(certificate, leaf_key) and is_private(folder / LEAF_KEY_NAME)
    fits = certificate and whole and is_current(certificate, now) and signed_by(certificate, root) and not renew
    if not certificate or not fits or not covers(certificate, allowed):
        if key is None:
            raise CertificateError(
                f"{folder / CA_KEY_NAME} is missing or damaged, and a new certificate has to be signed with it: bring "
                f"it back, or move {CA_NAME} away too to have a new root made, which each device has to install."
            )
        certificate = _signed_leaf(folder, allowed, root, key, now)
        leaf = CertificateFiles(folder / LEAF_NAME, folder / LEAF_KEY_NAME, fingerprint(certificate), made=True)
    else:
        leaf = CertificateFiles(folder / LEAF_NAME, folder / LEAF_KEY_NAME, fingerprint(certificate), made=False)
    return LocalCertificate(leaf, files, left_out)


def _root(
    folder: Path, names: Names, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | None, bool]:
    """The root, its key where it is there, and whether the root is new."""
    certfile, keyfile = folder / CA_NAME, folder / CA_KEY_NAME
    certificate, key = own_certificate(certfile, CA_MARK), own_key(keyfile, CA_MARK)
    if key is not None and not is_private(keyfile):
        raise CertificateError(
            f"{keyfile} can be read by others, and whoever has read it can sign for this machine: move it and "
            f"{CA_NAME} away to have both made anew, or chmod 400 {keyfile} if you are sure that nobody has."
        )
    if certificate and key and not belong_together(certificate, key):
        raise CertificateError(
            f"{certfile} and {keyfile} do not belong together: bring back the one that is missing, or move both away "
            "to have a new root made, which each device has to install."
        )
    if certificate and now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{certfile} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and the clock here "
            f"says {now:%Y-%m-%d %H:%M}: set the clock right."
        )
    if certificate and now < certificate.not_valid_after_utc - CA_KEPT_UNTIL:
        return certificate, key, False
    # With the key alone the root is made again of it: devices that have the old one go on trusting what it signs.
    key = new_key() if key is None or certificate is not None else key
    certificate = sign_root(key, names, now)
    pem = certificate.public_bytes(Encoding.PEM)
    write_files(folder, {CA_KEY_NAME: (key_pem(key, CA_MARK), 0o400), CA_NAME: (pem, 0o644)})
    return certificate, key, True


def sign_root(key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> x509.Certificate:
    """A root that may sign certificates of servers, directly, for local names and private addresses only."""
    # host_names' first, which may be none that a certificate can hold, then it is localhost.
    subject = subject_of(CA_MARK, f"qwen-asr local CA of {(*host_names(), 'localhost')[0]}"[:64])
    begins = now - CLOCK_TOLERANCE
    domains = _permitted_domains(names.dns)
    allowed: list[x509.GeneralName] = [x509.DNSName(name) for name in domains]
    allowed += [x509.IPAddress(network) for network in _permitted_networks(names.ips)]
    excluded = [x509.DNSName(f".{name}") for name in domains[2:] if _MAY_BE_TOP_LEVEL.fullmatch(name)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.NameConstraints(allowed, excluded or None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _permitted_domains(hosts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("localhost", "local", *(host for host in hosts if not host.endswith(".local")))))


def _permitted_networks(addresses: Iterable[Address]) -> tuple[Network, ...]:
    """The private ones, and each address of this machine that is in none of them: some networks have public ones."""
    own = (address for address in addresses if not _is_in(address, PRIVATE_NETWORKS))
    return (*PRIVATE_NETWORKS, *(ipaddress.ip_network(address) for address in own))


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def permitted(names: Names, root: x509.Certificate) -> tuple[Names, tuple[str, ...]]:
    """What of `names` the root may vouch for, and what not."""
    allowed = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    domains = [name.value for name in allowed if isinstance(name, x509.DNSName)]
    values = [name.value for name in allowed if isinstance(name, x509.IPAddress)]
    networks = [network for network in values if isinstance(network, Network)]
    dns = tuple(name for name in names.dns if any(name == one or name.endswith("." + one) for one in domains))
    ips = tuple(address for address in names.ips if _is_in(address, networks))
    left_out = [name for name in names.dns if name not in dns]
    return Names(dns, ips), (*left_out, *(str(address) for address in names.ips if address not in ips))


def _signed_leaf(
    folder: Path, names: Names, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    leaf_key = new_key()
    begins = max(now - CLOCK_TOLERANCE, root.not_valid_before_utc)
    ends = min(begins + LEAF_LIFETIME, root.not_valid_after_utc)
    subject = subject_of(LEAF_MARK)
    certificate = sign_leaf(leaf_key.public_key(), names, subject, key, root.subject, begins, ends)
    # With the root behind it: whoever connects can then see who vouches, and programs trust this one file.
    pem = certificate.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    write_files(folder, {LEAF_KEY_NAME: (key_pem(leaf_key, LEAF_MARK), 0o600), LEAF_NAME: (pem, 0o644)})
    return certificate
