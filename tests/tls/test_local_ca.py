"""The local CA: its constraints as OpenSSL enforces them, when files are reused or replaced, file permissions."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, names_of
from qwen_asr.tls.certificates import (
    ServerCertificate,
    load_local_ca_certificate,
    load_self_signed_certificate,
    load_user_certificate,
)
from qwen_asr.tls.local_ca import CA_KEY_NAME, CA_NAME, LEAF_KEY_NAME, LEAF_NAME, LocalCertificate, ensure_local_ca
from qwen_asr.tls.preflight import check_pair
from qwen_asr.tls.report import describe
from tests.support.certificates import DAY, Issued, issue, new_ec

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = names_of(
    [ip_address("192.168.7.7"), ip_address("203.0.113.9"), ip_address("fd00::7")],
    ["studio", "studio.local", "box.example.org", "asr-2"],
)


@pytest.fixture(autouse=True)
def _restore_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def ensure(folder: Path, names: Names = NAMES, days: float = 0, *, renew: bool = False) -> LocalCertificate:
    return ensure_local_ca(folder, names=names, now=NOW + timedelta(days=days), renew=renew)


def signer(folder: Path) -> Issued:
    """The root with its key, as somebody who stole the key would use it."""
    certificate = x509.load_pem_x509_certificate((folder / CA_NAME).read_bytes())
    return Issued(certificate, load_pem_private_key((folder / CA_KEY_NAME).read_bytes(), None))


@pytest.fixture
def verify(tmp_path: Path, program: Callable[[str], str]) -> Callable[..., str]:
    """`verify(certificate, option…)` is openssl's verdict with the root in `tmp_path`: "OK" or the error."""
    openssl = program("openssl")

    def run(certificate: bytes, *options: str) -> str:
        (tmp_path / "verified.pem").write_bytes(certificate)
        trusted: list[str | Path] = ["-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / CA_NAME]
        command = [openssl, "verify", *trusted, *options, tmp_path / "verified.pem"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "OK" if done.returncode == 0 else done.stderr + done.stdout

    return run


def test_openssl_accepts_the_server_certificate_for_every_name(tmp_path: Path, verify: Callable[..., str]) -> None:
    local = ensure(tmp_path)
    leaf = local.files.certfile.read_bytes()
    assert local.excluded == ()
    for name in NAMES.dns:
        assert verify(leaf, "-verify_hostname", name) == "OK"
    for address in NAMES.ips:
        assert verify(leaf, "-verify_ip", str(address)) == "OK"


@pytest.mark.parametrize(
    "names",
    [["bank.example.com"], ["localhost", "bank.example.com"], ["example.org"], ["www.studio"], ["192.0.2.1"],
     ["2001:db8::1"], ["203.0.113.10"], ["locally"]],
)  # fmt: skip
def test_openssl_rejects_names_outside_the_constraints(
    tmp_path: Path, verify: Callable[..., str], names: list[str]
) -> None:
    ensure(tmp_path)
    output = verify(issue("x", signer(tmp_path), names=names).pem)
    assert "subtree violation" in output


def test_openssl_rejects_an_intermediate_ca(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    below = issue("below", signer(tmp_path), ca=True)
    (tmp_path / "below.pem").write_bytes(below.pem)
    assert verify(issue("x", below).pem, "-untrusted", str(tmp_path / "below.pem")) != "OK"


def misused(folder: Path, names: list[x509.GeneralName], usage: x509.ObjectIdentifier, mail: str = "") -> bytes:
    """A certificate as somebody who stole the root's key might sign it, for other things than servers."""
    by, key = signer(folder), new_ec()
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, "x")]
    attributes += [x509.NameAttribute(NameOID.EMAIL_ADDRESS, mail)] if mail else []
    builder = x509.CertificateBuilder().subject_name(x509.Name(attributes)).public_key(key.public_key())
    builder = builder.issuer_name(by.certificate.subject).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    for extension in (
        x509.BasicConstraints(False, None),
        x509.ExtendedKeyUsage([usage]),
        x509.SubjectAlternativeName(names),
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()),
    ):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("names", "mail"),
    [
        ([x509.RFC822Name("anna@bank.example.com")], ""),
        ([x509.RFC822Name("root@localhost")], ""),
        ([x509.DNSName("studio")], "anna@bank.example.com"),  # in the subject, as old certificates for mail have it
        ([x509.UniformResourceIdentifier("https://bank.example.com/")], ""),
        ([x509.UniformResourceIdentifier("spiffe://studio/service")], ""),
        ([x509.UniformResourceIdentifier("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6")], ""),
    ],
)
def test_openssl_rejects_addresses_of_mail_and_uris(
    tmp_path: Path, verify: Callable[..., str], names: list[x509.GeneralName], mail: str
) -> None:
    ensure(tmp_path)
    for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION):
        output = verify(misused(tmp_path, names, usage, mail), "-purpose", "any")
        assert "subtree violation" in output or "unsupported or invalid name" in output


@pytest.mark.parametrize(
    ("purpose", "usage"),
    [("sslclient", ExtendedKeyUsageOID.CLIENT_AUTH), ("smimesign", ExtendedKeyUsageOID.EMAIL_PROTECTION)],
)
def test_openssl_rejects_other_uses_than_a_server(
    tmp_path: Path, verify: Callable[..., str], purpose: str, usage: x509.ObjectIdentifier
) -> None:
    ensure(tmp_path)
    output = verify(misused(tmp_path, [x509.DNSName("studio")], usage), "-purpose", purpose)
    assert "error 26 at 1 depth lookup" in output  # the root's purpose, not the certificate's


@pytest.mark.parametrize("strict", [False, True])
def test_python_accepts_the_server_certificate(tmp_path: Path, strict: bool) -> None:
    ensure(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / LEAF_NAME, tmp_path / LEAF_KEY_NAME)
    trusting = ssl.create_default_context(cafile=str(tmp_path / CA_NAME))
    if strict:
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in (*NAMES.dns, *map(str, NAMES.ips)):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(to_server, to_client, server_side=True)
        client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
        for side in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        assert client.getpeercert() is not None


def as_version_0_1_made_it(root: Issued) -> bytes:
    """The root without an extended key usage, and without constraints for e-mail and URIs."""
    certificate = root.certificate
    builder = x509.CertificateBuilder().subject_name(certificate.subject).issuer_name(certificate.issuer)
    builder = builder.public_key(certificate.public_key()).serial_number(certificate.serial_number)
    builder = builder.not_valid_before(certificate.not_valid_before_utc).not_valid_after(
        certificate.not_valid_after_utc
    )
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage):
            continue
        if isinstance(value, x509.NameConstraints):
            permitted = [name for name in value.permitted_subtrees or () if name.value != "invalid"]
            value = x509.NameConstraints(permitted, value.excluded_subtrees)
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(root.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_root_of_an_earlier_version_is_kept_and_its_owner_told(
    tmp_path: Path, verify: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    assert ensure(tmp_path).note is None
    installed = as_version_0_1_made_it(signer(tmp_path))
    (tmp_path / CA_NAME).write_bytes(installed)
    kept = ensure(tmp_path, renew=True)
    assert not kept.root.newly_created
    assert (tmp_path / CA_NAME).read_bytes() == installed
    assert verify(kept.files.certfile.read_bytes()) == "OK"
    assert kept.note is not None
    assert f"{tmp_path / CA_NAME} was made by an earlier version" in kept.note
    with caplog.at_level("INFO"):
        load_local_ca_certificate(tmp_path)
    assert kept.note in caplog.text
    report = describe([str(tmp_path / CA_NAME)], None, now=NOW)
    assert any(kept.note in line for line in report.lines)
    # What the note says to do: devices with either root accept the server then.
    (tmp_path / CA_NAME).unlink()
    limited = ensure(tmp_path)
    assert limited.root.newly_created
    assert limited.note is None
    assert verify(limited.files.certfile.read_bytes()) == "OK"
    (tmp_path / CA_NAME).write_bytes(installed)
    assert verify(limited.files.certfile.read_bytes()) == "OK"


def test_the_root_contains_the_constraints(tmp_path: Path) -> None:
    ensure(tmp_path)
    root = signer(tmp_path).certificate
    constraints = root.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    permitted = {str(name.value) for name in constraints.value.permitted_subtrees or ()}
    assert permitted == {
        "localhost", "local", "studio", "box.example.org", "asr-2", "203.0.113.9/32", "10.0.0.0/8", "172.16.0.0/12",
        "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10", "invalid",
    }  # fmt: skip
    kinds = [type(name) for name in constraints.value.permitted_subtrees or () if name.value == "invalid"]
    assert kinds == [x509.RFC822Name, x509.UniformResourceIdentifier]
    usage = root.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert [name.value for name in constraints.value.excluded_subtrees or ()] == [".studio"]
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)


def test_the_leaf_is_short_lived_and_has_a_complete_chain(tmp_path: Path) -> None:
    files = ensure(tmp_path).files
    checked = check_pair(files.certfile, files.keyfile, None, NOW)
    assert checked.not_valid_after - checked.not_valid_before == timedelta(days=397)
    assert not any("lacks" in warning for warning in checked.warnings)


def test_both_are_reused_while_they_are_suitable(tmp_path: Path) -> None:
    first = ensure(tmp_path)
    assert (first.files.newly_created, first.root.newly_created) == (True, True)
    again = ensure(tmp_path, days=260)
    assert (again.files.newly_created, again.root.newly_created) == (False, False)
    assert again.files.fingerprint == first.files.fingerprint


@pytest.mark.parametrize("change", ["near expiry", "a new address", "requested", "no leaf", "no key", "readable key"])
def test_the_leaf_is_replaced_and_the_root_is_kept(tmp_path: Path, change: str, verify: Callable[..., str]) -> None:
    first = ensure(tmp_path)
    root = (tmp_path / CA_NAME).read_bytes()
    names = Names(NAMES.dns, (*NAMES.ips, ip_address("192.168.7.8"))) if change == "a new address" else NAMES
    if change == "no leaf":
        (tmp_path / LEAF_NAME).unlink()
    elif change == "no key":
        (tmp_path / LEAF_KEY_NAME).unlink()
    elif change == "readable key":
        (tmp_path / LEAF_KEY_NAME).chmod(0o644)
    days = 270 if change == "near expiry" else 0
    renewed = ensure(tmp_path, names, days, renew=change == "requested")
    assert (renewed.files.newly_created, renewed.root.newly_created) == (True, False)
    assert renewed.files.fingerprint != first.files.fingerprint
    assert (tmp_path / CA_NAME).read_bytes() == root
    at = str(int((NOW + days * DAY).timestamp()))
    assert verify(renewed.files.certfile.read_bytes(), "-attime", at) == "OK"


def test_names_that_the_root_excludes_are_left_out_and_reported(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    moved = ensure(tmp_path, names_of([ip_address("198.51.100.4")], ["stage", "stage.local"]))
    assert moved.excluded == ("stage", "198.51.100.4")
    assert verify(moved.files.certfile.read_bytes(), "-verify_hostname", "stage.local") == "OK"


def test_openssl_accepts_allowed_hosts(tmp_path: Path, verify: Callable[..., str]) -> None:
    local = ensure(
        tmp_path, names_of([ip_address("198.51.100.4")], ["home", "asr.home", "*.corp.example", "a.localhost"])
    )
    assert local.excluded == ()
    leaf = local.files.certfile.read_bytes()
    for name in ("localhost", "asr.home", "x.corp.example", "a.localhost"):
        assert verify(leaf, "-verify_hostname", name) == "OK"
    assert verify(leaf, "-verify_ip", "198.51.100.4") == "OK"
    # The root of a machine that is called like a top-level domain must not sign for all of that domain.
    assert "hostname mismatch" in verify(leaf, "-verify_hostname", "home")
    for name in ("bank.home", "bank.example"):
        assert "permitted subtree violation" in verify(issue("x", signer(tmp_path), names=[name]).pem)


def test_a_name_below_an_excluded_one_is_left_out_and_reported(
    tmp_path: Path, verify: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    ensure(tmp_path, names_of([], ["studio"]))
    moved = ensure(tmp_path, names_of([], ["asr.studio"]))
    assert moved.excluded == ("asr.studio",)
    assert verify(moved.files.certfile.read_bytes(), "-verify_hostname", "localhost") == "OK"
    load_local_ca_certificate(tmp_path, allowed_hosts=["asr.home.arpa"])
    assert "must not sign for " in caplog.text
    assert "asr.home.arpa" in caplog.text
    assert "move it away to create a CA that may" in caplog.text


def test_a_root_near_expiry_is_replaced(tmp_path: Path) -> None:
    ensure(tmp_path)
    assert not ensure(tmp_path, days=3600).root.newly_created
    late = x509.load_pem_x509_certificate((tmp_path / LEAF_NAME).read_bytes())
    assert late.not_valid_after_utc <= signer(tmp_path).certificate.not_valid_after_utc
    assert ensure(tmp_path, days=3625).root.newly_created


def test_a_missing_root_is_created_again_with_the_same_key(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    installed = (tmp_path / CA_NAME).read_bytes()
    (tmp_path / CA_NAME).unlink()
    leaf = ensure(tmp_path, renew=True).files.certfile.read_bytes()
    (tmp_path / CA_NAME).write_bytes(installed)  # the one that is installed on phones
    assert verify(leaf) == "OK"


def test_without_the_root_key_the_leaf_is_used_until_it_expires(tmp_path: Path) -> None:
    ensure(tmp_path)
    (tmp_path / CA_KEY_NAME).unlink()
    assert not ensure(tmp_path).files.newly_created
    with pytest.raises(CertificateError, match=f"{CA_KEY_NAME} is missing or damaged, .* restore it, or move"):
        ensure(tmp_path, renew=True)


@pytest.mark.parametrize("name", [CA_NAME, CA_KEY_NAME, LEAF_NAME, LEAF_KEY_NAME])
@pytest.mark.parametrize("content", [b"", b"garbage", issue().pem, issue().key_pem()])
def test_files_of_the_user_are_never_changed(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CertificateError, match=f"{name} .* is left untouched: .*move it away"):
        ensure(tmp_path)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / CA_KEY_NAME).chmod(0o440), "can be read by other users, .* chmod 400"),
        (lambda folder: _replace_ca_key(folder), "do not belong together: restore"),
    ],
)
def test_an_untrustworthy_root_is_not_used(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    ensure(tmp_path)
    change(tmp_path)
    with pytest.raises(CertificateError, match=message):
        ensure(tmp_path)


def test_a_clock_that_was_set_back_is_reported(tmp_path: Path) -> None:
    ensure(tmp_path)
    with pytest.raises(CertificateError, match="set the clock"):
        ensure(tmp_path, days=-2)


def _replace_ca_key(folder: Path) -> None:
    ensure(folder / "other")
    (folder / "other" / CA_KEY_NAME).replace(folder / CA_KEY_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_keys_are_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    seen: set[tuple[str, int]] = set()
    opened: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in folder.iterdir():
                try:
                    seen.add((path.name, stat.S_IMODE(path.stat().st_mode)))
                except FileNotFoundError:
                    continue  # it was renamed in the meantime

    watcher = threading.Thread(target=watch)
    watcher.start()
    os.umask(umask)
    try:
        for number in range(20):
            for name in (CA_NAME, CA_KEY_NAME) if number % 2 else ():
                (folder / name).unlink(missing_ok=True)
            ensure(folder, renew=True)
            opened += [stat.S_IMODE((folder / name).stat().st_mode) for name in (CA_KEY_NAME, LEAF_KEY_NAME)]
    finally:
        os.umask(0o022)
        done.set()
        watcher.join()
    assert {name for name, _ in seen} >= {CA_KEY_NAME, LEAF_KEY_NAME}
    assert [mode for name, mode in seen if "key" in name and mode & 0o077] == []
    assert set(opened) == {0o400, 0o600}
    assert sorted(path.name for path in folder.iterdir()) == [CA_NAME, CA_KEY_NAME, LEAF_NAME, LEAF_KEY_NAME]


def test_key_files_are_created_with_their_final_mode(tmp_path: Path, program: Callable[[str], str]) -> None:
    """Checks the system calls, which polling may miss, under a umask of 0."""
    created: list[tuple[str, int]] = []
    real = os.open

    def watched(path: str | Path, flags: int, mode: int = 0o777, **options: int) -> int:
        if flags & os.O_CREAT:
            created.append((Path(path).name, mode))
            assert flags & os.O_EXCL
        return real(path, flags, mode, **options)

    os.umask(0)
    os.open = watched  # type: ignore[assignment]  # a wrapper that calls the real one
    try:
        ensure(tmp_path)
        load_self_signed_certificate(tmp_path)
    finally:
        os.open = real
    assert {mode for name, mode in created if "key" in name} == {0o400, 0o600}
    assert len([name for name, _ in created if "key" in name]) == 3


@pytest.mark.parametrize("load", [load_local_ca_certificate, load_self_signed_certificate])
def test_created_certificates_load_without_a_warning(
    tmp_path: Path, load: Callable[[Path], ServerCertificate], caplog: pytest.LogCaptureFixture
) -> None:
    created = load(tmp_path)
    assert created.own
    assert (created.root is not None) == (load is load_local_ca_certificate)
    assert caplog.records == []
    loaded = load_user_certificate(created.checked.certfile, created.checked.keyfile)
    assert not loaded.own
    assert loaded.root is None
    assert replace(loaded.checked, warnings=()) == created.checked


def test_the_leaf_file_contains_the_root_too(tmp_path: Path) -> None:
    ensure(tmp_path)
    content = (tmp_path / LEAF_NAME).read_bytes()
    assert content.count(b"BEGIN CERTIFICATE") == 2
    assert content.endswith(signer(tmp_path).certificate.public_bytes(Encoding.PEM))
