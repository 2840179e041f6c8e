"""What the client makes of a server's messages, without any server."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_asr import errors
from qwen_asr.client.dialogue import Dialogue, error_of
from qwen_asr.client.events import Connected, Failed, Final, Partial, Queued
from qwen_asr.client.history import History

RATE = 16_000


@pytest.fixture
def history() -> History:
    kept = History(2, 10 * RATE)
    kept.append(bytes(2 * 5 * RATE))
    return kept


def final(utterance: int, end_sample: int, **keys: Any) -> dict[str, Any]:
    return {
        "type": "final", "utterance": utterance, "text": "A.", "language": "English", "start": 0.5,
        "end": end_sample / RATE, "end_sample": end_sample, "is_speech_final": True, **keys,
    }  # fmt: skip


def test_a_queue_then_a_session_then_another_server(history: History) -> None:
    dialogue = Dialogue({"language": "en"}, RATE, history)
    assert dialogue.config() == {"type": "config", "language": "en"}
    assert not dialogue.started
    assert dialogue.greeted({"type": "queued", "position": 3}) == (Queued(3), None)
    assert dialogue.started  # who waits for a server that is restarted waits on
    assert dialogue.greeted({"type": "session_created", "session_id": "a"}) == (Connected("a", False, 0.0), 0)
    assert isinstance(dialogue.heard({"type": "partial", "text": "A", "stable": 1, "utterance": 0}), Partial)
    assert dialogue.heard(final(0, 20_000)) == Final(0, 0.5, 1.25, "English", "A.")
    assert dialogue.heard(final(0, 20_000, repeated=True)) is None
    assert history.begin == history.settled == 20_000
    assert dialogue.config() == {"type": "config", "language": "en", "resume": "a", "offset": 20_000}
    resumed = {"type": "session_resumed", "session_id": "a", "received_samples": 32_000, "warning": "resume: no."}
    assert dialogue.greeted(resumed) == (Connected("a", True, 2.0, "resume: no."), 32_000)
    failed = {"type": "error", "code": "StepFailed", "message": "No.", "utterance": 1, "end_sample": 40_000, "end": 2.5}
    assert dialogue.heard(failed) == Failed(1, 0.0, 2.5, "No.")
    created = {"type": "session_created", "session_id": "b", "received_samples": 40_000}
    assert dialogue.greeted(created) == (Connected("b", False, 2.5), 40_000)
    numbered = dialogue.heard(final(0, 60_000))
    assert isinstance(numbered, Final)
    assert numbered.utterance == 2
    assert dialogue.config()["resume"] == "b"


def test_what_is_no_utterance_and_what_is_not_known(history: History) -> None:
    dialogue = Dialogue({}, RATE, history)
    dialogue.greeted({"type": "session_created", "session_id": "a"})
    assert dialogue.heard(final(0, 80_000, text="", start=5.0)) is None
    assert dialogue.heard({"type": "news"}) is None


@pytest.mark.parametrize("position", [-1, 80_001, "0", None])
def test_audio_that_was_never_recorded_is_not_sent(history: History, position: Any) -> None:
    with pytest.raises(errors.ConnectionFailed):
        Dialogue({}, RATE, history).greeted({"type": "session_created", "received_samples": position})


@pytest.mark.parametrize(
    ("code", "kind", "comes_back"),
    [
        ("UnknownLanguage", errors.UnknownLanguage, False),
        ("NotReady", errors.NotReady, True),
        ("ServerStopping", errors.ServerStopping, True),
        ("LimitExceeded", errors.LimitExceeded, True),
        ("TimedOut", errors.TimedOut, True),
        ("BadField", errors.QwenASRError, False),
        ("annotations", errors.QwenASRError, False),
    ],
)
def test_errors_are_ours(history: History, code: str, kind: type[Exception], comes_back: bool) -> None:
    dialogue = Dialogue({}, RATE, history)
    assert dialogue.heard({"type": "error", "code": code, "message": "No."}) is None
    assert type(dialogue.problem) is kind
    assert str(dialogue.problem) == "No."
    assert dialogue.may_come_back is comes_back


def test_every_error_can_be_made_from_its_code() -> None:
    codes = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(codes) > 20
    for code in codes:
        error = error_of({"type": "error", "code": code, "message": "No."})
        assert type(error).__name__ == (code if code != "BadField" else "QwenASRError")
        assert str(error) == "No."
