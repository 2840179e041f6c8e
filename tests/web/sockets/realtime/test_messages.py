"""docs/openai.md: its examples are what the server takes and sends, its numbers are the limits; and any JSON at all."""

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
from qwen_asr.web.sockets.connection import encode
from qwen_asr.web.sockets.realtime import messages
from qwen_asr.web.sockets.realtime.settings import MOST_PADDING_MS, RATES, AudioFormat, ServerVad, Settings

CONFIG = Config()
DEFAULT = Settings(ServerVad.of(CONFIG))


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "openai.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples(document: str) -> dict[str, Any]:
    """Name → event, of every example. There is no JSON in the document but examples."""
    found = re.findall(r"<!-- example: (.+?) -->\n```json\n(.+?)\n```\n", document, re.DOTALL)
    assert len(found) == document.count("```json")
    return {name: json.loads(text) for name, text in found}


def test_what_the_client_sends_is_taken(examples: dict[str, Any]) -> None:
    sent = {name.removeprefix("client "): example for name, example in examples.items() if name.startswith("client ")}
    parsed = {name: messages.parse(messages.read(json.dumps(example))) for name, example in sent.items()}
    assert {event.kind for event in parsed.values()} == set(messages.KINDS)
    assert parsed["session.update"].event_id == "event_mine"
    assert parsed["append"].audio == bytes(4)
    new = DEFAULT.updated(parsed["session.update"].body, CONFIG)
    assert new == Settings(ServerVad(0.5, 300, 500), AudioFormat("s16le", 24_000), "de", "Grzegorz, Route 66")
    old = new.updated(parsed["transcription_session.update"].body, CONFIG)
    assert old == Settings(None, AudioFormat("mulaw", 8_000), "de", "")


def test_what_the_server_sends_is_as_shown(examples: dict[str, Any]) -> None:
    with pytest.raises(BadField) as bad:
        DEFAULT.updated({"session": {"audio": {"input": {"format": {"rate": 44_100}}}}}, CONFIG)
    failure = StepFailed("The recognizer failed on this utterance (RuntimeError). The next one goes on.")
    sent = {
        "queued": messages.queued(2),
        "session.created": messages.SessionInfo("sess_1", "Qwen/Qwen3-ASR-0.6B", 1_767_240_000).session(
            "created", DEFAULT
        ),
        "speech_started": messages.speech_started("item_1", 980),
        "speech_stopped": messages.speech_stopped("item_1", 2_956),
        "committed": messages.committed("item_1", None),
        "cleared": messages.cleared(),
        "item.added": messages.item_events("item_1", None, old=False)[0],
        "delta": messages.delta("item_1", "Turn on the"),
        "completed": messages.completed("item_1", "Turn on the kitchen light.", 1.976),
        "failed": messages.failed("item_1", failure),
        "error": messages.problem(bad.value, "event_mine"),
    }
    shown = {name.removeprefix("server "): example for name, example in examples.items() if name.startswith("server ")}
    ids = [example.pop("event_id") for example in shown.values()]
    assert len(set(ids)) == len(ids)
    assert shown == sent
    for event in sent.values():
        numbered = messages.numbered(event)
        assert json.loads(encode(numbered)) == {**event, "event_id": numbered["event_id"]}


def test_the_numbers_are_the_limits(document: str) -> None:
    limits = SocketLimits()
    sizes = f"append above {limits.message_bytes >> 20} MiB, another event above {limits.config_bytes >> 10} KiB"
    assert sizes in document
    assert f"nothing came for {limits.idle_seconds:g} s" in document
    assert f"no further than {limits.ahead_seconds:g} s of speech, or {limits.waiting_turns} turns" in document
    assert limits.session_seconds == 4 * 3600
    assert "lasted four hours" in document
    assert f"0 to {MOST_PADDING_MS:g}:" in document
    assert f"`rate` of {RATES[0]}, {RATES[1]} or {RATES[2]}" in document
    assert f"needs {messages.LEAST_COMMIT_MS:g} ms" in document
    for name, values in (("threshold", (0.01, 0.99)), ("silence_duration_ms", (100, 10_000))):
        assert f"| `{name}` | {values[0]:g} to {values[1]:g}" in document
        for value in values:
            ServerVad.of(CONFIG).updated({name: value}, "")
        for value in (values[0] * 0.99, values[1] * 1.01):
            with pytest.raises(BadField):
                ServerVad.of(CONFIG).updated({name: value}, "")


def test_the_codes_are_those_that_are_sent(document: str) -> None:
    table = document.partition("| `code` |")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+|none)", table, re.MULTILINE))
    kinds: list[type[errors.QwenASRError]] = [
        errors.BadInput,
        errors.TooLarge,
        errors.TimedOut,
        errors.LimitExceeded,
        errors.NotReady,
    ]
    sent: dict[str, type[errors.QwenASRError]] = {
        messages.problem(kind("x"))["error"]["code"]: kind for kind in [*kinds, errors.QwenASRError]
    }
    ours = {messages.problem(BadField("x", "x"))["error"]["code"], messages.too_little(0, None)["error"]["code"]}
    stopping = errors.ServerStopping()
    assert rows.pop(messages.problem(stopping)["error"]["code"]) == str(stopping.close_code)
    assert rows.keys() == {*sent, *ours, "session_expired"}
    for code, kind in sent.items():
        assert rows[code] in ("none", str(kind.close_code))


KEYS = [
    "type", "event_id", "session", "audio", "input", "format", "rate", "transcription", "model", "language", "prompt",
    "turn_detection", "threshold", "prefix_padding_ms", "silence_duration_ms", "include", "input_audio_format",
    "input_audio_transcription",
]  # fmt: skip
TEXTS = ["transcription", "server_vad", "audio/pcm", "audio/pcma", "g711_ulaw", "de", "\ud800", *messages.KINDS]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(TEXTS)
ANYTHING: st.SearchStrategy[Any] = st.deferred(
    lambda: LEAVES | st.lists(ANYTHING, max_size=3) | st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5)
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5)
INPUTS = st.dictionaries(st.sampled_from(KEYS[5:]), ANYTHING, max_size=5)
UPDATES = INPUTS.map(lambda inputs: {"type": "session.update", "session": {"audio": {"input": inputs}}})


@settings_of_hypothesis(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow
@given(OBJECTS | UPDATES)
def test_any_event_is_understood_or_told_why_not(given_event: dict[str, Any]) -> None:
    settings = DEFAULT
    try:
        given_event = messages.read(json.dumps(given_event))
        messages.event_id_of(given_event)
        event = messages.parse(given_event)
        settings = settings.updated(event.body, CONFIG) if "session" in event.body else settings
    except BadField as error:
        encode(messages.problem(error)).encode()
    told = messages.SessionInfo("sess", "model", 0)
    for old in (False, True):
        encode(told.session("updated", settings, old)).encode()
