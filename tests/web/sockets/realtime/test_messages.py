"""The events of `/v1/realtime`: docs/openai.md and docs/dashscope.md have examples of all; and any JSON at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from qwen_asr import errors
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import BadField, StepFailed
from qwen_asr.web.sockets.realtime import messages
from qwen_asr.web.sockets.realtime.dialects import (
    DASHSCOPE,
    OLD_OPENAI,
    OPENAI,
    ItemText,
    SessionFinished,
    Span,
)
from qwen_asr.web.sockets.realtime.messages import MIN_COMMIT_MS
from qwen_asr.web.sockets.realtime.settings import AudioFormat, RealtimeSettings, ServerVad, SessionInfo
from qwen_asr.web.sockets.realtime.updates import MAX_PADDING_MS, RATES, context_path

CONFIG = Config()
DEFAULT = RealtimeSettings.of(CONFIG)


def update(**inputs: Any) -> RealtimeSettings:
    """The default settings with an update of the input."""
    event = messages.parse({"type": "session.update", "session": {"audio": {"input": inputs}}})
    assert isinstance(event, messages.SessionUpdate)
    return DEFAULT.updated(event.session, CONFIG)


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "openai.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples(document: str, repository: Path) -> dict[str, Any]:
    """Name → event, of every example. There is no JSON in the documents but examples."""
    documents = document + (repository / "docs" / "dashscope.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- example: (.+?) -->\n```json\n(.+?)\n```\n", documents, re.DOTALL)
    assert len(found) == documents.count("```json")
    return {name: json.loads(text) for name, text in found}


def parsed(event: dict[str, Any], dashscope: bool = False) -> messages.ClientEvent:
    return messages.parse(messages.read(json.dumps(event)), dashscope)


def test_the_server_accepts_the_examples_of_clients(examples: dict[str, Any]) -> None:
    sent = {name.removeprefix("client "): example for name, example in examples.items() if name.startswith("client ")}
    types = {parsed(example, messages.shows_dashscope(example)).type for example in sent.values()}
    assert types == set(messages.KINDS)
    append, update, old_update = (
        parsed(sent[name]) for name in ("append", "session.update", "transcription_session.update")
    )
    assert isinstance(append, messages.AudioAppend)
    assert append.audio == bytes(4)
    assert update.event_id == "event_mine"
    assert isinstance(update, messages.SessionUpdate)
    new = DEFAULT.updated(update.session, CONFIG)
    assert new == RealtimeSettings(ServerVad(0.5, 300, 500), AudioFormat("s16le", 24_000), "de", "Grzegorz, Route 66")
    assert isinstance(old_update, messages.SessionUpdate)
    old = new.updated(old_update.session, CONFIG)
    assert old == RealtimeSettings(None, AudioFormat("mulaw", 8_000), "de", "")


def test_the_server_accepts_dashscopes_examples(examples: dict[str, Any]) -> None:
    shown = [examples[f"client {name}"] for name in ("session.update of DashScope", "session.finish")]
    assert all(messages.shows_dashscope(example) for example in shown)
    update, finish = (parsed(example, dashscope=True) for example in shown)
    assert isinstance(finish, messages.SessionFinish)
    assert isinstance(update, messages.SessionUpdate)
    settings = DEFAULT.of_dashscope().updated(update.session, CONFIG)
    assert settings == RealtimeSettings(ServerVad(0.5, 300, 400), AudioFormat("s16le", 16_000), "zh", "Qwen, Bailian")
    others = (example for name, example in examples.items() if name.startswith("client ") and example not in shown)
    assert not any(messages.shows_dashscope(example) for example in others)


def test_events_of_a_conversation_are_refused_with_the_reason() -> None:
    for kind in ("response.create", "conversation.item.create", "input_image_buffer.append"):
        with pytest.raises(BadField, match=r"this server only transcribes; expected one of session\.update"):
            parsed({"type": kind})


def test_the_server_sends_the_examples(examples: dict[str, Any]) -> None:
    with pytest.raises(BadField) as bad:
        update(format={"rate": 44_100})
    info = SessionInfo("sess_1", "Qwen/Qwen3-ASR-0.6B", 1_767_240_000)
    failure = StepFailed("The recognizer failed on this utterance (RuntimeError). The next one goes on.")
    text = ItemText("Turn on the kitchen light.", 1.976, ("en",), (Span(start_ms=0, end_ms=1_976),))
    sent: dict[str, Any] = {
        "loading": messages.Loading(message="Moving Qwen/Qwen3-ASR-1.7B to cuda …"),
        "queued": messages.Queued(position=2),
        "session.created": OPENAI.session(info, DEFAULT, created=True),
        "warning": messages.SessionWarning(
            code="SampleFormat",
            message="The audio was announced as signed 16-bit little endian (s16le), but looks like float32 little "
            "endian (f32le): send the format that is announced, or announce the one that is sent. Until then texts are "
            "wrong or empty.",
        ),
        "speech_started": messages.SpeechStarted(audio_start_ms=980, item_id="item_1"),
        "speech_stopped": messages.SpeechStopped(audio_end_ms=2_956, item_id="item_1"),
        "committed": messages.Committed(previous_item_id=None, item_id="item_1"),
        "cleared": messages.Cleared(),
        "item.added": OPENAI.announce("item_1", None)[0],
        "delta": OPENAI.progress("item_1", "", "Turn on the", " kit", "en"),
        "completed": OPENAI.completed("item_1", text),
        "failed": messages.failed("item_1", failure),
        "error": messages.error_event(bad.value, "event_mine"),
        "session.created of DashScope": DASHSCOPE.session(info, DEFAULT.of_dashscope(), created=True),
        "text": DASHSCOPE.progress("item_1", "", "Turn on", " the kitchen", "en"),
        "completed of DashScope": DASHSCOPE.completed("item_1", text),
        "session.finished": SessionFinished(),
    }
    shown = {name.removeprefix("server "): example for name, example in examples.items() if name.startswith("server ")}
    ids = [example.pop("event_id") for example in shown.values()]
    assert len(set(ids)) == len(ids)
    assert {event.event_id for event in sent.values()}.isdisjoint(ids)
    assert len({event.event_id for event in sent.values()}) == len(sent)
    for name, event in sent.items():
        assert json.loads(event.to_json()) == {**shown[name], "event_id": event.event_id}
    assert shown.keys() == sent.keys()


def test_the_numbers_are_the_limits(document: str) -> None:
    limits = SocketLimits()
    sizes = f"append above {limits.message_bytes >> 20} MiB, another event above {limits.config_bytes >> 10} KiB"
    assert sizes in document
    assert f"nothing came for {limits.idle_seconds:g} s" in document
    assert f"no further than {limits.ahead_seconds:g} s of speech, or {limits.waiting_turns} turns" in document
    assert limits.session_seconds == 4 * 3600
    assert "lasted four hours" in document
    assert f"0 to {MAX_PADDING_MS:g}:" in document
    assert f"`rate` of {RATES[0]}, {RATES[1]}, {RATES[2]} or {RATES[3]}" in document
    assert f"needs {MIN_COMMIT_MS:g} ms" in document
    for name, values in (("threshold", (0.01, 0.99)), ("silence_duration_ms", (100, 10_000))):
        assert f"| `{name}` | {values[0]:g} to {values[1]:g}" in document
        for value in values:
            vad = update(turn_detection={name: value}).vad
            assert vad is not None
            assert getattr(vad, name) == value
        for value in (values[0] * 0.99, values[1] * 1.01):
            with pytest.raises(BadField, match=f"expected a number from {values[0]:g} to {values[1]:g}"):
                update(turn_detection={name: value})


def test_the_codes_are_those_that_are_sent(document: str) -> None:
    table = document.partition("| `code` |")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+|none)", table, re.MULTILINE))
    kinds: list[type[errors.QwenASRError]] = [
        errors.BadInput,
        errors.AudioError,
        errors.TooLarge,
        errors.TimedOut,
        errors.LimitExceeded,
        errors.NotReady,
    ]
    sent: dict[str, type[errors.QwenASRError]] = {
        messages.error_event(kind("x")).error.code: kind for kind in [*kinds, errors.QwenASRError]
    }
    ours = {messages.error_event(BadField("x", "x")).error.code, messages.too_little_audio(0, None).error.code}
    stopping = errors.ServerStopping()
    assert rows.pop(messages.error_event(stopping).error.code) == str(stopping.close_code)
    assert rows.keys() == {*sent, *ours, "session_expired"}
    for code, kind in sent.items():
        assert rows[code] in ("none", str(kind.close_code))


KEYS = [
    "type", "event_id", "session", "audio", "input", "format", "rate", "transcription", "model", "language", "prompt",
    "turn_detection", "threshold", "prefix_padding_ms", "silence_duration_ms", "include", "input_audio_format",
    "input_audio_transcription", "sample_rate", "keywords", "languages", "corpus", "text", "eagerness", "modalities",
]  # fmt: skip
TEXTS = [
    "transcription", "server_vad", "semantic_vad", "low", "audio/pcm", "audio/pcma", "g711_ulaw", "pcm", "opus", "de",
    "\ud800", *messages.KINDS,
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(TEXTS)
ANYTHING: st.SearchStrategy[Any] = st.deferred(
    lambda: LEAVES | st.lists(ANYTHING, max_size=3) | st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5)
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5)
INPUTS = st.dictionaries(st.sampled_from(KEYS[5:]), ANYTHING, max_size=5)
UPDATES = INPUTS.map(lambda inputs: {"type": "session.update", "session": {"audio": {"input": inputs}}})
FLAT_UPDATES = INPUTS.map(lambda inputs: {"type": "transcription_session.update", "session": inputs})


@pytest.mark.slow
@settings_of_hypothesis(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow
@given(OBJECTS | UPDATES | FLAT_UPDATES, st.booleans())
def test_any_event_is_parsed_or_answered_with_an_error(given_event: dict[str, Any], dashscope: bool) -> None:
    settings = DEFAULT
    try:
        given_event = messages.read(json.dumps(given_event))
        messages.event_id_of(given_event)
        dashscope = messages.shows_dashscope(given_event) or dashscope
        event = messages.parse(given_event, dashscope)
        if isinstance(event, messages.SessionUpdate):
            settings = settings.updated(event.session, CONFIG)
            context_path(event.session)
    except BadField as error:
        messages.error_event(error).to_json().encode()
    info = SessionInfo("sess", "model", 0)
    for dialect in (OPENAI, OLD_OPENAI, DASHSCOPE):
        dialect.session(info, settings).to_json().encode()
