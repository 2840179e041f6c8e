"""Many speakers at once, and for long: the benchmarks of the service in small, without their times."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.load import Heard, Running, differing, server, speak
from benchmarks.soak import soak
from benchmarks.speech import Samples, conversation
from qwen_asr import Qwen3ASRModel
from tests.support.checkpoints import demo_recognizer

SESSIONS = 24
ROUNDS = 15
SETTLED = 5
"""Rounds after which the memory is compared: until then allocators, and the device's caches of shapes, still fill."""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """The server as it is started, with the demo checkpoint."""
    with server("--asr-model-path", "demo", "--device", "cpu") as started:
        yield started


def test_what_each_of_many_is_told_is_what_offline_transcription_gives(running: Running) -> None:
    clips = [conversation(6, seed) for seed in range(SESSIONS)]

    async def together() -> list[Heard]:
        return list(await asyncio.gather(*(speak(running.url, samples, realtime=False) for samples in clips)))

    model = Qwen3ASRModel(demo_recognizer())
    pairs: list[tuple[Samples, Heard]] = list(zip(clips, asyncio.run(together()), strict=True))
    assert [heard.errors for _, heard in pairs] == [[]] * SESSIONS
    assert sum(len(heard.finals) for _, heard in pairs) > SESSIONS
    assert sum(differing(model, samples, heard) for samples, heard in pairs) == 0


def test_memory_stays_where_it_is(running: Running) -> None:
    result = asyncio.run(soak(running, [conversation(7.5, seed) for seed in range(8)], ROUNDS))
    assert result.errors == []
    assert result.finals >= 8 * ROUNDS
    assert result.memory[-1] / result.memory[SETTLED - 1] < 1.05
