"""Who may change the files that the program creates: the folder, its owner, and what a umask leaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.errors import CertificateError
from qwen_asr.tls.acme_client import Authority, write_secret
from qwen_asr.tls.acme_renewal import AcmeCertificate
from qwen_asr.tls.addresses import Names
from qwen_asr.tls.local_ca import CA_KEY_NAME, CA_NAME, LEAF_KEY_NAME, LEAF_NAME, ensure_local_ca
from qwen_asr.tls.managed_files import check_owner, write_files
from qwen_asr.tls.self_signed import CERTIFICATE_NAME, KEY_NAME, ensure_self_signed

NAMES = Names(("localhost",), ())
Ensure = Callable[[Path], Any]
SELF_SIGNED: Ensure = partial(ensure_self_signed, names=NAMES)
LOCAL_CA: Ensure = partial(ensure_local_ca, names=NAMES)
BOTH = pytest.mark.parametrize("ensure", [SELF_SIGNED, LOCAL_CA])
FILES = [(SELF_SIGNED, CERTIFICATE_NAME), (SELF_SIGNED, KEY_NAME)]
FILES += [(LOCAL_CA, name) for name in (CA_NAME, CA_KEY_NAME, LEAF_NAME, LEAF_KEY_NAME)]
SOMEBODY = 54_321
"""A user that is neither this one nor root, and has no name."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the permissions are POSIX's")


@pytest.fixture(autouse=True)
def _restore_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def give_to(owner: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the file or folder seem to belong to that user. Only root could change the owner itself."""
    inode = path.stat().st_ino

    def seen(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def call(*values: Any, **options: Any) -> os.stat_result:
            found = real(*values, **options)
            fields = [*found]
            fields[stat.ST_UID] = owner
            return os.stat_result(fields) if found.st_ino == inode else found

        return call

    for name in ("stat", "fstat"):
        monkeypatch.setattr(os, name, seen(getattr(os, name)))


@BOTH
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o777])
def test_a_new_folder_is_private_under_any_umask(tmp_path: Path, ensure: Ensure, umask: int) -> None:
    folder = tmp_path / "above" / "certs"
    os.umask(umask)
    ensure(folder)
    write_secret(folder / "acme" / "authority" / "account.pem", b"secret")
    for made in (folder.parent, folder, folder / "acme", folder / "acme" / "authority"):
        assert mode(made) == 0o700


@BOTH
@pytest.mark.parametrize("permissions", [0o700, 0o755, 0o500, 0o1770])
def test_a_folder_that_only_its_owner_can_change_stays_as_it_is(
    tmp_path: Path, ensure: Ensure, permissions: int
) -> None:
    ensure(tmp_path)
    tmp_path.chmod(permissions)
    ensure(tmp_path)
    assert mode(tmp_path) == permissions
    tmp_path.chmod(0o700)


@BOTH
@pytest.mark.parametrize("permissions", [0o775, 0o2770])
def test_the_group_loses_its_right_to_change_a_folder(
    tmp_path: Path, ensure: Ensure, permissions: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkout under a umask of 002 has such a folder."""
    folder = tmp_path / "certs"
    folder.mkdir()
    folder.chmod(permissions)
    with caplog.at_level("INFO"):
        ensure(folder)
        ensure(folder)
    assert mode(folder) == permissions & ~0o020
    assert caplog.text.count(f"The group of {folder} may no longer change") == 1


@BOTH
def test_a_folder_of_root_may_be_a_groups(tmp_path: Path, ensure: Ensure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes gives a volume to the group of its container, `fsGroup`."""
    tmp_path.chmod(0o2775)
    monkeypatch.setattr(os, "geteuid", partial(int, os.geteuid() or SOMEBODY))
    give_to(0, tmp_path, monkeypatch)
    ensure(tmp_path)
    ensure(tmp_path)
    assert mode(tmp_path) == 0o2775


@BOTH
@pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o702])
def test_a_folder_that_everybody_can_change_is_refused(tmp_path: Path, ensure: Ensure, permissions: int) -> None:
    ensure(tmp_path)
    before = content(tmp_path)
    tmp_path.chmod(permissions)
    with pytest.raises(CertificateError, match=f"may change {tmp_path}: .* run chmod o-w {tmp_path}"):
        ensure(tmp_path)
    assert content(tmp_path) == before
    tmp_path.chmod(permissions & ~0o002)  # what it says
    ensure(tmp_path)


@BOTH
def test_a_folder_of_another_user_is_refused(tmp_path: Path, ensure: Ensure, monkeypatch: pytest.MonkeyPatch) -> None:
    give_to(SOMEBODY, tmp_path, monkeypatch)
    with pytest.raises(
        CertificateError, match=rf"{tmp_path} belongs to the user with the number {SOMEBODY}, but .*chown"
    ):
        ensure(tmp_path)
    with pytest.raises(CertificateError, match="belongs to"):
        write_files(tmp_path, {"x": (b"", 0o600)})
    assert content(tmp_path) == {}


@pytest.mark.parametrize(("ensure", "name"), FILES)
def test_a_file_of_another_user_is_refused(
    tmp_path: Path, ensure: Ensure, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark is no proof: anybody can write that."""
    ensure(tmp_path)
    before = content(tmp_path)
    give_to(SOMEBODY, tmp_path / name, monkeypatch)
    with pytest.raises(CertificateError, match=rf"{tmp_path / name} belongs to .* move it away so that a new one"):
        ensure(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize(("ensure", "name"), FILES)
def test_a_file_that_everybody_can_change_is_refused(tmp_path: Path, ensure: Ensure, name: str) -> None:
    ensure(tmp_path)
    (tmp_path / name).chmod(0o646)
    with pytest.raises(CertificateError, match=f"chmod o-w {tmp_path / name}"):
        ensure(tmp_path)


@pytest.mark.parametrize(("ensure", "name"), FILES)
def test_files_of_root_are_used(tmp_path: Path, ensure: Ensure, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(tmp_path)
    before = content(tmp_path)
    monkeypatch.setattr(os, "geteuid", partial(int, os.geteuid() or SOMEBODY))
    give_to(0, tmp_path / name, monkeypatch)
    ensure(tmp_path)
    assert content(tmp_path) == before


def test_acme_uses_no_folder_and_no_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority("https://acme.invalid/directory", None, tmp_path)
    certificate = AcmeCertificate(authority, ("asr.example.com",))
    for path in (authority.folder / "account.pem", certificate.file):
        write_secret(path, b"planted")
    for path in (authority.folder, certificate.file):
        with monkeypatch.context() as planted:
            give_to(SOMEBODY, path, planted)
            with pytest.raises(CertificateError, match=f"{path} belongs to"):
                certificate.__enter__()
    give_to(SOMEBODY, authority.folder / "account.pem", monkeypatch)
    with pytest.raises(CertificateError, match=r"account\.pem belongs to"):
        authority._account_key()
    assert content(authority.folder) == {"account.pem": b"planted", "asr.example.com.pem": b"planted"}


def test_windows_has_no_such_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    status = tmp_path.stat()
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.delattr(os, "geteuid")
        check_owner(tmp_path, status)
