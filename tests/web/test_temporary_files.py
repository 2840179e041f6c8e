"""Nothing that was uploaded stays on disk: after a broken connection, a crash, or the end of the server."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from qwen_asr.config.limits import PageLimits
from qwen_asr.service.service import Service
from qwen_asr.web.temporary_files import PREFIX, UPLOADS, VARIABLE, private_folder, remove_abandoned, sweep
from tests.support.browser import serving, small_config
from tests.support.checkpoints import random_recognizer
from tests.support.processes import ServerProcess, until

HALF = (
    b'--x\r\nContent-Disposition: form-data; name="%s"; filename="audio.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    + b"speech that nobody may find " * 20_000
)


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, in which each server makes its own."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def half_sent() -> Iterator[list[socket.socket]]:
    """Connections that are closed at the end."""
    connections: list[socket.socket] = []
    yield connections
    for connection in connections:
        connection.close()


def send_half(url: str, path: str, field: bytes) -> socket.socket:
    """Half of a form, over a connection that stays open."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost:{address.port}\r\nContent-Length: {10 * len(HALF)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        + HALF.replace(b"%s", field)
    )
    return connection


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def upload(url: str) -> None:
    """Uploads a whole file, as the page does."""
    httpx.post(f"{url.strip()}/gradio_api/upload", files={"files": ("a.wav", b"speech")}, timeout=60).raise_for_status()


def test_the_folder_is_private_and_goes(parent: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == parent
        assert os.environ[VARIABLE] == str(folder / UPLOADS)
        assert tempfile.gettempdir() == str(folder)
        assert (folder.stat().st_mode & 0o777, (folder / UPLOADS).stat().st_mode & 0o777) == (0o700, 0o700)
        (folder / UPLOADS / "a").write_text("speech")
    assert list(parent.iterdir()) == []
    assert VARIABLE not in os.environ
    assert tempfile.gettempdir() == str(parent)


def test_gradios_folder_is_respected(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(parent / "gradio"))
    with private_folder() as folder:
        assert folder.parent == parent / "gradio"
    assert os.environ[VARIABLE] == str(parent / "gradio")


def test_only_folders_of_processes_that_are_gone_are_removed(parent: Path) -> None:
    def folder_named(name: str, mode: int = 0o700) -> Path:
        (parent / name).mkdir()
        (parent / name / "file").write_text("speech")
        (parent / name).chmod(mode)
        return parent / name

    abandoned = folder_named(f"{PREFIX}abcdefgh")
    kept = [
        folder_named(f"{PREFIX}notes-of-mine"),
        folder_named("qwen-asr"),
        folder_named(f"{PREFIX}abcdefg1", 0o755),  # the program makes none like this
        folder_named("elsewhere"),
    ]
    (link := parent / f"{PREFIX}abcdefg2").symlink_to(parent / "elsewhere")
    with private_folder() as running, private_folder() as other:
        remove_abandoned(parent)
        assert not abandoned.exists()
        assert running.exists()
        assert other.exists()
        assert link.is_symlink()
        assert all((path / "file").exists() for path in kept)


def test_files_that_nothing_is_written_to_are_removed() -> None:
    with private_folder(PageLimits(abandoned_seconds=1000)) as folder:
        uploads = folder / UPLOADS
        (uploads / "hash").mkdir()
        for path in (folder / "tmpabc", uploads / "tmpdef", uploads / "hash" / "audio.wav", folder / "library.cache"):
            path.write_text("speech")
        (folder / "tmpfolder").mkdir()
        now = max(path.stat().st_mtime for path in folder.rglob("*"))
        assert sweep(folder, 60, min(path.stat().st_mtime for path in folder.rglob("*")) + 59.9) == 0
        assert sweep(folder, 60, now + 60) == 3
        assert [path.name for path in files_in(folder)] == ["library.cache"]
        assert (folder / "tmpfolder").is_dir()
        assert not sweep(folder, 60, now + 1000)
        assert list(uploads.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_connection_that_breaks_leaves_nothing(half_sent: list[socket.socket]) -> None:
    with (
        private_folder(PageLimits(abandoned_seconds=1.0)) as folder,
        serving(Service(small_config(), random_recognizer()), None) as served,
    ):
        for path, field in (("/gradio_api/upload", b"files"), ("/v1/audio/transcriptions", b"file")):
            half_sent.append(send_half(served.url, path, field))
        upload(served.url)  # whole, but its event never comes
        assert until(lambda: files_in(folder))
        for connection in half_sent:
            connection.close()
        assert until(lambda: not files_in(folder))


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_nothing_to_the_next(
    parent: Path, repository: Path, half_sent: list[socket.socket]
) -> None:
    def start() -> tuple[ServerProcess, str]:
        options = ("--port", "0", "--asr-model-path", "demo", "--device", "cpu")
        server = ServerProcess(parent, repository, *options, TMPDIR=str(parent))
        servers.append(server)
        url = server.line_with("http://")
        server.line_with("Ready.")
        return server, url

    servers: list[ServerProcess] = []
    try:
        killed, url = start()
        for path, field in (("/gradio_api/upload", b"files"), ("/v1/audio/transcriptions", b"file")):
            half_sent.append(send_half(url, path, field))
        upload(url)
        assert until(lambda: list(parent.glob(f"{PREFIX}*/{UPLOADS}/[!v]*")))
        before = [path for path in files_in(parent) if path.name != ".ses"]  # that one is onnxruntime's
        assert {path.relative_to(parent).parts[0][: len(PREFIX)] for path in before} == {PREFIX}
        killed.process.kill()
        killed.process.wait()
        successor, url = start()
        assert not any(path.exists() for path in before)
        half_sent.append(send_half(url, "/gradio_api/upload", b"files"))
        upload(url)
        assert until(lambda: list(parent.glob(f"{PREFIX}*/{UPLOADS}/[!v]*")))
        assert successor.end(signal.SIGTERM)[0] == 0
        assert list(parent.glob(f"{PREFIX}*")) == []
    finally:
        for server in servers:
            server.kill()
