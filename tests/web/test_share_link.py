"""The tunnel of a public link: the ways in which there is none, its loss and its return, and that nothing stays behind.

The share service and the tunnel program are stand-ins (`tests/support/share_server.py`): Gradio's cannot be reached by
tests. What they do with requests is in `tests/end_to_end/test_public_link.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from qwen_asr.web import qr
from qwen_asr.web.page.gradio_import import import_gradio
from qwen_asr.web.share_link import ShareLink
from tests.support.certificates import Issuer
from tests.support.commands import SERVER, run_in_terminal
from tests.support.processes import ServerProcess, until
from tests.support.share_server import Running, install_frpc, program, share_server, visit

pytestmark = pytest.mark.slow

LOCAL = "The page is served at the addresses above."


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The share server's certificate and key, and the root that signed it."""
    folder = tmp_path_factory.mktemp("share")
    issuer = Issuer()
    root = folder / "root.pem"
    root.write_bytes(issuer.root_pem)
    return (*issuer.issue("localhost", "*.share.localhost", "127.0.0.1").write(folder), root)


@pytest.fixture
def sharing(certificate: tuple[Path, Path, Path]) -> Iterator[Running]:
    """A share service that works."""
    with share_server(certificate) as running:
        yield running


@pytest.fixture
def frpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: Running) -> Path:
    """Where Gradio looks for its program, which is the stand-in; Gradio's service is the stand-in too."""
    import_gradio()
    from gradio import networking, tunneling

    path = install_frpc(tmp_path)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(path))
    monkeypatch.setattr(tunneling, "BINARY_FOLDER", path.parent)
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", sharing.server.api)
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", None)
    monkeypatch.setattr("qwen_asr.web.share_link.PAUSE_SECONDS", (0.05, 0.2))
    return path


class Hello(BaseHTTPRequestHandler):
    """Answers every GET with a word."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class Watched:
    """A link to a small server, with what it says."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.links: list[str] = []
        self.notices: list[str] = []
        self.share = ShareLink(self._server.server_address[1], self.links.append, self.notices.append)
        self.share.start()

    def close(self) -> None:
        self.share.stop()
        self._server.shutdown()
        self._server.server_close()

    def visit(self, certificate: tuple[Path, Path, Path]) -> int:
        """Opens the link as a visitor would; the status, 0 if there is no connection."""
        try:
            return visit(self.links[-1], certificate[2]).status_code
        except httpx.TransportError:
            return 0


@pytest.fixture
def watched(frpc: Path) -> Iterator[Callable[[], Watched]]:
    """Opens a link; closes it at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Watched()))


def alive(process: int) -> bool:
    """Whether a process runs that is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return False


def test_the_link_leads_to_the_port_until_it_is_stopped(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    assert one.visit(certificate) == 200
    [process] = sharing.server.programs
    assert os.getsid(process) != os.getsid(0)  # so Ctrl-C does not reach it
    one.share.stop()
    assert not alive(process)
    assert one.visit(certificate) != 200
    assert one.notices == []


def test_a_program_that_dies_is_started_again_under_the_same_link(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    os.kill(sharing.server.programs[0], signal.SIGKILL)
    assert until(lambda: len(one.notices) == 2), one.notices
    assert one.notices == [
        "The public link does not work at the moment: the tunnel program ended with signal 9. It is being made again.",
        "The public link works again.",
    ]
    assert one.visit(certificate) == 200
    assert len(one.links) == 1  # it has not changed
    assert len(sharing.server.programs) == 2


def test_what_cannot_be_made_again_at_once_is_tried_until_it_can(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    sharing.server.refuses = "no more tunnels"
    sharing.call(sharing.server.tell(exit=3))
    assert until(lambda: len(sharing.server.programs) >= 4)
    assert [notice.partition(":")[0] for notice in one.notices] == ["The public link does not work at the moment"]
    sharing.server.refuses = ""
    assert until(lambda: one.notices[-1] == "The public link works again.")
    assert one.visit(certificate) == 200


def test_the_program_connects_again_by_itself_and_it_is_said(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    sharing.call(sharing.server.drop())
    assert until(lambda: len(one.notices) == 2), one.notices
    assert one.notices == [
        "The public link does not work at the moment: the tunnel lost its share server.",
        "The public link works again.",
    ]
    assert len(set(sharing.server.programs)) == 1
    assert one.visit(certificate) == 200


def test_a_link_that_has_another_address_after_an_outage_is_shown(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    sharing.server.salt = "other"
    sharing.call(sharing.server.drop())
    assert until(lambda: len(one.links) == 2), one.notices
    assert one.notices[1:] == ["The public link has another address now."]
    assert len(set(one.links)) == 2
    assert one.visit(certificate) == 200


def test_a_talkative_program_is_not_stopped_by_a_full_pipe(
    watched: Callable[[], Watched], sharing: Running, certificate: tuple[Path, Path, Path]
) -> None:
    one = watched()
    assert until(lambda: one.links), one.notices
    for _ in range(40):
        sharing.call(sharing.server.tell(say="word " * 1_000))
    assert one.visit(certificate) == 200  # after 200 kB; a pipe holds 64


def no_link(watched: Callable[[], Watched]) -> str:
    """The one sentence of a link that cannot be made."""
    one = watched()
    one.share._thread.join(60)
    assert not one.share._thread.is_alive()
    assert one.links == []
    [sentence] = one.notices
    assert sentence.startswith("No public link: ")
    assert sentence.endswith(LOCAL)
    return sentence


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (503, b"", "answers with status 503"),
        (200, b"<html>", "answers with something else than the address of a share server"),
        (200, b"[]", "answers with something else than the address of a share server"),
        (200, b'[{"host": "127.0.0.1"}]', "answers with something else than the address of a share server"),
    ],
)
def test_a_service_that_gives_no_server(
    watched: Callable[[], Watched], sharing: Running, status: int, content: bytes, said: str
) -> None:
    sharing.server.offer("/v3/tunnel-request", status, content)
    assert said in no_link(watched)


def test_a_service_that_cannot_be_reached(watched: Callable[[], Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.GRADIO_API_SERVER", "http://127.0.0.1:9/")
    assert "cannot be reached from here (ConnectError)" in no_link(watched)


@pytest.mark.parametrize("address", ["example.org", "example.org:", ":7000", "example.org:seven"])
def test_an_address_that_is_none(watched: Callable[[], Watched], monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("gradio.networking.GRADIO_SHARE_SERVER_ADDRESS", address)
    assert f"GRADIO_SHARE_SERVER_ADDRESS is {address!r}, but has to be HOST:PORT" in no_link(watched)


def test_a_server_that_refuses(watched: Callable[[], Watched], sharing: Running) -> None:
    sharing.server.refuses = "too many links"
    sentence = no_link(watched)
    assert "refused the tunnel or cannot be reached (login to server failed: too many links)" in sentence


def test_a_server_that_does_not_listen(watched: Callable[[], Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    assert "the share server 127.0.0.1:9 refused the tunnel or cannot be reached" in no_link(watched)


def test_a_server_that_gives_no_link(
    watched: Callable[[], Watched], sharing: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_asr.web.share_link.LINK_SECONDS", 2.0)
    sharing.server.silent = True
    assert "the share server gave none within 2 seconds" in no_link(watched)
    assert until(lambda: not any(map(alive, sharing.server.programs)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/bin/sh\necho no memory\nexit 7\n", "ended with exit code 7 (no memory)"),
        (b"\x7fELF\x02\x01\x01" + bytes(57), "cannot be run on this machine (Exec format error)"),
        (b"", "cannot be run on this machine (Exec format error)"),
    ],
    ids=["ends", "of another machine", "empty"],
)
def test_a_program_that_does_not_run(watched: Callable[[], Watched], frpc: Path, content: bytes, said: str) -> None:
    frpc.write_bytes(content)
    assert said in no_link(watched)


def test_another_machine_on_another_system(
    watched: Callable[[], Watched], frpc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    frpc.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    assert "cannot be run on this machine (Exec format error)" in no_link(watched)


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (404, b"", "could not be downloaded (HTTPStatusError)"),
        (403, b"", "has no tunnel program for this kind of machine"),
        (200, b"something else", "its checksum is wrong, so it was removed"),
    ],
)
def test_a_program_that_cannot_be_downloaded(
    watched: Callable[[], Watched],
    sharing: Running,
    frpc: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    content: bytes,
    said: str,
) -> None:
    frpc.unlink()
    url = sharing.server.offer("/frpc", status, content)
    monkeypatch.setattr("gradio.tunneling.BINARY_URL", url)
    monkeypatch.setattr("gradio.tunneling.CHECKSUMS", {url: hashlib.sha256(program()).hexdigest()})
    assert said in no_link(watched)
    assert not frpc.exists()  # Gradio would run it the next time
    sharing.server.offer("/frpc", 200, program())
    one = watched()
    assert until(lambda: one.links), one.notices


def test_a_folder_that_cannot_be_written(
    watched: Callable[[], Watched], frpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("gradio.tunneling.BINARY_FOLDER", tmp_path / "file" / "frpc")
    monkeypatch.setattr("gradio.tunneling.BINARY_PATH", str(tmp_path / "file" / "frpc" / "frpc"))
    assert "cannot be stored as" in no_link(watched)


def test_a_share_server_of_ones_own_may_have_no_https(
    watched: Callable[[], Watched], certificate: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with share_server(certificate, tls=False) as own:
        monkeypatch.setattr("gradio.networking.GRADIO_SHARE_SERVER_ADDRESS", own.server.address)
        one = watched()
        assert until(lambda: one.links), one.notices
        [link] = one.links
        assert link.startswith("http://")
        assert visit(link, certificate[2]).text == "hello"
        one.share.stop()


def test_the_terminal_shows_a_code_for_a_phone(tmp_path: Path, certificate: tuple[Path, Path, Path]) -> None:
    install_frpc(tmp_path)
    with share_server(certificate, tls=False) as own:
        environ = {"HF_HOME": str(tmp_path), "GRADIO_SHARE_SERVER_ADDRESS": own.server.address, "TERM": "xterm"}
        command = [*SERVER, "--asr-model-path", "demo", "--port", "0", "--share"]
        code, said = run_in_terminal(command, interrupt_at="The public link: http", **environ)
    assert code == 0, said
    before, _, after = said.partition("The public link: ")
    link = after.split()[0]
    assert qr.terminal_code(link) in before.replace("\r\n", "\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a server that is killed leaves its tunnel behind")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_ends_with_the_server(
    tmp_path: Path,
    repository: Path,
    certificate: tuple[Path, Path, Path],
    number: signal.Signals,
) -> None:
    install_frpc(tmp_path)
    with share_server(certificate, tls=False) as own:
        server = ServerProcess(
            tmp_path, repository, "--asr-model-path", "demo", "--port", "0", "--share",
            HF_HOME=str(tmp_path), GRADIO_SHARE_SERVER_ADDRESS=own.server.address,
        )  # fmt: skip
        try:
            server.line_with("The public link: http://")
            [process] = own.server.programs
            assert alive(process)
            code, said = server.end(number)
            assert until(lambda: not alive(process))
            assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert "Traceback" not in said
            assert said.count("Everybody who has the public link can use the server: see --auth and --api-key.") == 1
        finally:
            server.kill()
