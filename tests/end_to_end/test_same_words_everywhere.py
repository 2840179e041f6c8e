"""The words of the demo's own aligner: every API has the same ones, at the same times, for the same audio."""

from __future__ import annotations

import asyncio
import json
import logging
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from qwen_asr.cli import main as cli
from qwen_asr.client import Final, SpeechClient
from qwen_asr.config.config import Config
from qwen_asr.engine.frame_aligner import load_frame_aligner
from qwen_asr.service.service import Service
from qwen_asr.web.spoken_words import bare
from tests.support.aligners import aligned_by
from tests.support.browser import Served, serving
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.sockets import TIMEOUT, client, silence

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # from Gradio

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
Word = tuple[str, float, float]
"""Its text, its start and its end in seconds."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    torch.set_num_threads(1)
    recognizer = demo_recognizer()
    with (
        aligned_by(recognizer, load_frame_aligner(recognizer)),
        serving(Service(Config(host="127.0.0.1"), recognizer), None) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def pcm() -> bytes:
    """Two sentences, in 16 bits at 16 kHz."""
    pause = silence(1.2)
    said = np.concatenate([pause, spoken(SENTENCES[0]), pause, spoken(SENTENCES[1]), pause])
    return (said * 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def file(pcm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    with wave.open(str(path), "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes(pcm)
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> list[Word]:
    """The words in the JSON of the command line."""
    options = ["--asr-model-path", "demo", "--device", "cpu", "--format", "json", "--output-dir", str(file.parent)]
    level = logging.getLogger("qwen_asr").level
    assert cli.run_subcommand(["transcribe", *options, str(file)]) == 0
    logging.getLogger("qwen_asr").setLevel(level)
    utterances = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["utterances"]
    found = [tuple(word.values()) for one in utterances for word in one["words"]]
    assert " ".join(word for word, *_ in found) == " ".join(SENTENCES)
    assert all(start < end for _, start, end in found)
    assert all(one[1] < other[1] for one, other in pairwise(found))
    return found


def test_the_client_of_ws_asr(served: Served, pcm: bytes, expected: list[Word]) -> None:
    async def speak() -> list[Word]:
        async with asyncio.timeout(TIMEOUT), SpeechClient(served.url, encoding="s16le", words=True) as speaker:
            await speaker.send(np.frombuffer(pcm, "<i2"))
            await speaker.finalize()
            finals = [event async for event in speaker if isinstance(event, Final)]
        return [(word.text, word.start, word.end) for final in finals for word in final.words]

    assert asyncio.run(speak()) == expected


def test_openai(served: Served, file: Path, expected: list[Word]) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as openai_client:
        answer = openai_client.audio.transcriptions.create(
            file=file, model="any", response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert answer.words is not None
    assert [(word.word, word.start, word.end) for word in answer.words] == [
        (bare(word), start, end) for word, start, end in expected
    ]


def test_deepgram(served: Served, file: Path, pcm: bytes, expected: list[Word]) -> None:
    answered = httpx.post(f"{served.url}/v1/listen", content=file.read_bytes(), timeout=TIMEOUT).json()
    assert words_of(answered["results"]["channels"][0]) == expected

    async def speak() -> list[Word]:
        address = served.url.replace("http", "ws") + "/v1/listen?encoding=linear16&sample_rate=16000"
        async with client(address) as speaker:
            for begin in range(0, len(pcm), 32_000):
                await speaker.connection.send(pcm[begin : begin + 32_000])
            await speaker.send({"type": "CloseStream"})
            assert await speaker.closed() == 1000
        return [word for result in speaker.of_type("Results") for word in words_of(result["channel"])]

    assert asyncio.run(speak()) == expected


def words_of(channel: dict[str, Any]) -> list[Word]:
    """The words of a channel of Deepgram's, as they are written."""
    words = channel["alternatives"][0]["words"]
    assert all(0 < word["confidence"] <= 1 for word in words)
    return [(word["punctuated_word"], word["start"], word["end"]) for word in words]
