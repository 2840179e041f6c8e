"""The settings of a realtime session: what each update changes, in both shapes of the API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwen_asr.config.config import Config
from qwen_asr.web.sockets.realtime.messages import OldSessionUpdate, SessionUpdate, parse
from qwen_asr.web.sockets.realtime.settings import AudioFormat, RealtimeSettings, ServerVad, SessionInfo

CONFIG = Config(default_language="de")
DEFAULT = RealtimeSettings.of(CONFIG)


def new(**inputs: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"audio": {"input": inputs}}}


def old(**session: Any) -> dict[str, Any]:
    return {"type": "transcription_session.update", "session": session}


def updated(settings: RealtimeSettings, update: dict[str, Any]) -> RealtimeSettings:
    event = parse(update)
    assert isinstance(event, SessionUpdate | OldSessionUpdate)
    return settings.updated(event, CONFIG)


@pytest.mark.parametrize("update", [new(), old(), new(other=1), {"type": "session.update", "session": {"audio": None}}])
def test_what_is_left_out_keeps_its_value(update: dict[str, Any]) -> None:
    settings = RealtimeSettings(None, AudioFormat("alaw", 8_000), "fr", "Names")
    assert updated(settings, update) == settings


@pytest.mark.parametrize("update", [new(transcription=None), old(input_audio_transcription=None)])
def test_null_restores_the_servers_defaults(update: dict[str, Any]) -> None:
    settings = RealtimeSettings(None, language="fr", prompt="Names")
    assert updated(settings, update) == RealtimeSettings(None, language="de", prompt="")


def test_each_part_of_a_transcription_changes_alone() -> None:
    settings = RealtimeSettings(None, language="fr", prompt="Names")
    assert updated(settings, new(transcription={"prompt": None})).language == "fr"
    assert updated(settings, new(transcription={"language": ""})) == replace(settings, language="de")
    assert updated(settings, new(transcription={"model": "any"})) == settings


@pytest.mark.parametrize(
    ("update", "encoding", "rate"),
    [
        (new(format=None), "s16le", 24_000),
        (new(format={}), "s16le", 24_000),
        (new(format={"rate": 16_000.0}), "s16le", 16_000),
        (new(format={"type": "audio/pcmu"}), "mulaw", 8_000),
        (new(format={"type": "audio/pcma", "rate": 8_000}), "alaw", 8_000),
        (old(input_audio_format=None), "s16le", 24_000),
        (old(input_audio_format="g711_alaw"), "alaw", 8_000),
    ],
)
def test_formats(update: dict[str, Any], encoding: str, rate: int) -> None:
    settings = updated(RealtimeSettings(None, AudioFormat("mulaw", 8_000)), update)
    assert settings.format == AudioFormat(encoding, rate)
    assert settings.same_turns(RealtimeSettings(None))


@pytest.mark.parametrize("shape", [new, old])
def test_turn_detection(shape: Any) -> None:
    off = updated(DEFAULT, shape(turn_detection=None))
    assert off.vad is None
    assert not off.same_turns(DEFAULT)
    on = updated(off, shape(turn_detection={"silence_duration_ms": 200}))
    assert on.vad == ServerVad(CONFIG.vad_threshold, 300, 200)
    assert updated(on, shape(turn_detection={"threshold": 0.9})).vad == ServerVad(0.9, 300, 200)


def test_the_events_report_the_settings_in_both_shapes() -> None:
    info = SessionInfo("sess_1", "demo", 5)
    settings = RealtimeSettings(None, AudioFormat("mulaw", 8_000), "de", "Names")
    transcription = {"model": "demo", "language": "de", "prompt": "Names"}
    current, older = info.event(settings).as_dict(), info.event(settings, old_api=True, created=True).as_dict()
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
        "input_audio_noise_reduction": None,
        "input_audio_transcription": transcription,
        "turn_detection": None,
        "include": None,
        "expires_at": 5,
    }
