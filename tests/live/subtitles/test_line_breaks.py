"""Where texts may be broken, and how wide they are."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.live.subtitles.line_breaks import _GRAPHEMES, Break, columns, one_line, pieces


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3), ("é", 1), ("e\u0301", 1), ("今天", 4), ("ｶﾀ", 2), ("Ａ", 2), ("한", 2), ("สวัสดี", 4), ("👍", 2),
        ("\u200d\ufeff", 0), ("مرحبا", 5), ("", 0),
    ],
)  # fmt: skip
def test_columns(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\r\n\n b\t", "a b"), ("a\x00b", "ab"), ("a \x00 b", "a b"), ("a\u2028b\x1c\x85c", "a b c"),
        ("\u3000今", "今"),
        ("Bonjour\u00a0!", "Bonjour\u00a0!"), ("a \u00a0 b\u202f\u202fc\u00a0", "a b c"),
    ],
)  # fmt: skip
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("end.", "Then", Break.SENTENCE), ("end.”", "Then", Break.SENTENCE), ("end…", "“Then", Break.SENTENCE),
        ("why?", "Yes", Break.SENTENCE), ("है।", "वह", Break.SENTENCE),
        ("ماذا؟", "نعم", Break.SENTENCE),
        ("«Stop!»", "he", Break.CLAUSE), ("well…", "maybe", Break.CLAUSE), ("so,", "then", Break.CLAUSE),
        ("first:", "then", Break.CLAUSE), ("one –", "two", Break.CLAUSE), ("نعم،", "لا", Break.CLAUSE),
        ("Dr.", "Smith", Break.SHORT_WORD), ("J.", "R.", Break.SHORT_WORD), ("U.S.", "Army", Break.SHORT_WORD),
        ("3.", "Mai", Break.SHORT_WORD), ("1990.", "Then", Break.SENTENCE), ("the", "house", Break.SHORT_WORD),
        ("house", "of", Break.WORD), ("ครับ", "ผม", Break.CLAUSE),
    ],
)  # fmt: skip
def test_the_place_between_two_words(before: str, after: str, place: Break) -> None:
    found = pieces(f"{before} {after}", 42)
    assert (
        next(piece for piece in found if piece.after_blank and piece.text == after[: len(piece.text)]).before == place
    )


def test_places_in_scripts_without_blanks() -> None:
    found = pieces("他说：“好的。”我用Python写了３０行、", 42)
    assert [(piece.text, piece.before) for piece in found] == [
        ("他", Break.CHARACTER), ("说：", Break.CHARACTER), ("“好", Break.CLAUSE), ("的。”", Break.CHARACTER),
        ("我", Break.SENTENCE), ("用", Break.CHARACTER), ("Python", Break.CHARACTER), ("写", Break.CHARACTER),
        ("了", Break.CHARACTER), ("３０", Break.CHARACTER), ("行、", Break.CHARACTER),
    ]  # fmt: skip
    assert [piece.text for piece in pieces("今\u00a0年ab\u00a0今", 42)] == ["今\u00a0年", "ab\u00a0今"]
    assert [piece.text for piece in pieces("キャッチャー（一人）", 42)] == ["キャッ", "チャー", "（一", "人）"]


def test_a_long_word_is_parted_evenly() -> None:
    assert [piece.text for piece in pieces("a" * 25 + " b", 10)] == ["a" * 9, "a" * 9, "a" * 7, "b"]
    assert [piece.text for piece in pieces("今年" * 3 + "ab\u00a0cd", 4)][-2:] == ["ab", "cd"]
    family = "👩\u200d👩\u200d👧"
    assert [piece.text for piece in pieces("x" + family * 3, 7)] == ["x" + family, family, family]


@given(st.text(alphabet="🇦🇧🇨\u0301\u200d\ufe0f\u0903\u200b 👍🏽a", max_size=30))
def test_flags_are_graphemes_as_in_unicode(text: str) -> None:
    assert _GRAPHEMES.findall(text) == regex.findall(r"\X", text)


@given(st.text(), st.integers(2, 50))
def test_the_pieces_are_the_text(text: str, most: int) -> None:
    line = one_line(text)
    found = pieces(line, most)
    assert all(piece.columns == columns(piece.text) <= most for piece in found)
    joined = "".join(" " * piece.after_blank + piece.text for piece in found)
    assert joined == line or ("\u00a0" in text and joined.split() == line.split())
