"""Alibaba's own package, with only the address changed: the realtime API for Qwen-ASR, live and in manual mode."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from dashscope.audio.qwen_omni import MultiModality, OmniRealtimeCallback, OmniRealtimeConversation
from dashscope.audio.qwen_omni.omni_realtime import AudioFormatConfig, TranscriptionParams

from tests.support.clients import ClientServer, Speech, words

MODEL = "qwen3-asr-flash-realtime"
TRANSCRIPTION = "conversation.item.input_audio_transcription"
SECONDS = 120.0


class Events(OmniRealtimeCallback):
    """Keeps the events of the server."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()

    def on_event(self, message: Any) -> None:
        """Called on the package's thread."""
        with self._news:
            self.events.append(message)
            self._news.notify_all()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The events of that type so far."""
        return [event for event in self.events if event["type"] == kind]

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The first event of that type, once it is there."""
        with self._news:
            assert self._news.wait_for(lambda: self.of_type(kind), SECONDS), self.events
        return self.of_type(kind)[0]


def conversation(address: str, callback: Events, key: str = "any") -> Any:
    """A connection, as the package's examples make it."""
    connected = OmniRealtimeConversation(model=MODEL, callback=callback, url=address, api_key=key)
    connected.connect()
    return connected


def say(connected: Any, speech: Speech, rate: int) -> None:
    """Sends the speech in frames of 100 ms."""
    for frame in speech.frames(rate, 100):
        connected.append_audio(base64.b64encode(frame).decode())


@pytest.mark.parametrize("path", ["/api-ws/v1/realtime", "/v1/realtime"])
def test_a_live_stream(server: ClientServer, speech: Speech, path: str) -> None:
    callback = Events()
    connected = conversation(server.websocket + path, callback)
    parameters = TranscriptionParams(language="en", sample_rate=16_000, corpus_text="kitchen, light")
    connected.update_session(
        output_modalities=[MultiModality.TEXT],
        transcription_params=parameters,
        turn_detection_threshold=0.0,
        turn_detection_silence_duration_ms=400,
    )
    say(connected, speech, 16_000)
    completed = callback.wait_for(f"{TRANSCRIPTION}.completed")
    connected.end_session(timeout=SECONDS)
    assert (words(completed["transcript"]), completed["language"]) == (speech.words, "en")
    kinds = [event["type"] for event in callback.events]
    assert kinds[:2] == ["session.created", "session.updated"]
    assert kinds[-1] == "session.finished"
    for kind in ("speech_started", "speech_stopped", "committed"):
        assert kinds.count(f"input_audio_buffer.{kind}") == 1
    shown = callback.of_type(f"{TRANSCRIPTION}.text")[-1]
    assert words(shown["text"] + shown["stash"]) == speech.words
    assert connected.get_session_id() == callback.events[0]["session"]["id"]


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_manual_mode(server: ClientServer, speech: Speech, rate: int) -> None:
    callback = Events()
    connected = conversation(f"{server.websocket}/api-ws/v1/realtime", callback)
    connected.update_session(
        output_modalities=[MultiModality.TEXT],
        transcription_params=TranscriptionParams(sample_rate=rate),
        enable_turn_detection=False,
    )
    say(connected, speech, rate)
    connected.commit()
    connected.end_session(timeout=SECONDS)
    [completed] = callback.of_type(f"{TRANSCRIPTION}.completed")
    assert words(completed["transcript"]) == speech.words
    assert not callback.of_type("error")


def test_the_newer_shape_of_the_formats(server: ClientServer, speech: Speech) -> None:
    callback = Events()
    connected = conversation(f"{server.websocket}/api-ws/v1/realtime", callback)
    connected.update_session(
        output_modalities=[MultiModality.TEXT], input_audio_config=AudioFormatConfig(sample_rate=24_000)
    )
    say(connected, speech, 24_000)
    connected.end_session(timeout=SECONDS)
    assert callback.of_type("session.updated")[0]["session"]["sample_rate"] == 24_000
    [completed] = callback.of_type(f"{TRANSCRIPTION}.completed")
    assert words(completed["transcript"]) == speech.words
