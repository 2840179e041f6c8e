"""pipecat: its services for speech recognition at OpenAI and Deepgram, each in a pipeline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner

from tests.support.clients import ClientServer, Speech, words

RATE = 16_000


class Transcripts(FrameProcessor):
    """Ends the pipeline with the first transcript."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[TranscriptionFrame] = []
        self.worker: Any = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Keeps transcripts."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.found.append(frame)
            await self.worker.queue_frame(EndFrame())
        await self.push_frame(frame, direction)


def transcribed(service: Any, speech: Speech) -> list[TranscriptionFrame]:
    """Speaks in a pipeline with that service, between the frames of a voice detector; returns its transcripts."""

    async def run() -> list[TranscriptionFrame]:
        end = Transcripts()
        params = PipelineParams(audio_in_sample_rate=RATE)
        worker = PipelineWorker(Pipeline([service, end]), params=params, cancel_on_idle_timeout=False)
        end.worker = worker
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def _(*_: Any) -> None:
            started.set()

        async def speak() -> None:
            await started.wait()
            await worker.queue_frame(VADUserStartedSpeakingFrame())
            for data in speech.frames(RATE):
                await worker.queue_frame(InputAudioRawFrame(data, RATE, 1))
            await worker.queue_frame(VADUserStoppedSpeakingFrame())

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await asyncio.gather(runner.run(), speak())
        return end.found

    return asyncio.run(run())


def test_openai_over_rest(server: ClientServer, speech: Speech) -> None:
    service = OpenAISTTService(base_url=server.api, api_key="any")
    [frame] = transcribed(service, speech)
    assert words(frame.text) == speech.words


@pytest.mark.parametrize("turn_detection", [False, None], ids=["client's turns", "server's turns"])
def test_openai_realtime(server: ClientServer, speech: Speech, turn_detection: Any) -> None:
    service = OpenAIRealtimeSTTService(
        base_url=f"{server.websocket}/v1/realtime", api_key="any", turn_detection=turn_detection
    )
    [frame] = transcribed(service, speech)
    assert words(frame.text) == speech.words


def test_deepgram(server: ClientServer, speech: Speech) -> None:
    service = DeepgramSTTService(base_url=server.websocket, api_key="any")
    [frame] = transcribed(service, speech)
    assert words(frame.text) == speech.words
    assert frame.result.channel.alternatives[0].confidence > 0
