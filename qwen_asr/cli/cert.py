"""`qwen-asr cert`: what files are, whether they fit each other, what to do; and the program's own made anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from qwen_asr.errors import CertificateError
from qwen_asr.tls import local_ca, self_signed
from qwen_asr.tls.certificates import FOLDER
from qwen_asr.tls.chain import common_name, is_self_issued, sort_chain
from qwen_asr.tls.checks import (
    dns_and_ip_names,
    is_authority,
    key_type,
    listed,
    may_serve,
    refuse_weak,
    refuse_wrong_time,
    warnings_of,
)
from qwen_asr.tls.managed_files import fingerprint
from qwen_asr.tls.pem import UNREADABLE, certificates_in, key_in, read_pem
from qwen_asr.tls.preflight import chain_warnings, check_pair, leaf_of, load_context

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
    """What is said of some files, line by line.

    `problems` counts what would keep a server from starting, `missing` the files that are not there.
    """

    lines: list[str] = field(default_factory=list)
    problems: int = 0
    missing: int = 0

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)

    def fact(self, name: str, value: str) -> None:
        """A line in a table of names and values."""
        self.lines.append(f"  {name:12}{value}")

    def problem(self, error: CertificateError) -> None:
        """What is wrong, with its remedy."""
        self.fact("PROBLEM", str(error))
        self.problems += 1


@dataclass(frozen=True)
class _Key:
    path: Path
    key: PrivateKeyTypes


@dataclass(frozen=True)
class _Known:
    """All that was given, and what is needed to judge it."""

    keys: list[_Key]
    certificates: list[tuple[x509.Certificate, ...]]  # of each file
    password: str | None
    now: datetime

    def is_orphan(self, key: _Key) -> bool:
        """Whether none of the files is for that key."""
        return all(leaf_of(key.key.public_key(), found) is None for found in self.certificates)

    @property
    def any_may_serve(self) -> bool:
        """Whether one of the files holds a certificate to serve with, and not authorities' alone."""
        return any(may_serve(one) for found in self.certificates for one in found)


def show(names: Sequence[str], password: str | None, folder: Path = FOLDER, now: datetime | None = None) -> Report:
    """What the files are; of none, the program's own in `folder`. Raises CertificateError where there are none."""
    now = datetime.now(UTC) if now is None else now
    paths = [Path(name) for name in names] or _own_files(folder)
    report = Report()
    keys = [key for path in paths if (key := _readable_key(path, password)) is not None]
    known = _Known(keys, [one for path in paths if (one := _readable_certificates(path))], password, now)
    for path in paths:
        report.lines.append(f"{path}:")
        report.missing += not _is_there(path)
        try:
            _show_file(report, path, known)
        except CertificateError as error:
            report.problem(error)
        except UNREADABLE:
            report.problem(CertificateError(f"{path} is malformed inside: have the authority make it anew."))
    return report


def _own_files(folder: Path) -> list[Path]:
    found = [folder / name for name in OWN_FILES if (folder / name).exists()]
    if not found:
        raise CertificateError(
            f"No file was given, and {folder.absolute()} holds none that the program made: give the files, or start "
            "the server with --generate-self-signed-cert or --local-ca."
        )
    return found


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a folder that this user may not look into


def _readable_key(path: Path, password: str | None) -> _Key | None:
    try:
        file = read_pem(path)
        return _Key(path, key_in(file, password)) if file.key_block else None
    except CertificateError:
        return None  # said where the file itself is shown


def _readable_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return certificates_in(read_pem(path))
    except CertificateError:
        return ()


def _show_file(report: Report, path: Path, known: _Known) -> None:
    file = read_pem(path)
    if file.certificate_blocks:
        _show_certificate(report, path, known)
    elif file.key_block:
        report.fact("is", "an encrypted private key" if file.is_encrypted else "a private key")
        key = key_in(file, known.password)
        report.fact("key", key_type(key.public_key()))  # type: ignore[arg-type]  # of any kind: it is named
        if known.certificates and known.is_orphan(_Key(path, key)):
            report.fact("fits", "none of the certificates that were given")
        if not known.certificates:
            raise CertificateError(f"{path} holds a key and no certificate: name the file of its certificate too.")
    else:
        raise CertificateError(f"{path} holds no certificate and no private key, but {file.described()}.")


def _show_certificate(report: Report, path: Path, known: _Known) -> None:
    found = certificates_in(read_pem(path))
    fitting = [(leaf, key) for key in known.keys if (leaf := leaf_of(key.key.public_key(), found)) is not None]
    leaf, key = fitting[0] if fitting else (next(filter(may_serve, found), found[0]), None)
    chain = sort_chain(leaf, found)
    report.fact("is", _kind(leaf, len(found)))
    report.fact("for", listed(dns_and_ip_names(leaf)) or common_name(leaf.subject))
    report.fact("from", " ← ".join(common_name(one.issuer) for one in (leaf, *chain.certificates)))
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    left = max((ends - known.now).days, 0)
    report.fact("valid", f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, {left} days left")
    report.fact("key", key_type(leaf.public_key()))
    report.fact("SHA-256", fingerprint(leaf))
    if key is not None:
        report.fact("fits", f"the key in {key.path}")
    elif known.keys:
        report.fact("fits", "none of the keys that were given")
    if _is_local_root(leaf):
        refuse_wrong_time(path, leaf, known.now)
        report.fact("to do", "install it on the devices, as the page /trust explains; keep its key where it is")
    else:
        _judge(report, path, leaf, key, known)


def _judge(report: Report, path: Path, leaf: x509.Certificate, key: _Key | None, known: _Known) -> None:
    """What is wrong with it, what may bother somebody, or that it is fine."""
    if key is None and (may_serve(leaf) or not known.any_may_serve):
        # A key that fits nothing was meant for this one: check_pair says that it does not fit.
        key = next((other for other in known.keys if known.is_orphan(other)), None)
    if key is None:
        chain = sort_chain(leaf, certificates_in(read_pem(path)))
        refuse_weak(path, leaf, chain.certificates)
        refuse_wrong_time(path, leaf, known.now)
        warnings = (*chain_warnings(path, chain), *warnings_of(path, leaf, chain.certificates, known.now))
    else:
        checked = check_pair(path, key.path if key.path != path else None, known.password, known.now)
        load_context(checked)
        warnings = checked.warnings
    for warning in warnings:
        report.fact("note", warning)
    if key is None and may_serve(leaf):
        raise CertificateError(f"{path} can serve only with its key, which was not given: name the key's file too.")
    if not warnings:
        report.fact("to do", "nothing")


def _is_local_root(certificate: x509.Certificate) -> bool:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    return [name.value for name in names] == [local_ca.CA_MARK.text]


def _kind(leaf: x509.Certificate, count: int) -> str:
    own, authority = is_self_issued(leaf), is_authority(leaf) and not may_serve(leaf)
    what = "a self-signed certificate" if own and not authority else "a certificate"
    if authority:
        what = "the certificate of an authority" + (", a root" if own else ", an intermediate one")
    return what + (f" with {count - 1} more behind it" if count > 1 else "")


def renew(names: Sequence[str], folder: Path = FOLDER) -> Report:
    """Makes the program's own certificates anew; of none, all that are in `folder`.

    Raises CertificateError for files that the program did not make.
    """
    report = Report()
    for path in [Path(name) for name in names] or _own_files(folder):
        make = _MAKERS.get(path.name)
        if names and (make is None or not path.exists()):
            raise CertificateError(
                f"{path} is not a certificate that the program made: renew it where it came from (certbot renew, "
                "or your authority)."
            )
        if make is not None:
            report.lines.append(f"{path}: {make(path.parent)}")
    if not report.lines:
        raise CertificateError(f"{folder.absolute()} holds no certificate to renew: start the server with --local-ca.")
    report.lines.append("A server that runs with an old one has to be started again, unless it reads its files anew.")
    return report


def _renew_self_signed(folder: Path) -> str:
    files = self_signed.ensure_self_signed(folder, renew=True)
    return f"made anew, SHA-256 {files.fingerprint}; browsers will ask again."


def _renew_leaf(folder: Path) -> str:
    local = local_ca.ensure_local_ca(folder, renew=True)
    root = "which each device has to install" if local.root.made else "which stays, and so no browser will ask"
    return f"made anew, SHA-256 {local.files.fingerprint}, signed by {local.root.certfile}, {root}."


_MAKERS: dict[str, Callable[[Path], str]] = {
    self_signed.CERTIFICATE_NAME: _renew_self_signed,
    local_ca.LEAF_NAME: _renew_leaf,
}
