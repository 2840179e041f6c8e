"""The private authority: what it may vouch for as openssl sees it, what is kept, what is made anew, who reads."""

from __future__ import annotations

import os
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
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from qwen_asr.config.config import Config
from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import Names, names_of
from qwen_asr.tls.certificates import choose_certificate
from qwen_asr.tls.local_ca import CA_KEY_NAME, CA_NAME, LEAF_KEY_NAME, LEAF_NAME, LocalCertificate, ensure_local_ca
from qwen_asr.tls.preflight import check_pair
from tests.support.certificates import DAY, Issued, issue

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = names_of(
    [ip_address("192.168.7.7"), ip_address("203.0.113.9"), ip_address("fd00::7")],
    ["studio", "studio.local", "box.example.org", "asr-2"],
)


@pytest.fixture(autouse=True)
def _umask_as_it_was() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def ensure(folder: Path, names: Names = NAMES, days: float = 0, *, renew: bool = False) -> LocalCertificate:
    return ensure_local_ca(folder, names=names, now=NOW + timedelta(days=days), renew=renew)


def signer(folder: Path) -> Issued:
    """The root with its key, as a thief would use it."""
    certificate = x509.load_pem_x509_certificate((folder / CA_NAME).read_bytes())
    return Issued(certificate, load_pem_private_key((folder / CA_KEY_NAME).read_bytes(), None))


@pytest.fixture
def verify(tmp_path: Path, program: Callable[[str], str]) -> Callable[..., str]:
    """`verify(certificate, option…)` is what openssl says of it under the root in `tmp_path`."""
    openssl = program("openssl")

    def run(certificate: bytes, *options: str) -> str:
        (tmp_path / "judged.pem").write_bytes(certificate)
        trusted = ["-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / CA_NAME]
        command = [openssl, "verify", *trusted, *options, tmp_path / "judged.pem"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "OK" if done.returncode == 0 else done.stderr + done.stdout

    return run


def test_openssl_accepts_the_server_s_certificate_for_every_name(tmp_path: Path, verify: Callable[..., str]) -> None:
    local = ensure(tmp_path)
    leaf = local.files.certfile.read_bytes()
    assert local.left_out == ()
    for name in NAMES.dns:
        assert verify(leaf, "-verify_hostname", name) == "OK"
    for address in NAMES.ips:
        assert verify(leaf, "-verify_ip", str(address)) == "OK"


@pytest.mark.parametrize(
    "names",
    [["bank.example.com"], ["localhost", "bank.example.com"], ["example.org"], ["www.studio"], ["192.0.2.1"],
     ["2001:db8::1"], ["203.0.113.10"], ["locally"]],
)  # fmt: skip
def test_openssl_refuses_what_the_authority_may_not_sign(
    tmp_path: Path, verify: Callable[..., str], names: list[str]
) -> None:
    ensure(tmp_path)
    said = verify(issue("x", signer(tmp_path), names=names).pem)
    assert "subtree violation" in said


def test_openssl_refuses_an_authority_below_it(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    below = issue("below", signer(tmp_path), ca=True)
    (tmp_path / "below.pem").write_bytes(below.pem)
    assert verify(issue("x", below).pem, "-untrusted", str(tmp_path / "below.pem")) != "OK"


def test_the_root_says_so_itself(tmp_path: Path) -> None:
    ensure(tmp_path)
    root = signer(tmp_path).certificate
    constraints = root.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    permitted = {str(name.value) for name in constraints.value.permitted_subtrees or ()}
    assert permitted == {
        "localhost", "local", "studio", "box.example.org", "asr-2", "203.0.113.9/32", "10.0.0.0/8", "172.16.0.0/12",
        "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10",
    }  # fmt: skip
    assert [name.value for name in constraints.value.excluded_subtrees or ()] == [".studio"]
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)


def test_the_leaf_is_short_lived_and_checked_without_a_word(tmp_path: Path) -> None:
    files = ensure(tmp_path).files
    checked = check_pair(files.certfile, files.keyfile, None, NOW)
    assert checked.not_valid_after - checked.not_valid_before == timedelta(days=397)
    assert not any("lacks" in warning for warning in checked.warnings)


def test_both_are_kept_while_they_fit(tmp_path: Path) -> None:
    first = ensure(tmp_path)
    assert (first.files.made, first.root.made) == (True, True)
    again = ensure(tmp_path, days=260)
    assert (again.files.made, again.root.made) == (False, False)
    assert again.files.fingerprint == first.files.fingerprint


@pytest.mark.parametrize("change", ["near the end", "a new address", "asked for", "leaf gone", "key gone", "key open"])
def test_the_leaf_is_made_anew_and_the_root_stays(tmp_path: Path, change: str, verify: Callable[..., str]) -> None:
    first = ensure(tmp_path)
    root = (tmp_path / CA_NAME).read_bytes()
    names = Names(NAMES.dns, (*NAMES.ips, ip_address("192.168.7.8"))) if change == "a new address" else NAMES
    if change == "leaf gone":
        (tmp_path / LEAF_NAME).unlink()
    elif change == "key gone":
        (tmp_path / LEAF_KEY_NAME).unlink()
    elif change == "key open":
        (tmp_path / LEAF_KEY_NAME).chmod(0o644)
    days = 270 if change == "near the end" else 0
    renewed = ensure(tmp_path, names, days, renew=change == "asked for")
    assert (renewed.files.made, renewed.root.made) == (True, False)
    assert renewed.files.fingerprint != first.files.fingerprint
    assert (tmp_path / CA_NAME).read_bytes() == root
    at = str(int((NOW + days * DAY).timestamp()))
    assert verify(renewed.files.certfile.read_bytes(), "-attime", at) == "OK"


def test_what_the_root_does_not_cover_is_left_out_and_named(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    moved = ensure(tmp_path, names_of([ip_address("198.51.100.4")], ["stage", "stage.local"]))
    assert moved.left_out == ("stage", "198.51.100.4")
    assert verify(moved.files.certfile.read_bytes(), "-verify_hostname", "stage.local") == "OK"


def test_a_root_near_its_end_is_made_anew(tmp_path: Path) -> None:
    ensure(tmp_path)
    assert not ensure(tmp_path, days=3600).root.made
    late = x509.load_pem_x509_certificate((tmp_path / LEAF_NAME).read_bytes())
    assert late.not_valid_after_utc <= signer(tmp_path).certificate.not_valid_after_utc
    assert ensure(tmp_path, days=3625).root.made


def test_a_root_is_made_again_of_its_key(tmp_path: Path, verify: Callable[..., str]) -> None:
    ensure(tmp_path)
    installed = (tmp_path / CA_NAME).read_bytes()
    (tmp_path / CA_NAME).unlink()
    leaf = ensure(tmp_path, renew=True).files.certfile.read_bytes()
    (tmp_path / CA_NAME).write_bytes(installed)  # what a phone still has
    assert verify(leaf) == "OK"


def test_without_the_root_s_key_the_leaf_serves_to_its_end(tmp_path: Path) -> None:
    ensure(tmp_path)
    (tmp_path / CA_KEY_NAME).unlink()
    assert not ensure(tmp_path).files.made
    with pytest.raises(CertificateError, match=f"{CA_KEY_NAME} is missing or damaged, .* bring it back, or move"):
        ensure(tmp_path, renew=True)


@pytest.mark.parametrize("name", [CA_NAME, CA_KEY_NAME, LEAF_NAME, LEAF_KEY_NAME])
@pytest.mark.parametrize("content", [b"", b"garbage", issue().pem, issue().key_pem()])
def test_what_somebody_else_made_is_never_touched(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CertificateError, match=f"{name} .* is left untouched: .*move it away"):
        ensure(tmp_path)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / CA_KEY_NAME).chmod(0o440), "can be read by others, .* chmod 400"),
        (lambda folder: _another_s(folder), "do not belong together: bring back"),
    ],
)
def test_a_root_in_doubt_is_not_used(tmp_path: Path, change: Callable[[Path], None], says: str) -> None:
    ensure(tmp_path)
    change(tmp_path)
    with pytest.raises(CertificateError, match=says):
        ensure(tmp_path)


def test_a_clock_that_was_set_back_is_said(tmp_path: Path) -> None:
    ensure(tmp_path)
    with pytest.raises(CertificateError, match="set the clock right"):
        ensure(tmp_path, days=-2)


def _another_s(folder: Path) -> None:
    ensure(folder / "other")
    (folder / "other" / CA_KEY_NAME).replace(folder / CA_KEY_NAME)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_under_any_umask_nobody_else_ever_reads_a_key(tmp_path: Path, umask: int) -> None:
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
                    continue  # it took its place meanwhile

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


def test_no_file_of_a_key_is_born_with_more_than_its_mode(tmp_path: Path, program: Callable[[str], str]) -> None:
    """What a watcher may miss: the system calls themselves, under a umask that takes nothing away."""
    births: list[tuple[str, int]] = []
    real = os.open

    def watched(path: str | Path, flags: int, mode: int = 0o777, **options: int) -> int:
        if flags & os.O_CREAT:
            births.append((Path(path).name, mode))
            assert flags & os.O_EXCL
        return real(path, flags, mode, **options)

    os.umask(0)
    os.open = watched  # type: ignore[assignment]  # watched, not replaced: the file is made by the real one
    try:
        ensure(tmp_path)
        choose_certificate(Config(generate_self_signed_cert=True), tmp_path)
    finally:
        os.open = real
    assert {mode for name, mode in births if "key" in name} == {0o400, 0o600}
    assert len([name for name, _ in births if "key" in name]) == 3


@pytest.mark.parametrize("option", ["local_ca", "generate_self_signed_cert"])
def test_what_is_chosen_can_be_served(tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose_certificate(Config(**{option: True}), tmp_path)  # type: ignore[arg-type]  # a bool it is
    assert chosen is not None
    assert chosen.own
    assert (chosen.root is not None) == (option == "local_ca")
    assert caplog.records == []
    assert choose_certificate(Config()) is None
    own = Config(ssl_certfile=str(chosen.checked.certfile), ssl_keyfile=str(chosen.checked.keyfile))
    again = choose_certificate(own, tmp_path / "elsewhere")
    assert again is not None
    assert replace(again.checked, warnings=()) == chosen.checked
    assert not (tmp_path / "elsewhere").exists()


def test_a_leaf_is_replaced_only_under_our_mark(tmp_path: Path) -> None:
    ensure(tmp_path)
    own = (tmp_path / LEAF_NAME).read_bytes()
    assert own.count(b"BEGIN CERTIFICATE") == 2
    assert own.endswith(signer(tmp_path).certificate.public_bytes(Encoding.PEM))
