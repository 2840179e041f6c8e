"""The client's protocol state, tested with messages and without a server."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_asr import errors
from qwen_asr.client.events import Aligned, Connected, Failed, Final, Loading, Partial, Queued, Warned, Word
from qwen_asr.client.protocol import ClientProtocol, error_from
from qwen_asr.client.replay_buffer import ReplayBuffer

RATE = 16_000


@pytest.fixture
def buffer() -> ReplayBuffer:
    filled = ReplayBuffer(2, 10 * RATE)
    filled.append(bytes(2 * 5 * RATE))
    return filled


def final(utterance: int, end_sample: int, **keys: Any) -> dict[str, Any]:
    return {
        "type": "final", "utterance": utterance, "text": "A.", "language": "English", "start": 0.5,
        "end": end_sample / RATE, "end_sample": end_sample, "is_speech_final": True, **keys,
    }  # fmt: skip


def test_a_queue_then_a_session_then_another_server(buffer: ReplayBuffer) -> None:
    protocol = ClientProtocol({"language": "en"}, RATE, buffer)
    assert protocol.config_message() == {"type": "config", "language": "en"}
    assert not protocol.started
    assert protocol.handle_config_answer({"type": "loading", "message": "Loading x …"}) == (
        Loading("Loading x …"),
        None,
    )
    assert protocol.handle_config_answer({"type": "queued", "position": 3}) == (Queued(3), None)
    assert protocol.started  # a client in the queue keeps trying while the server restarts
    assert protocol.handle_config_answer({"type": "session_created", "session_id": "a"}) == (
        Connected("a", False, 0.0),
        0,
    )
    assert isinstance(protocol.handle_message({"type": "partial", "text": "A", "stable": 1, "utterance": 0}), Partial)
    assert protocol.handle_message(final(0, 20_000)) == Final(0, 0.5, 1.25, "English", "A.")
    assert protocol.handle_message(final(0, 20_000, repeated=True)) is None
    assert buffer.begin == buffer.final_until == 20_000
    assert protocol.config_message() == {"type": "config", "language": "en", "resume": "a", "offset": 20_000}
    resumed = {"type": "session_resumed", "session_id": "a", "received_samples": 32_000, "warning": "resume: no."}
    assert protocol.handle_config_answer(resumed) == (Connected("a", True, 2.0, "resume: no."), 32_000)
    failed = {"type": "error", "code": "StepFailed", "message": "No.", "utterance": 1, "end_sample": 40_000, "end": 2.5}
    assert protocol.handle_message(failed) == Failed(1, 0.0, 2.5, "No.")
    created = {"type": "session_created", "session_id": "b", "received_samples": 40_000}
    assert protocol.handle_config_answer(created) == (Connected("b", False, 2.5), 40_000)
    numbered = protocol.handle_message(final(0, 60_000))
    assert isinstance(numbered, Final)
    assert numbered.utterance == 2
    assert protocol.config_message()["resume"] == "b"


def test_an_empty_final_and_unknown_messages_are_ignored(buffer: ReplayBuffer) -> None:
    protocol = ClientProtocol({}, RATE, buffer)
    protocol.handle_config_answer({"type": "session_created", "session_id": "a"})
    assert protocol.handle_message(final(0, 80_000, text="", start=5.0)) is None
    assert protocol.handle_message({"type": "news"}) is None


ONE = [{"word": "A.", "start": 0.75, "end": 1.0}]
WORDS = (Word("A.", 0.75, 1.0),)


def words(utterance: int, **keys: Any) -> dict[str, Any]:
    return {"type": "words", "utterance": utterance, "words": ONE, **keys}


def test_words_are_in_the_final_or_come_later_once(buffer: ReplayBuffer) -> None:
    protocol = ClientProtocol({}, RATE, buffer)
    protocol.handle_config_answer({"type": "session_created", "session_id": "a"})
    at_once = protocol.handle_message(final(0, 20_000, words=ONE))
    assert at_once == Final(0, 0.5, 1.25, "English", "A.", words=WORDS)
    assert (WORDS[0].start, WORDS[0].end) == (0.75, 1.0)
    assert protocol.handle_message(words(0)) is None
    later = protocol.handle_message(final(1, 30_000, words=[]))
    assert isinstance(later, Final)
    assert later.words == ()
    assert protocol.handle_message(words(1)) == Aligned(1, WORDS)
    assert protocol.handle_message(words(1, repeated=True)) is None
    assert protocol.handle_message(final(2, 40_000)) == Final(2, 0.5, 2.5, "English", "A.")
    protocol.handle_config_answer({"type": "session_resumed", "session_id": "a", "received_samples": 40_000})
    assert protocol.handle_message(final(2, 40_000, words=ONE, repeated=True)) == Aligned(2, WORDS)
    protocol.handle_config_answer({"type": "session_created", "session_id": "b", "received_samples": 40_000})
    protocol.handle_message(final(0, 50_000, words=[]))
    assert protocol.handle_message(words(0)) == Aligned(3, WORDS)  # the numbers go on
    assert protocol.handle_message(words(0, words=None)) is None


def test_a_warning_about_the_stream_is_an_event(buffer: ReplayBuffer) -> None:
    message = {"type": "warning", "code": "StrayByte", "message": "A stray byte."}
    assert ClientProtocol({}, RATE, buffer).handle_message(message) == Warned("StrayByte", "A stray byte.")


@pytest.mark.parametrize("position", [-1, 80_001, "0", None])
def test_a_position_outside_the_audio_is_an_error(buffer: ReplayBuffer, position: Any) -> None:
    with pytest.raises(errors.ConnectionFailed):
        ClientProtocol({}, RATE, buffer).handle_config_answer({"type": "session_created", "received_samples": position})


@pytest.mark.parametrize(
    ("code", "kind", "reconnects"),
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
def test_errors_of_the_server_become_exceptions(
    buffer: ReplayBuffer, code: str, kind: type[Exception], reconnects: bool
) -> None:
    protocol = ClientProtocol({}, RATE, buffer)
    assert protocol.handle_message({"type": "error", "code": code, "message": "No."}) is None
    assert type(protocol.server_error) is kind
    assert str(protocol.server_error) == "No."
    assert protocol.may_reconnect is reconnects


def test_every_error_can_be_created_from_its_code() -> None:
    codes = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(codes) > 20
    for code in codes:
        error = error_from({"type": "error", "code": code, "message": "No."})
        assert type(error).__name__ == (code if code != "BadField" else "QwenASRError")
        assert str(error) == "No."
