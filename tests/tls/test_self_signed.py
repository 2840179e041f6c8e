"""The self-signed certificate: contents as OpenSSL reads them, when it is replaced, and who can read the key."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, names_of, own_names
from qwen_asr.tls.managed_files import new_key
from qwen_asr.tls.self_signed import CERTIFICATE_NAME, KEY_NAME, ensure_self_signed, self_sign

NOW = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)
NAMES = names_of([ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("fd00::7")], ["studio", "studio.local"])


@pytest.fixture(autouse=True)
def _restore_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def openssl(program: Callable[[str], str]) -> Callable[..., str]:
    """`openssl(arguments…)` returns the command's output; the test fails if the command does."""
    path = program("openssl")

    def run(*arguments: str | Path) -> str:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_openssl_reads_the_expected_fields(tmp_path: Path, openssl: Callable[..., str]) -> None:
    files = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    text = openssl("x509", "-in", files.certfile, "-noout", "-text")
    flat = " ".join(text.split())
    for expected in (
        "Version: 3",
        "Public Key Algorithm: id-ecPublicKey",
        "ASN1 OID: prime256v1",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Basic Constraints: critical CA:FALSE",
        "Key Usage: critical Digital Signature X509v3",
        "Extended Key Usage: TLS Web Server Authentication",
        "DNS:localhost, DNS:studio, DNS:studio.local, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, "
        "IP Address:192.0.2.7, IP Address:FD00:0:0:0:0:0:0:7",
        "Subject Key Identifier",
        "Not Before: May 17 11:00:00 2030 GMT Not After : May 17 11:00:00 2031 GMT",  # 365 days
    ):
        assert expected in flat


def test_openssl_verifies_it_strictly_for_each_name(tmp_path: Path, openssl: Callable[..., str]) -> None:
    files = ensure_self_signed(tmp_path, names=NAMES)
    trusted = ("-CAfile", files.certfile, "-x509_strict", "-purpose", "sslserver")
    for name in NAMES.dns:
        assert openssl("verify", *trusted, "-verify_hostname", name, files.certfile).endswith("OK\n")
    for address in NAMES.ips:
        assert openssl("verify", *trusted, "-verify_ip", str(address), files.certfile).endswith("OK\n")
    assert "Key is valid" in openssl("pkey", "-in", files.keyfile, "-check", "-noout")


def test_a_client_that_trusts_it_connects_by_name_and_address(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path)
    client = ssl.create_default_context(cafile=str(files.certfile))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certfile, files.keyfile)
    for name in ("localhost", "127.0.0.1"):
        assert _handshake(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.org"):
        _handshake(server, client, "example.org")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    client_end, server_end = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(server_end, server_side=True):
                pass
        except OSError:
            server_end.close()  # the client rejected the certificate, as some tests expect

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_end, client.wrap_socket(client_end, server_hostname=name) as connection:
            return connection.version()
    finally:
        thread.join()


def test_it_is_reused_while_it_is_suitable(tmp_path: Path) -> None:
    made = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    before = made.certfile.read_bytes(), made.keyfile.read_bytes()
    again = ensure_self_signed(tmp_path, names=NAMES, now=NOW + timedelta(days=242))
    assert (made.newly_created, again.newly_created) == (True, False)
    assert again.fingerprint == made.fingerprint
    assert (again.certfile.read_bytes(), again.keyfile.read_bytes()) == before


@pytest.mark.parametrize("days", [244, 364, 400, -1])
def test_it_is_replaced_near_expiry_and_outside_its_validity(tmp_path: Path, days: int) -> None:
    made = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    assert ensure_self_signed(tmp_path, names=NAMES, now=NOW + timedelta(days=days)).fingerprint != made.fingerprint


def test_it_is_replaced_for_a_new_address_or_name_but_not_for_a_removed_one(tmp_path: Path) -> None:
    made = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    fewer = Names(NAMES.dns[:1], NAMES.ips[:2])
    assert not ensure_self_signed(tmp_path, names=fewer, now=NOW).newly_created
    moved = names_of([ipaddress.ip_address("192.0.2.8")], NAMES.dns)
    renewed = ensure_self_signed(tmp_path, names=moved, now=NOW)
    assert renewed.newly_created
    assert renewed.fingerprint != made.fingerprint
    assert ensure_self_signed(tmp_path, names=Names((*NAMES.dns, "other"), moved.ips), now=NOW).newly_created


def test_it_is_reused_with_the_names_of_this_machine(tmp_path: Path) -> None:
    assert ensure_self_signed(tmp_path / "certs").newly_created
    assert not ensure_self_signed(tmp_path / "certs").newly_created
    certificate = x509.load_pem_x509_certificate((tmp_path / "certs" / CERTIFICATE_NAME).read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(named.get_values_for_type(x509.IPAddress)) == set(own_names().ips)


def _key_of_another_certificate(folder: Path) -> None:
    other = ensure_self_signed(folder / "other", names=NAMES, now=NOW)
    other.keyfile.replace(folder / KEY_NAME)


def _damaged_key(folder: Path) -> None:
    path = folder / KEY_NAME
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / KEY_NAME).unlink(),
        lambda folder: (folder / CERTIFICATE_NAME).unlink(),
        lambda folder: (folder / KEY_NAME).chmod(0o640),
        _key_of_another_certificate,
        _damaged_key,
    ],
    ids=["no key", "no certificate", "key readable by others", "key of another certificate", "damaged key"],
)
def test_an_incomplete_pair_is_replaced(tmp_path: Path, change: Callable[[Path], None]) -> None:
    ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    change(tmp_path)
    renewed = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    assert renewed.newly_created
    _load_pair(renewed.certfile, renewed.keyfile)
    assert not ensure_self_signed(tmp_path, names=NAMES, now=NOW).newly_created


def _load_pair(certfile: Path, keyfile: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o377, 0o777])
def test_the_key_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    seen: set[int] = set()
    watched = threading.Event()

    def watch() -> None:
        while not watched.is_set():
            seen.update(_mode(path) for path in folder.glob(f"*{KEY_NAME}*") if path.exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    os.umask(umask)
    try:
        files = [ensure_self_signed(folder, names=NAMES, now=NOW + timedelta(days=400 * n)) for n in range(20)]
    finally:
        os.umask(0o022)
        watched.set()
        watcher.join()
    assert not any(mode & 0o077 for mode in seen)
    assert _mode(files[-1].keyfile) == 0o600
    assert _mode(files[-1].certfile) == 0o644
    assert sorted(path.name for path in folder.iterdir()) == [CERTIFICATE_NAME, KEY_NAME]


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:  # it was renamed between the two calls
        return 0


def _user_pair(certfile: Path, keyfile: Path) -> None:
    """A self-signed certificate and key that the program did not create."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, "Another organization")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=90))
    certfile.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize("kept", [[CERTIFICATE_NAME], [KEY_NAME], [CERTIFICATE_NAME, KEY_NAME]])
def test_files_of_the_user_are_never_changed(tmp_path: Path, kept: list[str]) -> None:
    _user_pair(tmp_path / CERTIFICATE_NAME, tmp_path / KEY_NAME)
    for name in {CERTIFICATE_NAME, KEY_NAME} - set(kept):
        (tmp_path / name).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CertificateError, match=f"{kept[0]} was not made by .* move it away"):
        ensure_self_signed(tmp_path, names=NAMES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_certificate_with_the_mark_but_another_signer_is_not_ours(tmp_path: Path) -> None:
    marked = self_sign(new_key(), NAMES, NOW)
    builder = x509.CertificateBuilder().subject_name(marked.subject).issuer_name(marked.subject)
    builder = builder.public_key(new_key().public_key()).serial_number(1)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=90))
    # Not self-signed: it comes from an authority of that name.
    (tmp_path / CERTIFICATE_NAME).write_bytes(builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(CertificateError, match="left untouched"):
        ensure_self_signed(tmp_path, names=NAMES)


@given(content=st.binary(max_size=200), name=st.sampled_from([CERTIFICATE_NAME, KEY_NAME]))
@settings(deadline=None, max_examples=50)
def test_any_other_content_is_left_untouched(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("certs")
    (folder / name).write_bytes(content)
    with pytest.raises(CertificateError, match="left untouched"):
        ensure_self_signed(folder, names=NAMES)
    assert [path.read_bytes() for path in folder.iterdir()] == [content]


@pytest.mark.parametrize(("name", "kind"), [(CERTIFICATE_NAME, "certificate"), (KEY_NAME, "key")])
def test_the_error_describes_an_empty_or_unreadable_file(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CertificateError, match=f"{name} is empty, .* delete it"):
        ensure_self_signed(tmp_path, names=NAMES)
    (tmp_path / name).write_bytes(b"garbage\xff")
    with pytest.raises(CertificateError, match=f"{name} is not a readable {kind}, .* delete it"):
        ensure_self_signed(tmp_path, names=NAMES)


def test_a_dangling_link_is_left_untouched(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).symlink_to(tmp_path / "not there yet")
    with pytest.raises(CertificateError, match="left untouched"):
        ensure_self_signed(tmp_path, names=NAMES)
    assert (tmp_path / KEY_NAME).is_symlink()


def test_the_error_names_a_path_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CertificateError, match=r"file is not a folder, .* move it away or rename it"):
        ensure_self_signed(tmp_path / "file", names=NAMES)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CertificateError, match="link is not a folder"):
        ensure_self_signed(tmp_path / "link", names=NAMES)
    (tmp_path / CERTIFICATE_NAME).mkdir()
    with pytest.raises(CertificateError, match=f"{CERTIFICATE_NAME} is a folder, .* move it away"):
        ensure_self_signed(tmp_path, names=NAMES)


def test_an_encrypted_key_with_the_mark_is_replaced_without_a_prompt(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path, names=NAMES, now=NOW)
    mark = files.keyfile.read_bytes().splitlines(keepends=True)[0]
    secret = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files.keyfile.write_bytes(mark + secret)
    assert ensure_self_signed(tmp_path, names=NAMES, now=NOW).newly_created


@pytest.mark.slow
@given(
    st.lists(st.ip_addresses(), max_size=30),
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.local", fullmatch=True), max_size=5),
)
@settings(deadline=None, max_examples=50)
def test_the_certificate_contains_any_names_of_the_machine(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], hosts: list[str]
) -> None:
    names = names_of(addresses, hosts)
    key = new_key()
    certificate = self_sign(key, names, NOW)
    certificate.verify_directly_issued_by(certificate)
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(named.get_values_for_type(x509.IPAddress)) == names.ips
    assert tuple(named.get_values_for_type(x509.DNSName)) == names.dns
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=365)
    assert 0 < certificate.serial_number.bit_length() <= 159


def test_serial_numbers_and_keys_are_unique(tmp_path: Path) -> None:
    made = [ensure_self_signed(tmp_path / str(n), names=NAMES, now=NOW) for n in range(5)]
    serials = {x509.load_pem_x509_certificate(files.certfile.read_bytes()).serial_number for files in made}
    keys = {load_pem_private_key(files.keyfile.read_bytes(), None).private_bytes(*_RAW) for files in made}
    assert (len(serials), len(keys)) == (5, 5)


_RAW = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
