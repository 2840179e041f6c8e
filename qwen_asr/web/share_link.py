"""The public link of `--share`: Gradio's tunnel program, started, watched and ended with the server.

The program, where it is downloaded from, its checksum and the address of the share service are Gradio's. Its
`networking.setup_tunnel` is not used, because it is made for notebooks: it reads the program's output up to the link
and never again, so that the program stops once the pipe is full; it waits without end for one that says nothing; and it
writes into the working folder.

The tunnel ends on this machine, at the server's port for plain HTTP. The program is frp, in a fork of Hugging Face
(github.com/huggingface/frp): it connects again by itself when it loses its share server, maybe under another name.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwen_asr.errors import ShareUnavailable
from qwen_asr.network import split_url

log = logging.getLogger(__name__)

API_SECONDS = 30.0
"""How long Gradio's share service may take to answer, as in Gradio."""
LINK_SECONDS = 30.0
"""How long the tunnel program may take to print the link, as in Gradio."""
STOP_SECONDS = 5.0
"""How long it may take to end before it is killed."""
PAUSE_SECONDS = (1.0, 60.0)
"""How long to wait before a tunnel that has died is made again: at first, and at most after that doubled."""
_PROBE_SECONDS = 5.0

_CANNOT_RUN = "cannot be executed: "
_LAUNCHER = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})  # PR_SET_PDEATHSIG
try:
    os.execv(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit({_CANNOT_RUN!r} + error.strerror)
"""

_OPENED = re.compile(r"start proxy success: (\S+)")
_REFUSED = re.compile(r"login to server failed")
_LOST = re.compile(r"try to reconnect to server|reconnect to server error")
_PREFIX = re.compile(r"^[\d/]+ [\d:.]+ \[\w\] (\[[^\]]*\] )*")  # of each line of the program: time, level, where


@dataclass(frozen=True)
class ShareServer:
    """Where the tunnel leads to. `certificate`: the PEM text that it is trusted by, or None without TLS.

    `own`: it is not Gradio's, but one that the user has set with `GRADIO_SHARE_SERVER_ADDRESS`.
    """

    host: str
    port: int
    certificate: str | None
    own: bool


class ShareLink:
    """A public link to the local port `port`, on a thread of its own from `start` to `stop`.

    `on_open(link)` is called whenever there is a link, which may be another one than before, and `on_notice` with each
    sentence for people: why there is none, that it was lost, and that it is back.
    """

    def __init__(self, port: int, on_open: Callable[[str], None], on_notice: Callable[[str], None]) -> None:
        self._port = port
        self._on_open = on_open
        self._on_notice = on_notice
        # The share server makes the name of the link from it. One that began with "-" would be read as an option.
        self._token = secrets.token_hex(32)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: str | None = None
        self._thread = threading.Thread(target=self._run, name="qwen-asr-share", daemon=True)

    def start(self) -> None:
        """Makes the link in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the tunnel program, and waits until it has ended."""
        with self._lock:
            self._stopped.set()
            process = self._process
        if process is not None:
            _end(process)

    def _run(self) -> None:
        pause, longest = PAUSE_SECONDS
        while not self._stopped.is_set():
            try:
                program, server = download_program(), find_server()
                with contextlib.ExitStack() as stack:
                    process, lines = self._launch(program, server, stack)
                    self._opened(self._wait_for_link(process, lines, server))
                    pause = PAUSE_SECONDS[0]
                    why = self._watch(process, lines, server)
                if not self._stopped.is_set():
                    self._on_notice(f"The public link does not work at the moment: {why}. It is being made again.")
            except ShareUnavailable as error:
                if self._stopped.is_set():
                    return
                if self._link is None:
                    self._on_notice(str(error))
                    return
                log.debug("The public link could not be made again: %s", error)
            except Exception as error:  # of Gradio's code, or a fault here: the server goes on without the link
                log.exception("The public link failed.")
                self._on_notice(f"No public link: it failed ({type(error).__name__}), and the log says why.")
                return
            if self._stopped.wait(pause):
                return
            pause = min(2 * pause, longest)

    def _launch(
        self, program: str, server: ShareServer, stack: contextlib.ExitStack
    ) -> tuple[subprocess.Popen[bytes], queue.Queue[str | None]]:
        """Starts the tunnel program. Returns it with the lines that it prints, and None at their end."""
        command = _dying_with_us([program, *self._arguments(server, stack)])
        with self._lock:
            if self._stopped.is_set():
                raise ShareUnavailable("The server stops.")
            try:
                # In a session of its own, so that Ctrl-C does not end it before those who use the link have their text.
                self._process = process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise _cannot_run(error.strerror or type(error).__name__) from error
        stack.callback(_end, process)
        lines: queue.Queue[str | None] = queue.Queue()
        # The output is read for as long as the program runs: it would stop when the pipe is full.
        reading = threading.Thread(target=self._read, args=(process, lines), name="qwen-asr-share-output", daemon=True)
        reading.start()
        return process, lines

    def _arguments(self, server: ShareServer, stack: contextlib.ExitStack) -> list[str]:
        """The arguments that Gradio gives it (`gradio.tunneling.Tunnel`)."""
        arguments = ["http", "-n", self._token, "-l", str(self._port), "-i", "127.0.0.1", "--uc", "--sd", "random"]
        arguments += ["--ue", "--server_addr", f"{server.host}:{server.port}", "--disable_log_color"]
        if server.certificate is not None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qwen-asr-share-"))) / "root.pem"
            root.write_text(server.certificate, encoding="utf-8")
            arguments += ["--tls_enable", "--tls_trusted_ca_file", str(root)]
        return arguments

    def _read(self, process: subprocess.Popen[bytes], lines: queue.Queue[str | None]) -> None:
        with process.stdout or contextlib.nullcontext(()) as output:
            for line in output:
                text = line.decode(errors="replace").strip().replace(self._token, "…")
                log.debug("tunnel: %s", text)
                lines.put(text)
        lines.put(None)

    def _opened(self, link: str) -> None:
        """Says that there is this link: at first, and again after it was lost."""
        before, self._link = self._link, link
        if before is not None:
            again = "The public link works again." if link == before else "The public link has another address now."
            self._on_notice(again)
        if link != before:
            self._on_open(link)

    def _wait_for_link(
        self, process: subprocess.Popen[bytes], lines: queue.Queue[str | None], server: ShareServer
    ) -> str:
        """The link that the program prints. Raises ShareUnavailable if it prints none."""
        end = time.monotonic() + LINK_SECONDS
        said = "it said nothing"
        while True:
            try:
                line = lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise ShareUnavailable(
                    f"No public link: the share server gave none within {LINK_SECONDS:.0f} seconds ({said}). "
                    "The page is served at the addresses above."
                ) from None
            if line is None:
                raise _ended(process.wait(), said)
            if found := _OPENED.search(line):
                return public_address(found[1], server)
            said = _PREFIX.sub("", line) or said
            if _REFUSED.search(line):
                raise ShareUnavailable(
                    f"No public link: the share server {server.host}:{server.port} refused the tunnel or "
                    f"cannot be reached ({said}). The page is served at the addresses above."
                )

    def _watch(self, process: subprocess.Popen[bytes], lines: queue.Queue[str | None], server: ShareServer) -> str:
        """Waits until the program ends, and returns why. Says if it loses the share server, and if it has it again."""
        lost = False
        while (line := lines.get()) is not None:
            if _LOST.search(line) and not lost:
                lost = True
                self._on_notice("The public link does not work at the moment: the tunnel lost its share server.")
            elif found := _OPENED.search(line):
                lost = False
                self._opened(public_address(found[1], server))
        return f"the tunnel program ended with {_status(process.wait())}"


def find_server() -> ShareServer:
    """The share server: the one that `GRADIO_SHARE_SERVER_ADDRESS` names, else one of Gradio's.

    Raises ShareUnavailable.
    """
    import httpx
    from gradio import networking

    if (address := networking.GRADIO_SHARE_SERVER_ADDRESS) is not None:
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal()):
            raise ShareUnavailable(
                f"No public link: GRADIO_SHARE_SERVER_ADDRESS is {address!r}, but has to be HOST:PORT. "
                "The page is served at the addresses above."
            )
        return ShareServer(host, int(port), None, own=True)
    try:
        response = httpx.get(networking.GRADIO_API_SERVER, timeout=API_SECONDS)
        response.raise_for_status()
        answer = response.json()[0]
        return ShareServer(str(answer["host"]), int(answer["port"]), str(answer["root_ca"]), own=False)
    except httpx.HTTPStatusError as error:
        why = f"answers with status {error.response.status_code}"
    except httpx.HTTPError as error:
        why = f"cannot be reached from here ({type(error).__name__})"
    except (ValueError, LookupError, TypeError):
        why = "answers with something else than the address of a share server"
    raise ShareUnavailable(
        f"No public link: Gradio's share service {networking.GRADIO_API_SERVER} {why}. "
        "The page is served at the addresses above."
    )


def download_program() -> str:
    """The path of Gradio's tunnel program, which is downloaded at the first use. Raises ShareUnavailable."""
    import httpx
    from gradio import tunneling
    from gradio.exceptions import ChecksumMismatchError

    url, path = tunneling.BINARY_URL, Path(tunneling.BINARY_PATH)
    remedy = f"download {url} elsewhere, store it as {path} and make it executable"
    try:
        tunneling.Tunnel.download_binary()  # type: ignore[no-untyped-call]  # Gradio has no type there
    except ChecksumMismatchError:
        path.unlink(missing_ok=True)  # Gradio leaves it there, and would run it the next time without a check
        why = "what was downloaded is not Gradio's tunnel program: its checksum is wrong, so it was removed. Try again"
    except httpx.HTTPError as error:
        why = f"Gradio's tunnel program could not be downloaded ({type(error).__name__}). Try again, or {remedy}"
    except OSError as error:
        if error.errno is None:  # what Gradio raises for a download that is forbidden
            why = f"Gradio has no tunnel program for this kind of machine ({tunneling.BINARY_REMOTE_NAME})"
        else:
            with contextlib.suppress(OSError):
                path.unlink()  # a part of it may be there
            why = (
                f"Gradio's tunnel program cannot be stored as {path} ({error.strerror}). Set HF_HOME to another folder"
            )
    else:
        return str(path)
    raise ShareUnavailable(f"No public link: {why}. The page is served at the addresses above.")


def public_address(printed: str, server: ShareServer) -> str:
    """The link that the tunnel program has `printed`, with the scheme under which it works.

    Gradio's links have HTTPS, whatever is printed. A share server of somebody's own may have none.
    """
    parts = split_url(printed if "://" in printed else f"https://{printed}")
    secure = not server.own or _speaks_tls(parts.hostname or "", parts.port or 443)
    return parts._replace(scheme="https" if secure else "http").geturl().rstrip("/")


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent; the browser will check it
    try:
        with (
            socket.create_connection((host, port), _PROBE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _dying_with_us(command: list[str]) -> list[str]:
    """The command such that the program dies with this process, even if that is killed. On Linux only.

    Otherwise the link would go on to publish whatever uses the port next. The kernel sends the signal when the thread
    ends that has started the program.
    """
    return [sys.executable, "-IS", "-c", _LAUNCHER, *command] if sys.platform == "linux" else command


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ended(code: int, said: str) -> ShareUnavailable:
    if said.startswith(_CANNOT_RUN):
        return _cannot_run(said.removeprefix(_CANNOT_RUN))
    return ShareUnavailable(
        f"No public link: Gradio's tunnel program ended with {_status(code)} ({said}). "
        "The page is served at the addresses above."
    )


def _cannot_run(why: str) -> ShareUnavailable:
    from gradio import tunneling

    return ShareUnavailable(
        f"No public link: {tunneling.BINARY_PATH} cannot be run on this machine ({why}): remove it, and the next start "
        "downloads it again. The page is served at the addresses above."
    )


def _status(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
