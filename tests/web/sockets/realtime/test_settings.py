"""The settings of a realtime session: what each update changes, in both shapes of the API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadField
from qwen_asr.web.sockets.realtime.messages import SessionUpdate, parse
from qwen_asr.web.sockets.realtime.settings import AudioFormat, RealtimeSettings, ServerVad

CONFIG = Config(default_language="de")
DEFAULT = RealtimeSettings.of(CONFIG)


def new(**inputs: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"audio": {"input": inputs}}}


def old(**session: Any) -> dict[str, Any]:
    return {"type": "transcription_session.update", "session": session}


def updated(settings: RealtimeSettings, update: dict[str, Any]) -> RealtimeSettings:
    event = parse(update)
    assert isinstance(event, SessionUpdate)
    return settings.updated(event.session, CONFIG)


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


@pytest.mark.parametrize("kind", ["session.update", "transcription_session.update"])
def test_both_shapes_are_understood_under_either_type_and_mixed(kind: str) -> None:
    flat = {"input_audio_format": "pcm16", "sample_rate": 16_000, "turn_detection": None}
    settings = updated(DEFAULT, {"type": kind, "session": flat})
    assert (settings.format, settings.vad) == (AudioFormat("s16le", 16_000), None)
    nested = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"threshold": 0.7}}}
    mixed = {"input_audio_transcription": {"language": "fr", "prompt": "Names"}, "audio": nested}
    settings = updated(settings, {"type": kind, "session": mixed})
    assert settings == RealtimeSettings(
        replace(ServerVad.of(CONFIG), threshold=0.7), AudioFormat("mulaw", 8_000), "fr", "Names"
    )


def test_where_both_shapes_give_a_setting_the_nested_one_counts() -> None:
    nested = {"input": {"format": {"rate": 16_000}, "transcription": {"language": "fr"}, "turn_detection": None}}
    flat = {"input_audio_format": "g711_ulaw", "input_audio_transcription": {"language": "en"}, "turn_detection": {}}
    settings = updated(DEFAULT, old(**flat, audio=nested))
    assert (settings.format.rate, settings.language, settings.vad) == (16_000, "fr", None)


@pytest.mark.parametrize(
    ("session", "rate"),
    [
        ({"input_audio_format": "pcm16"}, 24_000),
        ({"input_audio_format": "pcm16", "sample_rate": 8_000}, 8_000),
        ({"sample_rate": 16_000}, 16_000),
        ({"input_audio_format": "pcm", "sample_rate": 48_000}, 48_000),
        ({"audio": {"input": {"format": {"type": "pcm", "sample_rate": 16_000}}}}, 16_000),
    ],
)
def test_sample_rate(session: dict[str, Any], rate: int) -> None:
    assert updated(DEFAULT, old(**session)).format == AudioFormat("s16le", rate)


def test_pcm_has_16_khz_by_default_in_dashscopes_dialect() -> None:
    settings = DEFAULT.of_dashscope()
    assert settings.format == AudioFormat("s16le", 16_000)
    assert updated(settings, old(input_audio_format="pcm16")).format == AudioFormat("s16le", 16_000)
    assert RealtimeSettings(None, AudioFormat("alaw", 8_000)).of_dashscope().format == AudioFormat("alaw", 8_000)


@pytest.mark.parametrize(
    "other",
    [
        {"type": "realtime"},
        {"include": ["item.other"]},
        {"instructions": "You are helpful.", "voice": "alloy", "tools": [], "output_modalities": ["text"]},
        {"audio": {"output": {"voice": "alloy"}, "input": {"noise_reduction": {"type": "near_field"}}}},
        {"turn_detection": {"create_response": True, "interrupt_response": True, "idle_timeout_ms": 5}},
        {"modalities": ["text"], "temperature": 0.8, "max_response_output_tokens": "inf"},
    ],
)
def test_what_nothing_here_needs_loses_no_update(other: dict[str, Any]) -> None:
    settings = updated(DEFAULT, old(**other, input_audio_transcription={"language": "fr", "prompt": "Names"}))
    assert settings == replace(DEFAULT, language="fr", prompt="Names")


def test_semantic_vad_becomes_a_length_of_silence() -> None:
    lengths = {
        eagerness: vad.silence_duration_ms
        for eagerness in (None, "high", "medium", "auto", "low")
        if (vad := updated(DEFAULT, new(turn_detection={"type": "semantic_vad", "eagerness": eagerness})).vad)
    }
    assert lengths == {None: 800, "high": 400, "medium": 800, "auto": 800, "low": 1_600}
    slow = Config(silence_threshold=9.0)
    event = parse(new(turn_detection={"type": "semantic_vad", "eagerness": "low"}))
    assert isinstance(event, SessionUpdate)
    assert RealtimeSettings.of(slow).updated(event.session, slow).vad == replace(
        ServerVad.of(slow), silence_duration_ms=10_000
    )


def test_keywords_join_the_prompt() -> None:
    keywords = ["Grzegorz", {"text": "Route 66", "weight": 2}, {"keyword": "Zorin"}, ""]
    settings = updated(DEFAULT, new(transcription={"prompt": "A call about cars.", "keywords": keywords}))
    assert settings.keywords == ("Grzegorz", "Route 66", "Zorin")
    assert settings.context == "A call about cars.\nGrzegorz, Route 66, Zorin"
    assert not settings.same_turns(DEFAULT)
    settings = updated(settings, new(transcription={"prompt": ""}))
    assert settings.context == "Grzegorz, Route 66, Zorin"
    assert updated(settings, new(transcription={"keywords": []})).context == ""
    with pytest.raises(BadField, match=r"keywords\[0\] was given \{\}; expected a string"):
        updated(settings, new(transcription={"keywords": [{}]}))


def test_one_of_languages_is_the_language_and_several_are_detected() -> None:
    settings = updated(DEFAULT, new(transcription={"languages": ["fr"]}))
    assert (settings.language, settings.languages) == ("fr", ("fr",))
    settings = updated(settings, new(transcription={"languages": ["fr", "xx"]}))
    assert (settings.language, settings.languages) == ("auto", ("fr", "xx"))
    assert updated(settings, new(transcription={"languages": ["fr", "en"], "language": "en"})).language == "en"
    assert updated(settings, new(transcription={"languages": []})).language == "de"
    assert updated(settings, new(transcription={"language": "en"})).languages == ()
    with pytest.raises(BadField, match="Unknown language"):
        updated(DEFAULT, new(transcription={"languages": ["xx"]}))


def test_the_corpus_is_the_prompt() -> None:
    settings = updated(DEFAULT, old(input_audio_transcription={"language": "zh", "corpus": {"text": "Qwen, Bailian"}}))
    assert (settings.prompt, settings.language) == ("Qwen, Bailian", "zh")
    assert updated(settings, old(input_audio_transcription={"corpus": None})).prompt == ""
