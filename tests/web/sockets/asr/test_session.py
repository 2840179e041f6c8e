"""The words of a session of `/ws/asr`: in its finals, after them, repeated, and missing. The service is a double."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given

from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.engine.languages import resolve_language
from qwen_asr.live.events import Aligned, Event, Final
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.asr.messages import SessionCreated, SessionResumed, parse_config
from qwen_asr.web.sockets.asr.session import AsrSession
from tests.support.aligners import aligned_finals, with_words
from tests.support.finals import final

NO_ALIGNER = "This server has no aligner: start it with --aligner-model-path."
FINNISH = "Words of Finnish have no times: the aligner does not know it."


def only_finnish_has_none(language: str | None) -> str | None:
    return FINNISH if resolve_language(language) == "Finnish" else None


class Opened:
    """A session of a client that sent this config, and its first connection."""

    def __init__(self, why_no_words: Callable[[str | None], str | None] = only_finnish_has_none, **config: Any) -> None:
        self.wanted: list[bool] = []
        self.session = AsrSession(
            parse_config(json.dumps({"type": "config", **config})), b"me", SocketLimits(), self._service(why_no_words)
        )
        self.outbox = self.session.attach(SessionCreated(session_id=self.session.id))

    def _service(self, why_no_words: Callable[[str | None], str | None]) -> Service:
        def open_session(options: Any, on_events: Callable[[list[Event]], None], **_: Any) -> Any:
            self.wanted.append(options.words)
            self.on_events = on_events
            return SimpleNamespace(received=0)

        given = {"session_options": Service(Config()).session_options, "open_session": open_session}
        return cast(Service, SimpleNamespace(**given, why_no_words=lambda language, model: why_no_words(language)))

    def messages(self, events: Sequence[Event] = ()) -> list[dict[str, Any]]:
        """What the client gets of these events, after what it has had."""
        self.on_events(list(events))
        found = [json.loads(message.to_json()) for message in self.outbox._waiting]
        self.outbox._waiting.clear()
        return found

    def resume(self, offset: int) -> list[dict[str, Any]]:
        """What another connection gets first, which has all finals up to `offset`."""
        self.session.detach()
        self.outbox = self.session.attach(SessionResumed(session_id=self.session.id, received_samples=0), offset)
        return self.messages()[1:]


def test_a_final_has_its_words() -> None:
    opened = Opened(words=True)
    assert opened.wanted == [True]
    opened.session._audio.feed(bytes(4 * 64_000))
    _, message = opened.messages([with_words("Turn it on.", 1, step=1_001)])
    assert message["words"] == [
        {"word": "Turn", "start": 2.0, "end": 2.063},
        {"word": "it", "start": 2.063, "end": 2.125},
        {"word": "on.", "start": 2.125, "end": 2.188},
    ]


def test_only_a_client_that_asks_gets_words() -> None:
    for config in ({}, {"words": False}, {"words": None}):
        opened = Opened(lambda _: NO_ALIGNER, **config)
        assert opened.wanted == [False]
        assert [message["type"] for message in opened.messages([with_words("One.")])] == ["session_created", "final"]
        assert "words" not in opened.resume(-1)[0]
        opened.session.conclude()
    empty = Opened(words=True)
    empty.session.conclude()
    assert empty.messages()[1]["words"] == []


def test_words_count_from_the_first_sample_of_the_client() -> None:
    opened = Opened(words=True, sample_rate=8_000, resume="lost", offset=40_000)
    _, message = opened.messages([with_words("One.")])
    assert message["words"] == [{"word": "One.", "start": 5.0, "end": 5.1}]


def test_words_may_come_later_and_are_repeated() -> None:
    opened = Opened(words=True)
    opened.session._audio.feed(bytes(4 * 64_000))
    one, other = with_words("One.", 0), with_words("Two.", 1)
    sent = opened.messages([final("One.", 0), final("Two.", 1), Aligned(0, one.words), Aligned(1, other.words)])
    assert [message["type"] for message in sent] == ["session_created", "final", "final", "words", "words"]
    assert [message["words"] for message in sent[1:3]] == [[], []]
    late = {"type": "words", "utterance": 1, "words": [{"word": "Two.", "start": 2.0, "end": 2.1}]}
    assert sent[4] == late
    # A client with the first final may lack its words; the second final has them now.
    words, repeated = opened.resume(16_000)
    assert words == {
        "type": "words", "utterance": 0, "words": [{"word": "One.", "start": 0.0, "end": 0.1}], "repeated": True,
    }  # fmt: skip
    assert (repeated["type"], repeated["words"]) == ("final", late["words"])
    assert [message["type"] for message in opened.resume(48_000)] == ["words", "words"]


def test_words_of_finals_that_are_no_longer_kept_are_not_repeated() -> None:
    opened = Opened(words=True)
    limit = SocketLimits().kept_finals
    for number in range(limit + 5):
        opened.messages([final("One.", number), Aligned(number, with_words("One.", number).words)])
    assert len(opened.session._aligned_later) == limit
    opened.messages([Aligned(0, with_words("One.").words)])  # of a final that is gone
    assert len(opened.session._aligned_later) == limit


def test_a_client_is_told_once_why_there_are_no_words() -> None:
    opened = Opened(lambda _: NO_ALIGNER, words=True)
    sent = opened.messages([final("One.", 0), final("Two.", 1)])
    assert [message["type"] for message in sent] == ["session_created", "warning", "final", "final"]
    assert sent[1] == {"type": "warning", "code": "NoWords", "message": f"words: {NO_ALIGNER}"}
    assert all(message["type"] == "final" for message in opened.resume(0))


def test_a_language_without_words_is_told_when_it_is_spoken_or_set() -> None:
    opened = Opened(words=True)
    finnish = [final("Yksi.", number, language="Finnish") for number in (1, 3)]
    sent = opened.messages([with_words("One.", 0), finnish[0], final("", 2, language=None), finnish[1]])
    assert [message["type"] for message in sent] == ["session_created", "final", "final", "warning", "final", "final"]
    assert sent[3]["message"] == f"words: {FINNISH}"
    _, warning = Opened(words=True, language="fi").messages()
    assert warning["message"] == f"words: {FINNISH}"
    assert len(Opened(words=True, language="auto").messages()) == 1


@given(aligned_finals())
def test_the_words_cover_the_text_and_never_go_back(finals: list[Final]) -> None:
    opened = Opened(words=True)
    sent = [message for message in opened.messages(finals) if message["type"] == "final"]
    assert len(sent) == len(finals)
    for message in sent:
        words = message["words"]
        assert " ".join(word["word"] for word in words) == message["text"]
        assert all(word["start"] <= word["end"] for word in words)
        assert all(one["start"] <= other["start"] for one, other in pairwise(words))
