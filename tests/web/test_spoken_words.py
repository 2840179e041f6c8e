"""The words of finals as other services name them."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from hypothesis import given

from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.web.spoken_words import bare, spoken_words
from tests.support.aligners import aligned_finals, with_words
from tests.support.finals import SCORED, final


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("light.", "light"),
        ("«Ça»,", "Ça"),
        ("don't", "don't"),
        ("twenty-one,", "twenty-one"),
        ("50%.", "50%"),
        ("京。", "京"),
        ("R&D?", "R&D"),
        ("¿qué?", "qué"),
        ("3.5", "3.5"),
        ("C++,", "C++"),
        ("—", ""),
        ("“…”", ""),
        ("", ""),
    ],
)
def test_the_punctuation_around_a_word_is_stripped(text: str, expected: str) -> None:
    assert bare(text) == expected


def test_punctuation_that_stands_alone_belongs_to_a_word() -> None:
    words = spoken_words(with_words("— Well — no ."))
    assert [(word.text, word.bare) for word in words] == [("— Well —", "Well"), ("no .", "no")]
    assert [(word.start, word.end) for word in words] == [(1_600, 3_200), (4_800, 6_400)]
    assert spoken_words(with_words("— …")) == []
    assert spoken_words(final("One.")) == []


def test_a_word_said_twice_has_its_own_place() -> None:
    words = spoken_words(with_words("no no, no"))
    assert [word.text for word in words] == ["no", "no,", "no"]


def test_characters_without_blanks_are_words() -> None:
    text = "北京。"
    words = spoken_words(final(text, words=(Word("北", 0, 1_600), Word("京。", 1_600, 3_200))))
    assert [(word.text, word.bare) for word in words] == [("北", "北"), ("京。", "京")]


def test_the_confidence_of_a_word_is_that_of_its_tokens() -> None:
    scored = final(SCORED[0].text, tokens=SCORED[0].tokens, words=(Word("One", 0, 1_600), Word("é.", 1_600, 3_200)))
    one, other = spoken_words(scored)
    assert one.confidence == pytest.approx(exp(-0.5))
    assert other.confidence == pytest.approx(exp((-0.25 - 0.75) / 2))  # two tokens share the character
    assert [word.confidence for word in spoken_words(with_words("One é."))] == [0.0, 0.0]


@given(aligned_finals())
def test_the_words_cover_the_text_and_never_go_back(finals: list[Final]) -> None:
    for one in finals:
        words = spoken_words(one)
        if any(bare(word.text) for word in one.words):
            assert " ".join(word.text for word in words) == one.text
        else:
            assert words == []
        assert all(word.bare and word.bare in word.text and word.start <= word.end for word in words)
        assert all(before.start <= after.start for before, after in pairwise(words))
