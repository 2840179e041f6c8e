"""livekit-agents: the speech recognition of its plugins for OpenAI and for Deepgram."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import deepgram, openai

from tests.support.clients import ClientServer, Speech, words

RATE = 24_000


def frames(speech: Speech) -> list[rtc.AudioFrame]:
    """The speech in frames of 20 ms."""
    return [rtc.AudioFrame(data, RATE, 1, len(data) // 2) for data in speech.frames(RATE)]


async def recognized(recognizer: stt.STT, speech: Speech) -> list[str]:
    """The words of the speech, as one request."""
    event = await recognizer.recognize(frames(speech))
    return words(event.alternatives[0].text)


async def streamed(recognizer: stt.STT, speech: Speech) -> list[stt.SpeechEvent]:
    """All events of a stream of the speech, up to the end of what was said."""
    events: list[stt.SpeechEvent] = []
    async with recognizer.stream() as stream:
        for frame in frames(speech):
            stream.push_frame(frame)
        async for event in stream:
            events.append(event)
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT and event.alternatives[0].text:
                return events
    raise AssertionError(f"no final text came: {events}")


def run(work: Any) -> Any:
    """Runs a coroutine as a job of an agent would, with an HTTP session."""

    async def inside() -> Any:
        async with http_context.open():
            return await work

    return asyncio.run(inside())


def test_openai_over_rest(server: ClientServer, speech: Speech) -> None:
    recognizer = openai.STT(base_url=server.api, api_key="any", model="gpt-4o-transcribe", language="en")
    assert run(recognized(recognizer, speech)) == speech.words


@pytest.mark.parametrize("detect_language", [False, True])
def test_openai_realtime(server: ClientServer, speech: Speech, detect_language: bool) -> None:
    recognizer = openai.STT(
        base_url=server.api,
        api_key="any",
        model="gpt-4o-transcribe",
        language="en",
        detect_language=detect_language,
        use_realtime=True,
    )
    events = run(streamed(recognizer, speech))
    assert words(events[-1].alternatives[0].text) == speech.words
    assert events[-1].alternatives[0].language == "en"


def test_openai_realtime_with_a_model_whose_turns_the_client_ends(server: ClientServer, speech: Speech) -> None:
    """The plugin leaves `turn_detection` out, commits at the pauses that its own voice detector finds, and ends with
    the first error."""
    recognizer = openai.STT(
        base_url=server.api,
        api_key="any",
        model="gpt-live-transcribe",
        language=["en", "de"],
        keywords=["kitchen", "light"],
    )
    events = run(streamed(recognizer, speech))
    assert words(events[-1].alternatives[0].text) == speech.words
    assert events[-1].alternatives[0].language == "en"


def test_deepgram_live(server: ClientServer, speech: Speech) -> None:
    recognizer = deepgram.STT(base_url=f"{server.api}/listen", api_key="any", sample_rate=RATE, keyterm=["light"])
    events = run(streamed(recognizer, speech))
    final = events[-1].alternatives[0]
    assert words(final.text) == speech.words
    assert final.language == "en-US"
    assert 0 < final.confidence <= 1
    assert events[0].type == stt.SpeechEventType.START_OF_SPEECH


def test_deepgram_over_rest(server: ClientServer, speech: Speech) -> None:
    recognizer = deepgram.STT(base_url=f"{server.api}/listen", api_key="any")
    assert run(recognized(recognizer, speech)) == speech.words
