"""Our server as a process, and speech, for the tests of other people's programs. Needs only the standard library."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("QWEN_ASR_")},
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
}
READY_SECONDS = 240  # for a server on a busy machine
VOICE = ("-v", "en-us+m5", "-s", "150")
"""One that the demo checkpoint never heard in its training: see `training/voices.py`."""


@dataclass(frozen=True)
class ClientServer:
    """A server that runs: its address, the key that it asks for, or "", and its certificate, or None."""

    url: str
    key: str = ""
    certificate: Path | None = None

    @property
    def api(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"{self.url}/v1"

    @property
    def websocket(self) -> str:
        """The address for WebSockets: ws:// or wss://, without a path."""
        return self.url.replace("http", "ws", 1)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make programs trust the certificate: OpenSSL, requests, and Node read them."""
        if self.certificate is None:
            return {}
        return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(self.certificate))


@contextlib.contextmanager
def serving(folder: Path, *options: str, key: str = "") -> Iterator[ClientServer]:
    """Runs `app.py` with the demo checkpoint and these options, in `folder`; stops it at the end."""
    command = [
        str(PYTHON),
        str(ROOT / "app.py"),
        "--asr-model-path",
        "demo",
        "--device",
        "cpu",
        "--port",
        "0",
        *options,
    ]
    if key:
        command += ["--api-key", key]
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=file, stderr=file)
    try:
        end = time.monotonic() + READY_SECONDS
        while "Ready." not in (text := output.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.1)
        found = re.search(r"https?://localhost:\d+", text)
        assert found, text
        certificate = folder / "certs" / "qwen_asr_cert.pem"
        yield ClientServer(found[0], key, certificate if certificate.exists() else None)
        assert process.poll() is None, output.read_text()
    finally:
        process.terminate()
        process.wait(60)
    text = output.read_text()
    assert "Traceback" not in text, text


class Speech:
    """A spoken sentence, as WAV files of 16-bit mono, and the words that `qwen-asr transcribe` finds in them."""

    def __init__(self, sentence: str, folder: Path) -> None:
        self.sentence = sentence
        self._folder = folder

    @functools.cached_property
    def words(self) -> list[str]:
        """See `words`. What every program has to find too."""
        command = [str(PYTHON), "-m", "qwen_asr", "transcribe", "--asr-model-path", "demo", str(self.wav(16_000))]
        done = subprocess.run(command, cwd=self._folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        return words(done.stdout)

    def wav(self, rate: int) -> Path:
        """The file with this sampling rate, in Hz. A second of silence follows the words."""
        path = self._folder / f"{rate}.wav"
        if not path.exists():
            spoken = subprocess.run(
                ["espeak-ng", *VOICE, "--stdout", self.sentence], capture_output=True, check=True
            ).stdout
            convert = ["ffmpeg", "-loglevel", "error", "-i", "-", "-af", "apad=pad_dur=1", "-ac", "1", "-ar", str(rate)]
            subprocess.run([*convert, str(path)], input=spoken, check=True)
        return path

    def pcm(self, rate: int) -> bytes:
        """The samples of `wav(rate)`: 16-bit, little-endian."""
        with wave.open(str(self.wav(rate))) as file:
            return file.readframes(file.getnframes())

    def frames(self, rate: int, milliseconds: int = 20) -> list[bytes]:
        """`pcm(rate)` in frames of this length; the last one may be shorter."""
        data, size = self.pcm(rate), rate * milliseconds // 1000 * 2
        return [data[begin : begin + size] for begin in range(0, len(data), size)]

    def mulaw_frames(self) -> list[bytes]:
        """The speech as on the telephone: G.711 mu-law at 8 kHz, in frames of 20 ms."""
        convert = ["ffmpeg", "-loglevel", "error", "-i", str(self.wav(16_000)), "-ar", "8000", "-f", "mulaw", "-"]
        data = subprocess.run(convert, capture_output=True, check=True).stdout
        return [data[begin : begin + 160] for begin in range(0, len(data), 160)]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.lower())
