"""When a pause is announced. tests/web/sockets/deepgram/test_connection.py has the results."""

from __future__ import annotations

from itertools import permutations

from qwen_asr.web.sockets.deepgram.segment import Pauses
from qwen_asr.web.sockets.messages import ServerMessage


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
