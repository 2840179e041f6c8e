"""`qwen-asr stream` as it is typed: on a terminal, in a pipe, interrupted, refused."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import signal
import ssl
import struct
import subprocess
import sys
import termios
import time
import wave
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from websockets.exceptions import InvalidURI

from qwen_asr.cli import main as cli
from qwen_asr.cli.terminal import Screen, fit_line
from qwen_asr.client import SpeechClient, trusted
from qwen_asr.client.events import Connected, Failed, Final, Gap, Lost, Partial, Queued
from qwen_asr.client.refusals import refusal_of, socket_url
from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, CertificateError
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.processes import Started
from tests.support.sockets import Listening, listening, silence

ROOT = Path(__file__).parents[2]
QWEN_ASR = [sys.executable, "-m", "qwen_asr"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
SAID = np.concatenate([spoken(SENTENCES[0]), silence(1.2), spoken(SENTENCES[1])])
PCM = (SAID * 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    torch.set_num_threads(1)
    with closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as service, listening(service) as server:
        yield server


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "said.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(PCM)
    return path


def run(*words: str | Path, audio: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [*QWEN_ASR, *map(str, words)]
    return subprocess.run(command, input=audio, env=ENVIRONMENT, capture_output=True, timeout=120, check=False)


def test_what_is_piped_in_comes_out_as_lines(served: Listening) -> None:
    done = run("stream", "--url", served.url, "-", "--rate", "16000", audio=PCM + b"\0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == list(SENTENCES)


def in_terminal(words: list[str], interrupt_at: str = "") -> tuple[int, str]:
    """Runs it in a terminal of its own; sends one Ctrl-C when it shows that text. Its exit code, and what it wrote."""
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(words, env=ENVIRONMENT, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = b""
        with suppress(OSError):  # the terminal ends with the program
            while data := os.read(leader, 4_096):
                shown += data
                if interrupt_at and interrupt_at.encode() in shown:
                    process.send_signal(signal.SIGINT)
                    interrupt_at = ""
        os.close(leader)
        return process.wait(60), shown.decode()


def test_on_a_terminal_the_text_grows_and_an_interrupt_waits_for_the_last_words(
    served: Listening, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(PCM + bytes(16_000 * 2 * 60))  # a minute of silence in which nothing more would come
    began = time.monotonic()
    words = [*QWEN_ASR, "stream", "--realtime", "--url", served.url, str(path)]
    code, shown = in_terminal(words, "The meeting")
    assert time.monotonic() - began < 60
    assert code == 0
    assert "\x1b[K" in shown
    assert f"{SENTENCES[0]}\r\n" in shown
    assert "\x1b[KThe meeting" in shown.split("\n")[1]  # a line that has ended
    assert shown.count("\n") == 2


def test_the_progress_of_transcribe_is_for_terminals(speech: Path) -> None:
    words = [*QWEN_ASR, "transcribe", "--asr-model-path", "demo", str(speech), str(speech)]
    code, shown = in_terminal(words)
    assert code == 0
    total = round(2 * len(SAID) / 16_000)
    assert f"of {total} s" in shown
    assert shown.count(SENTENCES[1]) == 2


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nothing.wav"], 2, "There is no file 'nothing.wav'"),
        (["mic"], 2, "microphone"),
        (["-", "--rate", "16000"], 2, "Standard input is empty"),
        (["-", "--rate", "fast"], 2, "--rate was given 'fast'"),
        (["{speech}", "--rate", "16000"], 2, "--rate was given with"),
        (["{speech}", "--url", "ftp://x"], 2, "The address is 'ftp://x'"),
        (["{speech}", "--url", "ws://127.0.0.1:1"], 1, "cannot be reached"),
        (["{speech}", "--url", "{wss}"], 1, "try ws://"),
        (["{speech}", "--url", "{url}", "--cafile", "none.pem"], 1, "There is no file 'none.pem'"),
        (["{speech}", "--url", "{url}", "--language", "Klingon"], 2, "Unknown language 'Klingon'"),
        (["{speech}", "--url", "{url}x"], 1, "403"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    served: Listening, speech: Path, words: list[str], code: int, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {"speech": speech, "url": served.url, "wss": served.url.replace("ws:", "wss:")}
    words = ["stream", *(word.format(**names) for word in words)]
    if "-" in words:  # here there is no standard input
        done = run(*words, audio=b"")
        assert (done.returncode, done.stdout) == (code, b"")
        said = done.stderr.decode()
    else:
        assert cli.run_subcommand(words) == code
        out, said = capfd.readouterr()
        assert out == ""
    [line] = [line for line in said.splitlines() if "Invalid HTTP request" not in line]  # the server's, of wss
    assert sentence in line


def test_a_certificate_that_is_not_trusted_is_explained(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certfile, files.keyfile)

    async def connect() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server, SpeechClient(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            async for _ in client:
                pass

    with pytest.raises(CertificateError, match=r"not trusted .*certs/qwen_asr_cert\.pem.*--cafile"):
        asyncio.run(connect())
    with pytest.raises(CertificateError, match="expected a certificate in PEM"):
        trusted(str(files.keyfile))


def test_where_nothing_is_said_this_is_said(served: Listening) -> None:
    done = run("stream", "--url", served.url, "-", "--rate", "16000", audio=bytes(2 * 16_000 * 3))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"No speech was found.\n")


@pytest.fixture
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a whole server with these options."""
    server = Started(tmp_path, ROOT, "--asr-model-path", "demo", "--port", "0", *request.param)
    try:
        url = server.line_with("://localhost").split()[-1]
        server.line_with("Ready.")
        yield url
    finally:
        server.kill()


@pytest.mark.parametrize("guarded", [("--auth", "anna:secret-of-anna")], indirect=True)
def test_who_gives_no_password_or_a_wrong_one_is_told_the_ways(
    guarded: str, speech: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWEN_ASR_API_KEY", raising=False)
    ways = ("--api-key", "QWEN_ASR_API_KEY", "wss://USER:PASSWORD@HOST")
    for user, key, reason in (
        ("", (), "none was given"),
        ("anna:wrong@", (), "has not accepted this user and password"),
        ("", ("--api-key", "wrong"), "has not accepted this API key"),
    ):
        assert cli.run_subcommand(["stream", "--url", guarded.replace("://", f"://{user}"), *key, str(speech)]) == 1
        said = capfd.readouterr().err
        assert all(part in said for part in (reason, *ways))
        assert "wrong" not in said
    assert cli.run_subcommand(["stream", "--url", guarded.replace("://", "://anna:secret-of-anna@"), str(speech)]) == 0
    assert capfd.readouterr().out.splitlines() == list(SENTENCES)


@pytest.mark.parametrize("guarded", [("--generate-self-signed-cert",)], indirect=True)
def test_a_server_that_speaks_https_is_recognized(
    guarded: str, speech: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert guarded.startswith("https:")
    url = f"ws:{guarded.removeprefix('https:')}"
    assert cli.run_subcommand(["stream", "--url", url, str(speech)]) == 1
    said = capfd.readouterr().err
    assert "speaks HTTPS: try wss://" in said
    assert "URI" not in said


def test_no_password_is_shown_and_other_redirects_are_named() -> None:
    moved, _ = refusal_of(InvalidURI("https://b.example/x", "scheme"), "wss://anna:secret@a.example/ws/asr")
    assert str(moved).startswith("wss://a.example/ws/asr sends its visitors on to https://b.example/x,")
    silent, later = refusal_of(TimeoutError(), "wss://anna:secret@a.example/ws/asr")
    assert later
    assert "secret" not in str(silent)


def test_addresses() -> None:
    assert socket_url("https://a.example") == "wss://a.example/ws/asr"
    assert socket_url("http://a.example:80/x/ws/asr") == "ws://a.example:80/x/ws/asr"
    for wrong in ("localhost:8000", "wss://", "wss://a:x", "wss://user@a", ""):
        with pytest.raises(BadConfig):
            socket_url(wrong)
    for wrong in ("wss://anna:secret@a:x", "anna:secret@a", "wss://anna:secret/1@a", "ftp://anna:secret@a"):
        with pytest.raises(BadConfig) as refused:
            socket_url(wrong)
        assert "secret" not in str(refused.value)


def test_a_line_holds_the_end_of_a_long_text() -> None:
    assert fit_line("abcdef", 3, 10) == ("abc", "def")
    assert fit_line("abcdef", 3, 6) == ("abc", "def")
    assert fit_line("abcdefg", 4, 6) == ("…cd", "efg")
    assert fit_line("abcdefg", 2, 6) == ("…", "cdefg")
    assert fit_line("東京都の天気", 4, 7) == ("…の", "天気")


def test_what_is_said_of_the_connection() -> None:
    out, notices = io.StringIO(), io.StringIO()
    screen = Screen(out, notices)
    for event in (
        Queued(2), Queued(2), Queued(1), Lost("It stops.", 1, 0.1), Queued(1),
        Connected("x", False, 0.0), Partial(0, 0, 1, "", "a b", 1, 0), Lost("It is gone.", 1, 0.2),
        Connected("x", True, 1.0), Gap(1.0, 2.5), Failed(0, 1, 2, "No text."), Final(1, 2, 3, "English", "A b."),
    ):  # fmt: skip
        screen.show(event)
    screen.report_missing_speech()
    assert out.getvalue() == "A b.\n"
    assert notices.getvalue().splitlines() == [
        "The server is full; position in the queue: 2.",
        "The server is full; position in the queue: 1.",
        "It stops. Trying again (1) in 0.1 s.",
        "The server is full; position in the queue: 1.",
        "Connected.",
        "It is gone. Trying again (1) in 0.2 s.",
        "Connected again.",
        "The audio from 1.0 s to 2.5 s could not be sent again and is lost.",
        "From 1.0 s to 2.0 s there is no text: No text.",
    ]
