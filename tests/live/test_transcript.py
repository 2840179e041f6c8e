"""The history of finals, and how texts are split and joined."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.engine.words import Word
from qwen_asr.live.events import Aligned, Final
from qwen_asr.live.subtitles.formats import as_json
from qwen_asr.live.transcript import Transcript, join_texts, split_units, utterance_as_dict
from tests.support.aligners import aligned_finals, with_words

words = st.text(st.sampled_from("ab .,北京กำ한ナ\n"), max_size=12)


@settings(deadline=None)
@given(words | st.text(max_size=30))
def test_splitting_keeps_every_character(text: str) -> None:
    assert "".join(split_units(text)) == text.rstrip()


def test_a_unit_is_a_word_or_a_character_in_scripts_without_spaces() -> None:
    assert split_units("Turn on, the  light") == ["Turn", " on,", " the", "  light"]
    assert split_units("I love 北京。") == ["I", " love", " 北", "京", "。"]
    assert split_units("안녕 하세요") == ["안녕", " 하세요"]
    assert split_units("ที่นี่") == ["ที่", "นี่"]  # vowel signs and tone marks stay with their letter


def final(number: int, text: str, language: str | None = "English", start: int = 0, end: int = 16000) -> Final:
    return Final(number, start, end, language, text, 0.0)


def test_history() -> None:
    history = Transcript([final(0, "One.")])
    history.add(final(1, "", None))
    history.add(final(2, "Two.", start=24000, end=48000))
    assert history.text == "One. Two."
    assert history.language == "English"
    assert [one.utterance for one in history.finals] == [0, 1, 2]
    assert history.as_dict() == {
        "text": "One. Two.",
        "language": "English",
        "utterances": [
            {"utterance": 0, "start": 0.0, "end": 1.0, "language": "English", "text": "One."},
            {"utterance": 2, "start": 1.5, "end": 3.0, "language": "English", "text": "Two."},
        ],
    }
    assert Transcript().as_dict() == {"text": "", "language": None, "utterances": []}


def test_texts_are_joined_with_spaces_only_in_scripts_that_have_them() -> None:
    assert join_texts(["你好。", "", "再见。", "Bye.", "Ciao."]) == "你好。再见。 Bye. Ciao."


def test_an_utterance_has_its_words_if_they_are_known() -> None:
    assert utterance_as_dict(with_words("Turn it on.", 1, step=1_001))["words"] == [
        {"word": "Turn", "start": 2.0, "end": 2.063},
        {"word": "it", "start": 2.063, "end": 2.125},
        {"word": "on.", "start": 2.125, "end": 2.188},
    ]
    assert "words" not in utterance_as_dict(final(0, "One."))


@given(aligned_finals())
def test_the_words_cover_the_text_and_never_go_back(finals: list[Final]) -> None:
    for one in finals:
        words: Any = utterance_as_dict(one).get("words", [])
        assert " ".join(word["word"] for word in words) == one.text
        assert all(word["start"] <= word["end"] for word in words)
        assert all(before["start"] <= after["start"] for before, after in pairwise(words))


def test_words_that_come_later_are_those_of_their_final() -> None:
    history = Transcript([final(0, "One."), final(1, "Two."), final(2, "Three.")])
    words = (Word("Two.", 5, 9),)
    history.align(Aligned(1, words))
    assert [one.words for one in history.finals] == [(), words, ()]
    assert [one.text for one in history.finals] == ["One.", "Two.", "Three."]
    history.align(Aligned(7, words))  # of no final
    assert [one.words for one in history.finals] == [(), words, ()]


@given(aligned_finals())
def test_json_is_the_dictionary_with_a_line_for_each_word(finals: list[Final]) -> None:
    written = as_json(finals)
    assert json.loads(written) == Transcript(finals).as_dict()
    assert written.count('\n        {"word": ') == sum(len(one.words) for one in finals)
