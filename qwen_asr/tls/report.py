"""Reports on certificate and key files, and renewal of the program's own, for `qwen-asr cert`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from qwen_asr.errors import CertificateError
from qwen_asr.tls import local_ca, self_signed
from qwen_asr.tls.addresses import Names, own_names
from qwen_asr.tls.certificates import FOLDER
from qwen_asr.tls.checks import (
    common_name,
    dns_and_ip_names,
    is_authority,
    is_self_issued,
    is_server_certificate,
    key_type,
    refuse_weak,
    refuse_wrong_time,
    shortened,
    warnings_for,
)
from qwen_asr.tls.context import load_context
from qwen_asr.tls.managed_files import OwnerMark, fingerprint, load_own_certificate
from qwen_asr.tls.pem import UNREADABLE, certificates_in, key_in, read_pem
from qwen_asr.tls.preflight import chain_warnings, check_pair, leaf_for_key, sort_chain

OWN_FILES = (
    self_signed.CERTIFICATE_NAME,
    self_signed.KEY_NAME,
    local_ca.CA_NAME,
    local_ca.CA_KEY_NAME,
    local_ca.LEAF_NAME,
    local_ca.LEAF_KEY_NAME,
)


@dataclass
class Report:
    """Lines of text about some files.

    `problems` counts what would prevent a server from starting, `missing` the files that do not exist.
    """

    lines: list[str] = field(default_factory=list)
    problems: int = 0
    missing: int = 0

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)

    def add_fact(self, name: str, value: str) -> None:
        """Adds a row to the table of names and values."""
        self.lines.append(f"  {name:12}{value}")

    def add_problem(self, error: CertificateError) -> None:
        """Adds a problem and its remedy."""
        self.add_fact("PROBLEM", str(error))
        self.problems += 1


@dataclass(frozen=True)
class _Key:
    path: Path
    key: PrivateKeyTypes


@dataclass(frozen=True)
class _Given:
    """Everything in the given files, and what is needed to judge it."""

    keys: list[_Key]
    certificates: list[tuple[x509.Certificate, ...]]  # of each file
    password: str | None
    now: datetime

    def is_unmatched(self, key: _Key) -> bool:
        """Whether no file has a certificate for this key."""
        return all(leaf_for_key(key.key.public_key(), found) is None for found in self.certificates)

    @property
    def has_server_certificate(self) -> bool:
        """Whether a file has a certificate for a server, not only those of authorities."""
        return any(is_server_certificate(certificate) for found in self.certificates for certificate in found)


def describe(names: Sequence[str], password: str | None, folder: Path = FOLDER, now: datetime | None = None) -> Report:
    """Describes the files; without `names`, the program's own files in `folder`.

    Raises CertificateError if there are none.
    """
    now = datetime.now(UTC) if now is None else now
    paths = [Path(name) for name in names] or _own_files(folder)
    report = Report()
    keys = [key for path in paths if (key := _readable_key(path, password)) is not None]
    given = _Given(keys, [found for path in paths if (found := _readable_certificates(path))], password, now)
    for path in paths:
        report.lines.append(f"{path}:")
        report.missing += not _exists(path)
        try:
            _describe_file(report, path, given)
        except CertificateError as error:
            report.add_problem(error)
        except UNREADABLE:
            report.add_problem(CertificateError(f"{path} is malformed: have the authority issue it again."))
    return report


def _own_files(folder: Path) -> list[Path]:
    found = [folder / name for name in OWN_FILES if (folder / name).exists()]
    if not found:
        raise CertificateError(
            f"No file was given, and {folder.absolute()} holds none that the program made: give the files, or start "
            "the server with --generate-self-signed-cert or --local-ca."
        )
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a folder that this user may not access


def _readable_key(path: Path, password: str | None) -> _Key | None:
    try:
        file = read_pem(path)
        return _Key(path, key_in(file, password)) if file.key_block else None
    except CertificateError:
        return None  # reported with the file itself


def _readable_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return certificates_in(read_pem(path))
    except CertificateError:
        return ()


def _describe_file(report: Report, path: Path, given: _Given) -> None:
    file = read_pem(path)
    if file.certificate_blocks:
        _describe_certificate(report, path, given)
    elif file.key_block:
        report.add_fact("is", "an encrypted private key" if file.is_encrypted else "a private key")
        key = key_in(file, given.password)
        report.add_fact("key", key_type(key.public_key()))  # type: ignore[arg-type]  # unsupported kinds are named too
        if given.certificates and given.is_unmatched(_Key(path, key)):
            report.add_fact("fits", "none of the certificates that were given")
        if not given.certificates:
            raise CertificateError(f"{path} holds a key and no certificate: give the certificate's file too.")
    else:
        raise CertificateError(f"{path} holds no certificate and no private key, but {file.description()}.")


def _describe_certificate(report: Report, path: Path, given: _Given) -> None:
    found = certificates_in(read_pem(path))
    matching = [(leaf, key) for key in given.keys if (leaf := leaf_for_key(key.key.public_key(), found)) is not None]
    leaf, key = matching[0] if matching else (next(filter(is_server_certificate, found), found[0]), None)
    chain = sort_chain(leaf, found)
    report.add_fact("is", _kind(leaf, len(found)))
    report.add_fact("for", shortened(dns_and_ip_names(leaf)) or common_name(leaf.subject))
    issuers = (common_name(certificate.issuer) for certificate in (leaf, *chain.certificates))
    report.add_fact("from", " ← ".join(issuers))
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    left = max((ends - given.now).days, 0)
    report.add_fact("valid", f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, {left} days left")
    report.add_fact("key", key_type(leaf.public_key()))
    report.add_fact("SHA-256", fingerprint(leaf))
    if key is not None:
        report.add_fact("fits", f"the key in {key.path}")
    elif given.keys:
        report.add_fact("fits", "none of the keys that were given")
    if _is_local_root(leaf):
        refuse_wrong_time(path, leaf, given.now)
        if not local_ca.is_for_servers_only(leaf):
            report.add_fact("note", local_ca.wider_root_note(path))
        report.add_fact("to do", "install it on the devices, as the page /trust explains; keep its key where it is")
    else:
        _check_certificate(report, path, leaf, key, given)


def _check_certificate(report: Report, path: Path, leaf: x509.Certificate, key: _Key | None, given: _Given) -> None:
    """Adds the warnings, or that there is nothing to do. Raises CertificateError if it cannot be served."""
    if key is None and (is_server_certificate(leaf) or not given.has_server_certificate):
        # A key that matches nothing was meant for this certificate: check_pair reports that it does not.
        key = next((other for other in given.keys if given.is_unmatched(other)), None)
    if key is None:
        chain = sort_chain(leaf, certificates_in(read_pem(path)))
        refuse_weak(path, leaf, chain.certificates)
        refuse_wrong_time(path, leaf, given.now)
        warnings = (*chain_warnings(path, chain), *warnings_for(path, leaf, chain.certificates, given.now))
    else:
        checked = check_pair(path, key.path if key.path != path else None, given.password, given.now)
        load_context(checked)
        warnings = checked.warnings
    for warning in warnings:
        report.add_fact("note", warning)
    if key is None and is_server_certificate(leaf):
        raise CertificateError(
            f"{path} cannot be served without its key, which was not given: give the key's file too."
        )
    if not warnings:
        report.add_fact("to do", "nothing")


def _is_local_root(certificate: x509.Certificate) -> bool:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    return [name.value for name in names] == [local_ca.CA_MARK.text]


def _kind(leaf: x509.Certificate, count: int) -> str:
    self_issued, authority = is_self_issued(leaf), is_authority(leaf) and not is_server_certificate(leaf)
    kind = "a self-signed certificate" if self_issued and not authority else "a certificate"
    if authority:
        kind = "the certificate of an authority" + (", a root" if self_issued else ", an intermediate one")
    return kind + (f" with {count - 1} more after it" if count > 1 else "")


def renew(names: Sequence[str], folder: Path = FOLDER) -> Report:
    """Creates new versions of the program's own certificates; without `names`, of all in `folder`.

    Raises CertificateError for files that the program did not create.
    """
    report = Report()
    for path in [Path(name) for name in names] or _own_files(folder):
        make = _MAKERS.get(path.name)
        if names and (make is None or not path.exists()):
            raise CertificateError(
                f"{path} is not a certificate that the program made: renew it where it came from (certbot renew, or "
                "ask your authority)."
            )
        if make is not None:
            report.lines.append(f"{path}: {make(path.parent)}")
    if not report.lines:
        raise CertificateError(f"{folder.absolute()} holds no certificate to renew: start the server with --local-ca.")
    report.lines.append(
        "A running server loads a new certificate by itself. After a new root, restart it so that /trust offers it."
    )
    return report


def _kept_names(certfile: Path, mark: OwnerMark) -> Names:
    """The names of this machine and of the certificate, which may be those of `--allowed-hosts`, unknown here."""
    certificate = load_own_certificate(certfile, mark)
    return own_names(() if certificate is None else dns_and_ip_names(certificate))


def _renew_self_signed(folder: Path) -> str:
    names = _kept_names(folder / self_signed.CERTIFICATE_NAME, self_signed.MARK)
    files = self_signed.ensure_self_signed(folder, names=names, renew=True)
    return f"renewed, SHA-256 {files.fingerprint}; browsers will warn again."


def _renew_leaf(folder: Path) -> str:
    names = _kept_names(folder / local_ca.LEAF_NAME, local_ca.LEAF_MARK)
    local = local_ca.ensure_local_ca(folder, names=names, renew=True)
    root = (
        "a new root, which each device has to install"
        if local.root.newly_created
        else "which stays, so no browser will warn"
    )
    return f"renewed, SHA-256 {local.files.fingerprint}, signed by {local.root.certfile}, {root}."


_MAKERS: dict[str, Callable[[Path], str]] = {
    self_signed.CERTIFICATE_NAME: _renew_self_signed,
    local_ca.LEAF_NAME: _renew_leaf,
}
