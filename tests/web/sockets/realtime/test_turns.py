"""Who ends the turns of a realtime session where the client does not say it, and how many items it gets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.sockets import Client, Listening, client, listening, silence

pytestmark = pytest.mark.slow
FIRST, SECOND = "Turn on the kitchen light.", "The meeting is on Monday the tenth of May."
COMMITTED = "input_audio_buffer.committed"
COMPLETED = "conversation.item.input_audio_transcription.completed"
STARTED = "input_audio_buffer.speech_started"
AT_16_KHZ: dict[str, Any] = {"format": {"type": "audio/pcm", "rate": 16_000}}


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    """A server with the demo checkpoint."""
    torch.set_num_threads(1)
    with (
        contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as service,
        listening(service, route=RealtimeRoute) as server,
    ):
        yield server


async def update(speaker: Client, **inputs: Any) -> None:
    """Sends settings."""
    session = {"type": "transcription", "audio": {"input": {**AT_16_KHZ, **inputs}}}
    await speaker.send({"type": "session.update", "session": session})


async def say(speaker: Client, samples: Samples) -> None:
    """Sends 16 kHz samples in pieces of 100 ms."""
    data = (samples * 32_767).astype("<i2").tobytes()
    for begin in range(0, len(data), 3_200):
        audio = base64.b64encode(data[begin : begin + 3_200]).decode()
        await speaker.send({"type": "input_audio_buffer.append", "audio": audio})


async def commit(speaker: Client) -> None:
    """Ends the turn."""
    await speaker.send({"type": "input_audio_buffer.commit"})


@contextlib.asynccontextmanager
async def speaking(server: Listening, query: str = "") -> AsyncIterator[Client]:
    """A client that no error may reach."""
    async with client(server.url + query) as speaker:
        yield speaker
        assert speaker.of_type("error") == []


def test_a_client_that_commits_ends_its_turns_and_gets_one_item_for_each(served: Listening) -> None:
    async def speak() -> Client:
        async with speaking(served) as speaker:
            await update(speaker)
            await say(speaker, np.concatenate([spoken(FIRST), silence(1.0)]))
            await speaker.wait_for(COMPLETED)  # the voice detector is faster than the commit
            await commit(speaker)
            await say(speaker, np.concatenate([spoken(SECOND), silence(1.5), spoken(FIRST), silence(1.0)]))
            await commit(speaker)
            await speaker.wait_for(COMPLETED, 2)
        return speaker

    speaker = asyncio.run(speak())
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [FIRST, f"{SECOND} {FIRST}"]
    assert len(speaker.of_type(COMMITTED)) == 2
    assert len(speaker.of_type(STARTED)) == 1


def test_the_first_commit_ends_the_speech_that_is_under_way(served: Listening) -> None:
    async def speak() -> Client:
        async with speaking(served) as speaker:
            await update(speaker)
            for number, sentence in enumerate((FIRST, SECOND), 1):
                await say(speaker, spoken(sentence))
                await commit(speaker)
                await speaker.wait_for(COMPLETED, number)
        return speaker

    speaker = asyncio.run(speak())
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [FIRST, SECOND]


@pytest.mark.parametrize("model", ["gpt-4o-transcribe", "gpt-realtime-whisper"])
def test_a_client_that_never_commits_has_its_turns_found(served: Listening, model: str) -> None:
    async def speak() -> Client:
        async with speaking(served, f"?model={model}") as speaker:
            await update(speaker, transcription={"model": model})
            await say(speaker, np.concatenate([spoken(FIRST), silence(1.0), spoken(SECOND), silence(1.0)]))
            await speaker.wait_for(COMPLETED, 2)
        return speaker

    speaker = asyncio.run(speak())
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [FIRST, SECOND]
    assert speaker.of_type(COMPLETED)[0]["languages"] == [{"code": "en"}]


def test_a_client_that_asked_for_turn_detection_gets_an_item_for_each_commit(served: Listening) -> None:
    async def speak() -> Client:
        async with speaking(served) as speaker:
            await update(speaker, turn_detection={"type": "server_vad"})
            await say(speaker, np.concatenate([spoken(FIRST), silence(1.0)]))
            await speaker.wait_for(COMPLETED)
            await say(speaker, silence(0.5))
            await commit(speaker)
            await speaker.wait_for(COMPLETED, 2)
            await say(speaker, np.concatenate([spoken(SECOND), silence(1.0)]))
            await speaker.wait_for(COMPLETED, 3)
        return speaker

    speaker = asyncio.run(speak())
    assert [one["transcript"] for one in speaker.of_type(COMPLETED)] == [FIRST, "", SECOND]
    assert speaker.of_type(COMPLETED)[1]["languages"] == []


def test_the_probabilities_of_the_tokens_come_where_they_are_wanted(served: Listening) -> None:
    async def speak() -> Client:
        async with speaking(served) as speaker:
            include = ["item.input_audio_transcription.logprobs"]
            await speaker.send({"type": "session.update", "session": {"include": include, "turn_detection": None}})
            updated = await speaker.wait_for("session.updated")
            assert updated["session"]["include"] == include
            await update(speaker)
            await say(speaker, spoken(FIRST))
            await commit(speaker)
            await speaker.wait_for(COMPLETED)
            await speaker.send({"type": "session.update", "session": {"include": None}})
            await say(speaker, spoken(FIRST))
            await commit(speaker)
            await speaker.wait_for(COMPLETED, 2)
        return speaker

    scored, plain = asyncio.run(speak()).of_type(COMPLETED)
    assert b"".join(bytes(token["bytes"]) for token in scored["logprobs"]).decode() == scored["transcript"] == FIRST
    assert all(token["logprob"] <= 0 for token in scored["logprobs"])
    assert len({token["logprob"] for token in scored["logprobs"]}) > 1
    assert (plain["transcript"], plain["logprobs"]) == (FIRST, None)
