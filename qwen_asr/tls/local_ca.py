"""A local CA for `--local-ca`: once its root is installed on a device, the page opens there without a warning.

Name constraints (RFC 5280, section 4.2.1.10) limit the root to local names and private addresses, so a stolen key
cannot be used to impersonate other sites to the devices that trust it. An extended key usage limits it to servers:
a stolen key signs no e-mail, no program and no client either. The root is kept for ten years. It signs one certificate,
the server's, which is replaced as often as necessary. A root of an earlier version without these limits is kept too.
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
from cryptography.x509.oid import ExtendedKeyUsageOID

from qwen_asr.errors import CertificateError
from qwen_asr.network import Address, Network
from qwen_asr.tls.addresses import Names, host_names, own_names
from qwen_asr.tls.managed_files import (
    CertificateFiles,
    OwnerMark,
    check_folder,
    fingerprint,
    includes_names,
    is_for_key,
    is_private,
    key_pem,
    load_own_certificate,
    load_own_key,
    new_key,
    write_files,
)
from qwen_asr.tls.preflight import is_signed_by
from qwen_asr.tls.self_signed import CLOCK_TOLERANCE, is_current, key_usage, marked_subject, sign_leaf

CA_NAME, CA_KEY_NAME = "local_ca.pem", "local_ca_key.pem"
LEAF_NAME, LEAF_KEY_NAME = "local_ca_leaf.pem", "local_ca_leaf_key.pem"
CA_MARK = OwnerMark("qwen-asr local CA", "--local-ca")
LEAF_MARK = OwnerMark("qwen-asr local certificate", "--local-ca")
CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)
"""One day less than browsers allow public authorities; Apple's devices allow 825 days for private ones."""
CA_RENEW_BEFORE = timedelta(days=30)
"""The root is replaced this long before it expires, because it can no longer sign a certificate that lasts."""
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
NOWHERE = "invalid"
"""The only host for which the root may sign e-mail addresses and URIs: none, as RFC 2606 reserves that domain.

The RFC does not say how to exclude all of them. Go and NSS read an empty excluded name as all, OpenSSL as none. Once a
name is permitted, every verifier refuses the others of its kind."""
_ALWAYS_PERMITTED = ("localhost", "local")
# A constraint includes all subdomains, and the CA of a machine called "dev" must not be able to sign for all of .dev.
# So for names that may be top-level domains (letters only, or xn--) the subdomains are excluded. The leading dot is not
# in the RFC, but OpenSSL, Chromium, NSS, Go, Apple's and Microsoft's libraries all read it that way.
_MAY_BE_TOP_LEVEL = re.compile(r"[a-z]+|xn--.*")


@dataclass(frozen=True)
class LocalCertificate:
    """The server's certificate and the root that signed it.

    `excluded` are the names and addresses of the machine that the root's constraints do not allow. `note` is what its
    owner should know about the root; None if there is nothing.
    """

    files: CertificateFiles
    root: CertificateFiles
    excluded: tuple[str, ...]
    note: str | None = None


def ensure_local_ca(
    folder: Path, *, names: Names | None = None, now: datetime | None = None, renew: bool = False
) -> LocalCertificate:
    """The root and the server's certificate in `folder`, reused while they are suitable, otherwise created.

    `ensure_self_signed` lists when the server's certificate is suitable; with `renew` it never is. Raises
    CertificateError if a file does not carry the program's mark, cannot be read or written, or can be changed by
    another user, or if the root's key is missing when it is needed.
    """
    check_folder(folder)
    names = _without_domains(own_names() if names is None else names)
    now = datetime.now(UTC) if now is None else now
    root, key, made = _ensure_root(folder, names, now)
    files = CertificateFiles(folder / CA_NAME, folder / CA_KEY_NAME, fingerprint(root), made)
    allowed, excluded = split_by_constraints(names, root)
    certificate = load_own_certificate(folder / LEAF_NAME, LEAF_MARK)
    leaf_key = load_own_key(folder / LEAF_KEY_NAME, LEAF_MARK)
    intact = certificate and leaf_key and is_for_key(certificate, leaf_key) and is_private(folder / LEAF_KEY_NAME)
    usable = certificate and intact and is_current(certificate, now) and is_signed_by(certificate, root) and not renew
    if not certificate or not usable or not includes_names(certificate, allowed):
        if key is None:
            raise CertificateError(
                f"{folder / CA_KEY_NAME} is missing or damaged, but is needed to sign a new certificate: restore it, "
                f"or move {CA_NAME} away too so that a new root is created, which each device has to install."
            )
        certificate = _sign_and_write_leaf(folder, allowed, root, key, now)
        leaf = CertificateFiles(
            folder / LEAF_NAME, folder / LEAF_KEY_NAME, fingerprint(certificate), newly_created=True
        )
    else:
        leaf = CertificateFiles(
            folder / LEAF_NAME, folder / LEAF_KEY_NAME, fingerprint(certificate), newly_created=False
        )
    note = None if is_for_servers_only(root) else wider_root_note(files.certfile)
    return LocalCertificate(leaf, files, excluded, note)


def _ensure_root(
    folder: Path, names: Names, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | None, bool]:
    """The root, its key (None if it is missing), and whether the root is new."""
    certfile, keyfile = folder / CA_NAME, folder / CA_KEY_NAME
    certificate, key = load_own_certificate(certfile, CA_MARK), load_own_key(keyfile, CA_MARK)
    if key is not None and not is_private(keyfile):
        raise CertificateError(
            f"{keyfile} can be read by other users, who could sign certificates for this machine with it: move it and "
            f"{CA_NAME} away so that both are created again, or chmod 400 {keyfile} if you are sure that nobody read "
            "it."
        )
    if certificate and key and not is_for_key(certificate, key):
        raise CertificateError(
            f"{certfile} and {keyfile} do not belong together: restore the original files, or move both away so that "
            "a new root is created, which each device has to install."
        )
    if certificate and now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{certfile} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, but the clock of "
            f"this machine shows {now:%Y-%m-%d %H:%M}: set the clock."
        )
    if certificate and now < certificate.not_valid_after_utc - CA_RENEW_BEFORE:
        return certificate, key, False
    # If only the certificate is missing, the key is used again: devices that installed the old root still trust it.
    key = new_key() if key is None or certificate is not None else key
    certificate = sign_root(key, names, now)
    pem = certificate.public_bytes(Encoding.PEM)
    write_files(folder, {CA_KEY_NAME: (key_pem(key, CA_MARK), 0o400), CA_NAME: (pem, 0o644)})
    return certificate, key, True


def sign_root(key: ec.EllipticCurvePrivateKey, names: Names, now: datetime) -> x509.Certificate:
    """A root that may sign server certificates, not other CAs, for local names and private addresses only."""
    # host_names() may be empty; then the subject says localhost.
    subject = marked_subject(CA_MARK, f"qwen-asr local CA of {(*host_names(), 'localhost')[0]}"[:64])
    begins = now - CLOCK_TOLERANCE
    domains = _permitted_domains(name.removeprefix("*.") for name in names.dns)
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in domains]
    permitted += [x509.IPAddress(network) for network in _permitted_networks(names.ips)]
    permitted += [x509.RFC822Name(NOWHERE), x509.UniformResourceIdentifier(NOWHERE)]
    excluded = [
        x509.DNSName(f".{name}") for name in domains[len(_ALWAYS_PERMITTED) :] if _MAY_BE_TOP_LEVEL.fullmatch(name)
    ]
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
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints(permitted, excluded or None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def is_for_servers_only(root: x509.Certificate) -> bool:
    """Whether a root of the local CA is limited to servers. Those of version 0.1 are limited in their names only."""
    try:
        usage = root.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    except x509.ExtensionNotFound:
        return False
    kinds = {type(name) for name in names}
    return [*usage] == [ExtendedKeyUsageOID.SERVER_AUTH] and {x509.RFC822Name, x509.UniformResourceIdentifier} <= kinds


def wider_root_note(certfile: Path) -> str:
    """What to tell the owner of a root that is not limited to servers."""
    return (
        f"{certfile} was made by an earlier version: whoever steals its key can sign e-mail and programs with it too. "
        "It is kept, because devices have it installed. To limit it, move that file away (not its key) and restart: "
        "while this machine keeps its name, devices with the old root go on working, and replacing it there by the new "
        "one limits them too."
    )


def _without_domains(names: Names) -> Names:
    """The names without those that may be top-level domains and have other names below them.

    A root may not sign for all of .home because the machine is called "home", but has to for "asr.home".
    """
    unsafe = [
        name
        for name in names.dns
        if name not in _ALWAYS_PERMITTED
        and _MAY_BE_TOP_LEVEL.fullmatch(name)
        and any(other.endswith(f".{name}") for other in names.dns)
    ]
    return Names(tuple(name for name in names.dns if name not in unsafe), names.ips)


def _permitted_domains(hosts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_ALWAYS_PERMITTED, *(host for host in hosts if not host.endswith(".local")))))


def _permitted_networks(addresses: Iterable[Address]) -> tuple[Network, ...]:
    """The private networks, and each address of this machine outside them: some local networks use public addresses."""
    own = (address for address in addresses if not _is_in(address, PRIVATE_NETWORKS))
    return (*PRIVATE_NETWORKS, *(ipaddress.ip_network(address) for address in own))


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def split_by_constraints(names: Names, root: x509.Certificate) -> tuple[Names, tuple[str, ...]]:
    """The part of `names` that the root's name constraints allow, and the rest as text."""
    constraints = root.extensions.get_extension_for_class(x509.NameConstraints).value
    allowed = constraints.permitted_subtrees or ()
    below = tuple(name.value for name in constraints.excluded_subtrees or () if isinstance(name, x509.DNSName))
    domains = [name.value for name in allowed if isinstance(name, x509.DNSName)]
    values = [name.value for name in allowed if isinstance(name, x509.IPAddress)]
    networks = [network for network in values if isinstance(network, Network)]
    dns = tuple(
        name
        for name in names.dns
        if any(name == one or name.endswith("." + one) for one in domains) and not name.endswith(below)
    )
    ips = tuple(address for address in names.ips if _is_in(address, networks))
    excluded = [name for name in names.dns if name not in dns]
    return Names(dns, ips), (*excluded, *(str(address) for address in names.ips if address not in ips))


def _sign_and_write_leaf(
    folder: Path, names: Names, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    leaf_key = new_key()
    begins = max(now - CLOCK_TOLERANCE, root.not_valid_before_utc)
    ends = min(begins + LEAF_LIFETIME, root.not_valid_after_utc)
    subject = marked_subject(LEAF_MARK)
    certificate = sign_leaf(leaf_key.public_key(), names, subject, key, root.subject, begins, ends)
    # The root is appended, so that clients can show the issuer and programs can trust this one file.
    pem = certificate.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    write_files(folder, {LEAF_KEY_NAME: (key_pem(leaf_key, LEAF_MARK), 0o600), LEAF_NAME: (pem, 0o644)})
    return certificate
