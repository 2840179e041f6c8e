"""Clients for the REST tests: the openai package and plain httpx, with recordings to upload."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import torch
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import load_audio
from qwen_asr.inference.qwen3_asr import Qwen3ASRModel
from tests.support.browser import Served, write_wav
from tests.support.checkpoints import demo_recognizer, spoken

SENTENCES = (
    "Turn on the kitchen light.",
    "The meeting is on Monday the tenth of May.",
    "Wake me up at half past six.",
)


@cache
def speech(times: int = 1) -> bytes:
    """A WAV file of `SENTENCES`, `times` times (about 12 s each), with pauses that end utterances."""
    pause = np.zeros(int(1.2 * SAMPLE_RATE), np.float32)
    parts = [part for text in SENTENCES * times for part in (pause, spoken(text))]
    return wav(np.concatenate([*parts, pause]))


def wav(samples: NDArray[np.float32]) -> bytes:
    """The bytes of a WAV file with these 16 kHz samples."""
    with tempfile.TemporaryDirectory() as folder:
        return write_wav(Path(folder) / "speech.wav", samples, SAMPLE_RATE).read_bytes()


def offline(recording: bytes, start: float, end: float) -> str:
    """The text of `Qwen3ASRModel.transcribe` for the seconds from `start` to `end` of a recording."""
    torch.set_num_threads(1)
    samples = load_audio(recording)[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return Qwen3ASRModel(demo_recognizer()).transcribe((samples, SAMPLE_RATE))[0].text


class Clients:
    """Clients of one server. They trust its certificate and do not retry."""

    def __init__(self, served: Served, certificates: Path) -> None:
        self.url = served.url
        self.service = served.service
        self._trust = ssl.create_default_context(cafile=str(certificates / "qwen_asr_cert.pem"))

    @contextlib.contextmanager
    def sync(self) -> Iterator[openai.OpenAI]:
        """The openai package's client."""
        http = openai.DefaultHttpxClient(verify=self._trust)
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", http_client=http, max_retries=0) as client:
            yield client

    @contextlib.asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """The openai package's asyncio client."""
        http = openai.DefaultAsyncHttpxClient(verify=self._trust)
        settings: dict[str, Any] = {"api_key": "none", "http_client": http, "max_retries": 0}
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", **settings) as client:
            yield client

    @contextlib.contextmanager
    def plain(self) -> Iterator[httpx.Client]:
        """A plain HTTP client, for requests that the openai package would not send."""
        with httpx.Client(base_url=self.url, verify=self._trust, timeout=60) as client:
            yield client


def form(boundary: str, recording: bytes, **fields: str) -> bytes:
    """A multipart form with the file and these fields, so that a test knows every byte of it."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    parts.append(b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + recording)
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"


def open_in(folder: Path) -> int:
    """How many files in `folder` this process has open, including files that were never linked to a name."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in between
            count += str(link.readlink()).startswith(f"{folder}/")
    return count
