"""The dialects of `/v1/realtime`: the events that differ, and the types of the openai package for those of OpenAI."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from openai.types.realtime import ConversationItemInputAudioTranscriptionCompletedEvent

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.realtime.dialects import DASHSCOPE, OLD_OPENAI, OPENAI, ItemText, TranscriptionText
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from qwen_asr.web.sockets.realtime.settings import AudioFormat, RealtimeSettings, ServerVad, SessionInfo
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.sockets import Client, Listening, client, listening, silence

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
TRANSCRIPTION = "conversation.item.input_audio_transcription"
PCM: dict[str, Any] = {"modalities": ["text"], "input_audio_format": "pcm", "sample_rate": 16_000}
INFO = SessionInfo("sess_1", "demo", 5)
MULAW = RealtimeSettings(None, AudioFormat("mulaw", 8_000), "de", "Names", ("Zorin",), languages=("de",))


def test_the_events_report_the_settings_in_both_shapes() -> None:
    transcription = {"model": "demo", "language": "de", "languages": ("de",), "prompt": "Names", "keywords": ("Zorin",)}
    current, older = OPENAI.session(INFO, MULAW).as_dict(), OLD_OPENAI.session(INFO, MULAW, created=True).as_dict()
    assert (current["type"], older["type"]) == ("session.updated", "transcription_session.created")
    assert current["session"]["audio"]["input"] == {
        "format": {"type": "audio/pcmu"},
        "noise_reduction": None,
        "transcription": transcription,
        "turn_detection": None,
    }
    assert older["session"] == {
        "id": "sess_1",
        "object": "realtime.transcription_session",
        "input_audio_format": "g711_ulaw",
        "sample_rate": 8_000,
        "input_audio_noise_reduction": None,
        "input_audio_transcription": transcription,
        "turn_detection": None,
        "include": None,
        "expires_at": 5,
    }


def test_dashscopes_session() -> None:
    vad = ServerVad(0.6, 300, 400)
    session = DASHSCOPE.session(INFO, replace(RealtimeSettings.of(Config()).of_dashscope(), vad=vad)).as_dict()
    assert session["type"] == "session.updated"
    assert session["session"] == {
        "id": "sess_1",
        "object": "realtime.session",
        "model": "demo",
        "modalities": ("text",),
        "input_audio_format": "pcm",
        "sample_rate": 16_000,
        "input_audio_transcription": {"language": None, "corpus": {"text": ""}},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.2,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 400,
        },
    }
    assert DASHSCOPE.session(INFO, MULAW, created=True).as_dict()["session"]["turn_detection"] is None


def test_openais_deltas_are_what_has_settled() -> None:
    delta = OPENAI.progress("item_1", "Turn", "Turn on", " the light", "en")
    assert delta is not None
    assert delta.as_dict()["delta"] == " on"
    assert OPENAI.progress("item_1", "Turn on", "Turn on", " the light", "en") is None


def test_dashscopes_texts_are_whole_and_the_newest_replaces_the_one_that_waits() -> None:
    first = DASHSCOPE.progress("item_1", "", "", "Turn", None)
    second = DASHSCOPE.progress("item_1", "", "Turn", " on", "en")
    other = DASHSCOPE.progress("item_2", "", "", "Turn", None)
    assert isinstance(first, TranscriptionText)
    assert isinstance(second, TranscriptionText)
    assert isinstance(other, TranscriptionText)
    sent = second.as_dict()
    assert (sent["text"], sent["stash"], sent["language"]) == ("Turn", " on", "en")
    assert second.replaces(first)
    assert not second.replaces(other)
    assert not second.replaces(DASHSCOPE.completed("item_1", ItemText("Turn", 1.0)))


def test_the_languages_of_an_item() -> None:
    text, silence_only = ItemText("Ja, yes.", 1.5, ("de", "en")), ItemText("", 1.5)
    event = ConversationItemInputAudioTranscriptionCompletedEvent.model_validate_json(
        OPENAI.completed("item_1", text).to_json()
    )
    assert [language.code for language in event.languages or []] == ["de", "en"]
    assert OPENAI.completed("item_1", silence_only).as_dict()["languages"] == ()
    assert DASHSCOPE.completed("item_1", text).as_dict()["language"] == "de"
    assert DASHSCOPE.completed("item_1", silence_only).as_dict()["language"] is None


# --- DashScope's dialect on a server


@pytest.fixture(scope="module")
def served() -> Iterator[Listening]:
    """A server with the demo checkpoint."""
    torch.set_num_threads(1)
    with (
        contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as service,
        listening(service, route=RealtimeRoute) as server,
    ):
        yield server


def dashscope_url(server: Listening) -> str:
    return server.url.replace("/v1/", "/api-ws/v1/") + "?model=qwen3-asr-flash-realtime"


async def say(speaker: Client, samples: Samples) -> None:
    """Sends 16 kHz samples in pieces of 100 ms."""
    data = (samples * 32_767).astype("<i2").tobytes()
    for begin in range(0, len(data), 3_200):
        audio = base64.b64encode(data[begin : begin + 3_200]).decode()
        await speaker.send({"type": "input_audio_buffer.append", "audio": audio})


@pytest.mark.slow
def test_a_live_stream_of_dashscope(served: Listening) -> None:
    async def speak() -> Client:
        # The header of Alibaba's examples, which is OpenAI's for the older shape.
        headers = {"OpenAI-Beta": "realtime=v1"}
        async with client(dashscope_url(served), additional_headers=headers) as speaker:
            detection = {"type": "server_vad", "threshold": 0.0, "silence_duration_ms": 400}
            await speaker.send({"type": "session.update", "session": {**PCM, "turn_detection": detection}})
            await say(speaker, np.concatenate([silence(0.5), spoken(SENTENCES[0]), silence(0.8)]))
            await speaker.wait_for(f"{TRANSCRIPTION}.completed")
            await say(speaker, spoken(SENTENCES[1]))
            await speaker.send({"type": "session.finish", "event_id": "mine"})
            assert await speaker.closed() == 1000
        return speaker

    speaker = asyncio.run(speak())
    types = [message["type"] for message in speaker.messages]
    assert types[:2] == ["session.created", "session.updated"]
    assert speaker.messages[0]["session"]["object"] == "realtime.session"
    assert types[-2:] == [f"{TRANSCRIPTION}.completed", "session.finished"]
    assert types.count("conversation.item.created") == types.count("input_audio_buffer.committed") == 2
    assert not {f"{TRANSCRIPTION}.delta", "conversation.item.added", "error"} & set(types)
    completed = speaker.of_type(f"{TRANSCRIPTION}.completed")
    assert [one["transcript"] for one in completed] == list(SENTENCES)
    assert {one["language"] for one in completed} == {"en"}
    for one in completed:
        texts = [text for text in speaker.of_type(f"{TRANSCRIPTION}.text") if text["item_id"] == one["item_id"]]
        assert texts
        assert texts[-1]["text"] + texts[-1]["stash"] == one["transcript"]
        for earlier, later in itertools.pairwise(texts):
            assert later["text"].startswith(earlier["text"])  # what has settled stays


@pytest.mark.slow
@pytest.mark.parametrize("committed", [True, False])
def test_the_manual_mode_of_dashscope(served: Listening, committed: bool) -> None:
    async def speak() -> Client:
        async with client(dashscope_url(served)) as speaker:
            await speaker.send({"type": "session.update", "session": {**PCM, "turn_detection": None}})
            await say(speaker, np.concatenate([spoken(SENTENCES[0]), silence(1.2), spoken(SENTENCES[1])]))
            if committed:
                await speaker.send({"type": "input_audio_buffer.commit"})
            await speaker.send({"type": "session.finish"})
            assert await speaker.closed() == 1000
        return speaker

    speaker = asyncio.run(speak())
    [completed] = speaker.of_type(f"{TRANSCRIPTION}.completed")
    assert completed["transcript"] == " ".join(SENTENCES)
    assert speaker.messages[-1]["type"] == "session.finished"
    assert not speaker.of_type("error")
    assert not speaker.of_type("input_audio_buffer.speech_started")


@pytest.mark.slow
def test_a_commit_of_dashscope_without_speech_is_ignored_where_turns_are_found_by_voice(served: Listening) -> None:
    async def speak(*samples: Samples) -> Client:
        async with client(dashscope_url(served)) as speaker:
            await speaker.send({"type": "session.update", "session": {**PCM, "turn_detection": {"type": "server_vad"}}})
            for one in samples:
                await say(speaker, one)
            await speaker.send({"type": "input_audio_buffer.commit"})
            await speaker.send({"type": "session.finish"})
            assert await speaker.closed() == 1000
        return speaker

    for samples in ([], [silence(1.0)]):
        types = [message["type"] for message in asyncio.run(speak(*samples)).messages]
        assert types == ["session.created", "session.updated", "session.finished"]
    heard = asyncio.run(speak(spoken(SENTENCES[0]), silence(1.0)))
    assert [one["transcript"] for one in heard.of_type(f"{TRANSCRIPTION}.completed")] == [SENTENCES[0]]
    assert not heard.of_type("error")


@pytest.mark.slow
def test_the_dialect_on_openais_path(served: Listening) -> None:
    async def created(**options: Any) -> dict[str, Any]:
        async with client(served.url, **options) as speaker:
            return await speaker.wait_for("session.created")

    async def updated(session: dict[str, Any]) -> dict[str, Any]:
        async with client(served.url) as speaker:
            await speaker.send({"type": "session.update", "session": session})
            return await speaker.wait_for("session.updated")

    async def finished() -> Client:
        async with client(served.url) as speaker:
            await speaker.send({"type": "session.finish"})
            assert await speaker.closed() == 1000
        return speaker

    agent = {"user_agent_header": "dashscope/2.0.2; python/3.11.7"}
    assert asyncio.run(created())["session"]["object"] == "realtime.transcription_session"
    assert asyncio.run(created(**agent))["session"]["sample_rate"] == 16_000
    assert asyncio.run(updated(PCM))["session"]["object"] == "realtime.session"
    flat = {**PCM, "input_audio_format": "pcm16"}
    assert asyncio.run(updated(flat))["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 16_000}
    assert [message["type"] for message in asyncio.run(finished()).messages] == ["session.created", "session.finished"]
