"""Concurrent sessions and long load: small runs of the service benchmarks, without their timings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.load import RunningServer, SessionResult, count_mismatches, server, stream_clip
from benchmarks.soak import soak
from benchmarks.speech import Samples, conversation
from qwen_asr import Qwen3ASRModel
from tests.support.checkpoints import demo_recognizer

pytestmark = pytest.mark.slow

SESSIONS = 24
ROUNDS = 15
WARM_UP_ROUNDS = 5
"""Rounds before the first memory measurement: allocators and the device's shape caches still fill up during these."""


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    """A server in a separate process, with the demo checkpoint."""
    with server("--asr-model-path", "demo", "--device", "cpu") as started:
        yield started


def test_concurrent_sessions_equal_offline_transcription(running: RunningServer) -> None:
    clips = [conversation(6, seed) for seed in range(SESSIONS)]

    async def run_all() -> list[SessionResult]:
        return list(await asyncio.gather(*(stream_clip(running.url, samples, realtime=False) for samples in clips)))

    model = Qwen3ASRModel(demo_recognizer())
    pairs: list[tuple[Samples, SessionResult]] = list(zip(clips, asyncio.run(run_all()), strict=True))
    assert [result.errors for _, result in pairs] == [[]] * SESSIONS
    assert sum(len(result.finals) for _, result in pairs) > SESSIONS
    assert sum(count_mismatches(model, samples, result) for samples, result in pairs) == 0


def test_memory_does_not_grow(running: RunningServer) -> None:
    result = asyncio.run(soak(running, [conversation(5, seed) for seed in range(8)], ROUNDS))
    assert result.errors == []
    assert result.finals >= 8 * ROUNDS
    assert result.memory[-1] / result.memory[WARM_UP_ROUNDS - 1] < 1.05
