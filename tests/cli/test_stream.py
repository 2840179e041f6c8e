"""`qwen-asr stream`: on a terminal, in a pipe, interrupted, and refused."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen_asr.cli import main as cli
from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from tests.support.aligners import aligned_by
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.commands import QWEN_ASR, ROOT, run_in_terminal, run_with_input
from tests.support.engine_double import AlignerDouble
from tests.support.media import Track, container, save, tone
from tests.support.processes import ServerProcess
from tests.support.sockets import Listening, listening, silence

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
AUDIO = np.concatenate([spoken(SENTENCES[0]), silence(1.2), spoken(SENTENCES[1])])
PCM = (AUDIO * 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    torch.set_num_threads(1)
    with closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as service, listening(service) as server:
        yield server


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(PCM)
    return path


@pytest.mark.slow
def test_piped_audio_becomes_lines_of_text(served: Listening) -> None:
    done = run_with_input(PCM + b"\0", *QWEN_ASR, "stream", "--url", served.url, "-", "--rate", "16000")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == list(SENTENCES)


@pytest.mark.slow
def test_words_follow_their_text(served: Listening) -> None:
    command = [*QWEN_ASR, "stream", "--words", "--url", served.url, "-", "--rate", "16000"]
    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=True)):
        done = run_with_input(PCM, *command)
    lines = done.stdout.decode().splitlines()
    assert [line for line in lines if "\t" not in line] == list(SENTENCES)
    words = [line.split("\t") for line in lines if "\t" in line]
    assert [word for _, _, word in words] == " ".join(SENTENCES).split()
    times = [float(time) for start, end, _ in words for time in (start, end)]
    assert times == sorted(times)
    assert lines[0] == SENTENCES[0]
    assert lines[1].endswith("\tTurn")
    with aligned_by(demo_recognizer(), None):
        done = run_with_input(PCM, *command)
    assert done.stdout.decode().splitlines() == list(SENTENCES)
    assert "--aligner-model-path" in done.stderr.decode()


@pytest.mark.slow
def test_a_terminal_shows_growing_text_and_an_interrupt_waits_for_the_last_words(
    served: Listening, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(PCM + bytes(16_000 * 2 * 600))  # ten more minutes of silence
    # Without the interrupt the recording would last longer than the time limit of this test.
    code, output = run_in_terminal([*QWEN_ASR, "stream", "--realtime", "--url", served.url, str(path)], "The meeting")
    assert code == 0
    assert "\x1b[K" in output
    assert f"{SENTENCES[0]}\r\n" in output
    assert "\x1b[KThe meeting" in output.split("\n")[1]  # the second line, which has ended
    assert output.count("\n") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
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
def test_an_error_is_one_sentence(
    served: Listening, speech: Path, arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {"speech": speech, "url": served.url, "wss": served.url.replace("ws:", "wss:")}
    arguments = ["stream", *(argument.format(**names) for argument in arguments)]
    if "-" in arguments:  # standard input needs a process
        done = run_with_input(b"", *QWEN_ASR, *arguments)
        assert (done.returncode, done.stdout) == (code, b"")
        stderr = done.stderr.decode()
    else:
        assert cli.run_subcommand(arguments) == code
        out, stderr = capfd.readouterr()
        assert out == ""
    [line] = [line for line in stderr.splitlines() if "Invalid HTTP request" not in line]  # from the server, for wss
    assert message in line


@pytest.mark.slow
def test_missing_speech_is_reported(served: Listening) -> None:
    done = run_with_input(bytes(2 * 16_000 * 3), *QWEN_ASR, "stream", "--url", served.url, "-", "--rate", "16000")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"No speech was found.\n")


@pytest.fixture
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a server process with these options."""
    server = ServerProcess(tmp_path, ROOT, "--asr-model-path", "demo", "--port", "0", *request.param)
    try:
        url = server.line_with("://localhost").split()[-1]
        server.line_with("Ready.")
        yield url
    finally:
        server.kill()


@pytest.mark.parametrize("server_url", [("--auth", "anna:secret-of-anna")], indirect=True)
@pytest.mark.slow
def test_a_missing_or_wrong_password_is_reported_with_the_ways_to_pass_one(
    server_url: str, speech: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QWEN_ASR_API_KEY", raising=False)
    ways = ("--api-key", "QWEN_ASR_API_KEY", "wss://USER:PASSWORD@HOST")
    for user, key, reason in (
        ("", (), "none was given"),
        ("anna:wrong@", (), "has not accepted this user and password"),
        ("", ("--api-key", "wrong"), "has not accepted this API key"),
    ):
        assert cli.run_subcommand(["stream", "--url", server_url.replace("://", f"://{user}"), *key, str(speech)]) == 1
        stderr = capfd.readouterr().err
        assert all(part in stderr for part in (reason, *ways))
        assert "wrong" not in stderr
    assert (
        cli.run_subcommand(["stream", "--url", server_url.replace("://", "://anna:secret-of-anna@"), str(speech)]) == 0
    )
    assert capfd.readouterr().out.splitlines() == list(SENTENCES)


@pytest.mark.parametrize("server_url", [("--generate-self-signed-cert",)], indirect=True)
@pytest.mark.slow
def test_ws_to_an_https_server_is_explained(server_url: str, speech: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert server_url.startswith("https:")
    url = f"ws:{server_url.removeprefix('https:')}"
    assert cli.run_subcommand(["stream", "--url", url, str(speech)]) == 1
    stderr = capfd.readouterr().err
    assert "speaks HTTPS: try wss://" in stderr
    assert "URI" not in stderr


@pytest.mark.slow
def test_the_track_and_the_channel_of_a_file(
    served: Listening, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sides = np.stack([np.zeros_like(AUDIO), AUDIO], axis=1)
    film = container("matroska", Track(tone(1)), Track(sides, codec="flac", layout="stereo", tags={"language": "eng"}))
    path = str(save(tmp_path / "film.mkv", film))
    assert cli.run_subcommand(["stream", "--url", served.url, "--track", "en", "--channel", "right", path]) == 0
    assert capfd.readouterr().out.splitlines() == list(SENTENCES)
    assert cli.run_subcommand(["stream", "--url", served.url, "--track", "3", path]) == 2
    assert "it has 1 (no language, pcm_s16le, 1 channel); 2 (eng" in capfd.readouterr().err


def test_a_microphone_has_no_tracks(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["mic", "--track", "1"], ["-", "--rate", "16000", "--channel", "left"]):
        assert cli.run_subcommand(["stream", *arguments]) == 2
        assert "--track and --channel are for files" in capfd.readouterr().err
