"""When a pause is announced, and the words of results. test_connection.py beside this has the rest of the results."""

from __future__ import annotations

from itertools import permutations

from qwen_asr.audio.endpointing import Ended
from qwen_asr.live.events import Event, Partial
from qwen_asr.web.sockets.deepgram.messages import Results, ResultsMetadata
from qwen_asr.web.sockets.deepgram.query import LiveQuery
from qwen_asr.web.sockets.deepgram.segment import Pauses, Segment
from qwen_asr.web.sockets.messages import ServerMessage
from tests.support.aligners import with_words


def pauses(length: int | None) -> tuple[Pauses, list[ServerMessage]]:
    put: list[ServerMessage] = []
    return Pauses(length, put.append), put


def test_a_pause_is_announced_once_whatever_is_known_first() -> None:
    for order in permutations(["told", "heard"]):
        watch, put = pauses(16_000)
        watch.speech_started()
        watch.speech_ended(32_000)
        for what in order:
            watch.heard(47_999)
            assert not put
            watch.told() if what == "told" else watch.heard(48_000)
        watch.heard(99_000)
        assert [message.as_dict() for message in put] == [
            {"type": "UtteranceEnd", "channel": (0, 1), "last_word_end": 2.0}
        ]


def test_a_pause_that_ends_too_soon_is_not_announced() -> None:
    watch, put = pauses(16_000)
    watch.speech_started()
    watch.speech_ended(32_000)
    watch.told()
    watch.heard(40_000)
    watch.speech_started()
    watch.heard(90_000)
    assert not put
    watch.speech_ended(80_000)
    watch.heard(99_000)
    assert not put  # the text of the second utterance is still to come
    watch.told()
    assert len(put) == 1


def test_without_a_length_nothing_is_announced() -> None:
    watch, put = pauses(None)
    watch.speech_started()
    watch.speech_ended(0)
    watch.told()
    watch.heard(1_000_000)
    assert not put


def test_the_times_of_words_count_from_the_beginning_of_the_connection() -> None:
    put: list[ServerMessage] = []
    query = LiveQuery(encoding="mulaw", interim_results=True)
    segment = Segment(query, ResultsMetadata.of("demo"), put.append, Pauses(None, put.append), begin=160_000)
    segment._on_detected([Ended(1, 32_000, 48_000, "finish")])
    events: list[Event] = [Partial(1, 32_000, 40_000, "English", "Turn", 0, 0.0), with_words("Turn it on.", 1)]
    segment.on_events(events)
    interim, result = put
    assert isinstance(interim, Results)
    assert isinstance(result, Results)
    assert interim.channel.alternatives[0].words == ()
    assert (result.start, result.duration, result.is_final) == (12.0, 1.0, True)
    words = result.as_dict()["channel"]["alternatives"][0]["words"]
    assert [(word["punctuated_word"], word["word"], word["start"], word["end"]) for word in words] == [
        ("Turn", "turn", 12.0, 12.1), ("it", "it", 12.1, 12.2), ("on.", "on", 12.2, 12.3),
    ]  # fmt: skip
