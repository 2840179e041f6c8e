"""The words of a text with their punctuation cover it, however a splitter has cut it."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_asr.engine.words import cut_at_words
from tests.support.checkpoints import random_processor

ODD = (
    "aB9 \n\t\u3000\u200b'’“”\"«»¿¡?!.,…%/$-–—()（）「」，。、"
    "你好世界한국어かが\u3099ｶﾞÉé\u0301ßﬁ™㍿Ａ１ไทย\u0e31ह\u093f🎈\U00020000"
)


def blanks_removed(text: str) -> str:
    return "".join(character for character in text if not character.isspace())


def split(text: str, language: str | None = None) -> list[str]:
    words: list[str] = random_processor().split_words_for_alignment(text, language)
    return words


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Turn on the kitchen light.", ["Turn", "on", "the", "kitchen", "light."]),
        ("3.5% of A/B – or so … ?!", ["3.5%", "of", "A/B –", "or", "so … ?!"]),
        ("… He said, “Yes (no)!”", ["… He", "said,", "“Yes", "(no)!”"]),
        ("他说“你好”，（再见）。", ["他", "说", "“你", "好”，", "（再", "见）。"]),
        ("甚至 A/B 3.5%。", ["甚", "至", "A/B", "3.5%。"]),
        ("¿Qué? don't re-do cafe\u0301\u0301.", ["¿Qué?", "don't", "re-do", "cafe\u0301\u0301."]),
        ("用iPhone拍", ["用", "iPhone", "拍"]),
    ],
)
def test_punctuation_belongs_to_the_word_that_it_touches(text: str, parts: list[str]) -> None:
    assert cut_at_words(text, split(text)) == parts


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        ("Ａ１０、ｶﾞﾗｽ（株）です。", ["A", "10", "ガラス", "株", "です"], ["Ａ", "１０、", "ｶﾞﾗｽ", "（株）", "です。"]),
        ("㍿です", ["株式", "会社", "です"], ["㍿", "", "です"]),
        ("one two", ["one", "extra", "two"], ["one", "", "two"]),
        ("one two", ["xyz"], [""]),
        ("one two", [], []),
        ("", ["one"], [""]),
    ],
)
def test_words_in_other_characters_are_found_too(text: str, words: list[str], parts: list[str]) -> None:
    assert cut_at_words(text, words) == parts


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from(ODD) | st.characters(), max_size=40))
@example("\u0301")
@example("(")
def test_the_parts_cover_the_text(text: str) -> None:
    words = split(text)
    parts = cut_at_words(text, words)
    assert len(parts) == len(words)
    assert "".join(map(blanks_removed, parts)) == (blanks_removed(text) if words else "")
    position = 0
    for part, word in zip(parts, words, strict=True):
        position = text.index(part, position) + len(part)  # with the text's own blanks between them
        assert part == part.strip()
        remaining = iter(part)
        assert all(character in remaining for character in word)  # in that order


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.sampled_from(ODD), max_size=30), cuts=st.lists(st.integers(1, 5), max_size=8), drop=st.booleans()
)
def test_the_parts_cover_the_text_for_any_splitter(text: str, cuts: list[int], drop: bool) -> None:
    """Such as one that normalizes, and drops characters that others keep."""
    rest = unicodedata.normalize("NFKC", text)[1 if drop else 0 :]
    words = []
    for length in cuts:
        words.append(rest[:length])
        rest = rest[length:]
    parts = cut_at_words(text, words)
    assert len(parts) == len(words)
    assert "".join(map(blanks_removed, parts)) in ("", blanks_removed(text))
