"""docs/protocol.md: its examples are what the server accepts and sends, and its numbers are the limits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qwen_asr import errors
from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Aligned, Failed, Final, Partial
from qwen_asr.web.sockets.asr import connection, messages

PARTIAL = Partial(0, 8_000, 24_000, "English", "Turn on the kit", 11, 0.25)
TIMES = (13_120, 16_960, 19_520, 20_816, 27_200, 35_200)
WORDS = tuple(map(Word, ("Turn", "on", "the", "kitchen", "light."), TIMES, TIMES[1:]))
FINAL = Final(0, 8_000, 40_000, "English", "Turn on the kitchen light.", 0.0, words=WORDS)
ALIGNED = Aligned(3, (Word("Thanks.", 980_800, 989_120),))
NOW = 1_767_225_600.25
FAILED = Failed(0, 8_000, 40_000, "The recognizer failed on this utterance (RuntimeError). The next one goes on.", 0.0)


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "protocol.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples(document: str) -> dict[str, Any]:
    """Name → message, of every example. There is no JSON in the document but examples."""
    found = re.findall(r"<!-- example: (.+?) -->\n```json\n(.+?)\n```\n", document, re.DOTALL)
    assert len(found) == document.count("```json")
    return {name: json.loads(text) for name, text in found}


def test_the_server_accepts_the_examples_of_clients(examples: dict[str, Any]) -> None:
    config = examples.pop("client config")
    parsed = messages.parse_config(json.dumps(config))
    keys = ("context", "prompt", "language", "chunk_size_sec", "sample_rate", "encoding", "words")
    assert [getattr(parsed, key) for key in keys] == [config[key] for key in keys]
    again = examples.pop("client config that resumes")
    parsed = messages.parse_config(json.dumps(again))
    assert (parsed.resume, parsed.offset) == (again["resume"], again["offset"])
    assert messages.parse_control(json.dumps(examples.pop("client finalize"))) == "finalize"
    assert messages.parse_control(json.dumps(examples.pop("client keepalive"))) == "keepalive"
    assert all(name.startswith("server ") for name in examples)


def test_the_server_sends_the_examples(examples: dict[str, Any]) -> None:
    with pytest.raises(errors.BadConfig) as bad:
        messages.parse_config('{"type": "config", "chunk_size_sec": 0}')
    sent = {
        "session_created": messages.SessionCreated(session_id="t5Vq0Yx3dC9mXo2b1JrW8w"),
        "session_resumed": messages.SessionResumed(session_id="t5Vq0Yx3dC9mXo2b1JrW8w", received_samples=48_000),
        "session_created instead": messages.SessionCreated(
            session_id="Zk3nq8vR0cWmB5yTf1LxQA", received_samples=40_000
        ),
        "queued": messages.Queued(position=2),
        "loading": messages.Loading(message="Loading Qwen/Qwen3-ASR-1.7B (4692 MB) on cuda in bfloat16 …"),
        "warning": messages.unknown_message("stop"),
        "partial": messages.event_message(PARTIAL, 28_000, NOW),
        "final": messages.event_message(FINAL, 48_000, NOW + 1.25, with_words=True),
        "words": messages.words_message(ALIGNED),
        "error": messages.error_message(bad.value),
        "error of an utterance": messages.event_message(FAILED, 48_000, NOW),
    }
    shown = {name.removeprefix("server "): example for name, example in examples.items() if name.startswith("server ")}
    assert shown == {name: json.loads(message.to_json()) for name, message in sent.items()}


def test_every_key_is_explained(document: str, examples: dict[str, Any]) -> None:
    keys = {key for example in examples.values() for key in example} | {"warning", '"repeated": true'}
    assert {key for key in keys if f"`{key}`" not in document} == set()


def test_each_warning_has_a_line() -> None:
    warned = Final(0, 0, 1, None, "", 0.0, warnings=("silence: nothing.", "step: again."))
    assert messages.event_message(warned, 1, NOW).as_dict()["warning"] == "silence: nothing.\nstep: again."


def test_the_codes_are_those_of_the_errors(document: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+|none) \|", document, re.MULTILINE)
    assert len(rows) >= 10
    for name, code in rows:
        kind = getattr(errors, name)
        assert code == ("none" if kind is errors.StepFailed else str(kind.close_code))


def test_the_numbers_are_the_limits(document: str) -> None:
    limits = SocketLimits()
    assert f"above {limits.config_bytes >> 10} KiB, audio above {limits.message_bytes >> 20} MiB" in document
    assert f"no config within {limits.config_seconds:g} s, or no sign of life for {limits.idle_seconds:g} s" in document
    assert f"sends no audio for {limits.pause_seconds:g} s while others wait" in document
    assert (limits.idle_seconds, limits.pause_seconds) == (Config().max_idle_seconds, Config().max_pause_seconds)
    assert f"no further than {limits.ahead_seconds:g} s of speech ahead" in document
    assert f"keeps its slot for {limits.resume_seconds:g} s" in document
    assert f"more than {limits.kept_finals} finals" in document
    assert f"the server pings every {limits.ping_seconds:g} s" in document
    assert "closed with 4001" in document
    assert connection.RESUMED_CLOSE == 4001
    assert f"keeps {limits.held_bytes >> 20} MiB of it" in document
    assert limits.session_seconds == Config().max_session_seconds == 4 * 3600
    assert "lasted four hours" in document
