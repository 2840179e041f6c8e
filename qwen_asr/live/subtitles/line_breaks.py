"""Where a text may be broken into lines, how good each of these places is, and how wide the parts are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

import regex

from qwen_asr.live.transcript import is_unspaced


class Break(IntEnum):
    """What stands before a place where a text may be broken. A higher one is a better place."""

    LETTER = 0
    """A part of a word that is longer than a line."""
    SHORT_WORD = 1
    """A blank after an article, a preposition or the like, which belongs to what follows."""
    CHARACTER = 2
    """A character of a script without blanks."""
    WORD = 3
    CLAUSE = 4
    SENTENCE = 5


@dataclass(frozen=True)
class Piece:
    """A part of a text that is not broken. `before` is the place before it."""

    text: str
    columns: int
    after_blank: bool
    before: Break


_SHORT_WORD_COLUMNS = 3
# UAX #29. Flags are found first: `\X` alone takes time that grows with the square of their number in a row.
_GRAPHEMES = regex.compile(r"[\U0001f1e6-\U0001f1ff]{2}[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*+|\X")
_BLANKS = re.compile(r"(?<=\S)([\u00a0\u202f])(?=\S)|\s+")  # a no-break space between two words stays
_CLOSING = r"[\p{Pe}\p{Pf}\p{Pi}\"']*$"
_SENTENCE_END = regex.compile(r"[\p{Sentence_Terminal}…]" + _CLOSING)
_CLAUSE_END = regex.compile(r"[\p{Terminal_Punctuation}…–—]" + _CLOSING)
# Titles, initials ("J.", "U.S.") and German ordinals ("3. Mai") end with a full stop that ends no sentence.
_ABBREVIATION = regex.compile(r"(?<![\p{L}\p{N}])(\p{L}|\p{N}{1,2}|Mr|Mrs|Ms|Dr|Prof|St|vs|Nr)\." + _CLOSING)
_GOES_ON = regex.compile(r"[^\p{L}\p{N}]*\p{Ll}")

# Scripts without blanks: what begins no line and what ends none, as in JIS X 4051 and GB/T 15834, and Thai and Lao
# vowels that are written behind or before their consonant.
_NOT_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶｧｨｩｪｫｯｬｭｮฯะาๅະາ％‰℃")
_NOT_LAST = frozenset("เแโใไເແໂໃໄ¿¡\"'￥＄￡")
_NOT_FIRST_CATEGORIES = frozenset(("Pe", "Pf", "Po", "Pd", "Lm", "Sk"))
_NOT_LAST_CATEGORIES = frozenset(("Ps", "Pi"))
_ALPHANUMERIC = frozenset(("Lu", "Ll", "Nd"))
"""A number or a Latin word in full width is not broken."""


def one_line(text: str) -> str:
    """Removes line breaks, which would end a cue or line, and control characters, which some players cannot handle."""
    shown = "".join(one for one in text if one.isspace() or unicodedata.category(one) != "Cc")
    return _BLANKS.sub(lambda match: match[1] or " ", shown).strip()


def columns(text: str) -> int:
    """The width of a text in a font of fixed width: 2 for each wide character, 0 for combining and invisible ones.

    As in Unicode's UAX #11, East Asian Width.
    """
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def pieces(text: str, most: int) -> list[Piece]:
    """The parts of a text of one line (`one_line`). All texts, with a blank before each that has one, are the text.

    None is wider than `most` columns (at least 2). A word that is longer is broken between its graphemes into parts of
    about the same width.
    """
    found: list[Piece] = []
    before = ""
    for after_blank, graphemes in _units(text):
        unit = "".join(graphemes)
        place = _place(before, unit, after_blank)
        before = unit
        width = columns(unit)
        if width <= most:
            found.append(Piece(unit, width, after_blank, place))
            continue
        for part, joined in _parts(graphemes, width, most):
            found.append(Piece(part, columns(part), joined or after_blank, place))
            place, after_blank = Break.LETTER, False
    return found


def _units(text: str) -> Iterator[tuple[bool, list[str]]]:
    """The graphemes between two places where a line may end, and whether a blank is before them."""
    unit: list[str] = []
    after_blank = False
    for grapheme in _GRAPHEMES.findall(text):
        if grapheme == " ":
            yield after_blank, unit
            unit, after_blank = [], True
        elif unit and _may_part(unit[-1], grapheme):
            yield after_blank, unit
            unit, after_blank = [grapheme], False
        else:
            unit.append(grapheme)
    if unit:
        yield after_blank, unit


def _may_part(before: str, after: str) -> bool:
    """Whether a line may end between two graphemes without a blank between them."""
    last, first = before[0], after[0]
    if not (is_unspaced(last) or is_unspaced(first)) or last in _NOT_LAST or first in _NOT_FIRST:
        return False
    ends, begins = unicodedata.category(last), unicodedata.category(first)
    if ends in _NOT_LAST_CATEGORIES or begins in _NOT_FIRST_CATEGORIES or columns(after) == 0:
        return False
    if last.isspace() or first.isspace():  # no-break spaces
        return False
    return not (ends in _ALPHANUMERIC and begins in _ALPHANUMERIC)


def _place(before: str, after: str, after_blank: bool) -> Break:
    if _SENTENCE_END.search(before) and not _GOES_ON.match(after) and not _ABBREVIATION.search(before):
        return Break.SENTENCE
    # A blank in a script without blanks is between phrases.
    if _CLAUSE_END.search(before) or (after_blank and is_unspaced(before[-1]) and is_unspaced(after[0])):
        return Break.SHORT_WORD if _ABBREVIATION.search(before) else Break.CLAUSE
    if not after_blank:
        return Break.CHARACTER
    return Break.SHORT_WORD if columns(before) <= _SHORT_WORD_COLUMNS else Break.WORD


def _parts(graphemes: list[str], width: int, most: int) -> Iterator[tuple[str, bool]]:
    """Parts of a long word, and whether a no-break space is before each."""
    smallest = width / -(-width // most)
    part, size, gap, joined = "", 0, "", False
    # A grapheme that is wider than a line is itself broken.
    for unit in chain.from_iterable([one] if columns(one) <= most else one for one in graphemes):
        if unit.isspace():
            gap = unit
            continue
        wider = size + len(gap) + columns(unit)
        if part and (wider > most or size >= (smallest / 2 if gap else smallest)):
            yield part, joined
            part, size, joined = unit, columns(unit), bool(gap)
        else:
            part, size = part + gap + unit, wider
        gap = ""
    if part:
        yield part, joined


def _character_columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
