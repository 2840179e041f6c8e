"""`Cues` makes cues of subtitles: as much text as fits on a screen, and when to show it.

An utterance is parted at the ends of sentences and at pauses, and what is still too much for a cue at the best places:
pauses, commas, blanks. The limits are those of Netflix's Timed Text Style Guide: two lines, and 5/6 s to 7 s
(https://partnerhelp.netflixstudios.com/hc/en-us/articles/215758617), and the 42 columns of its guide for English. The
other constants were chosen by eye.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.line_breaks import Break, one_line, pieces

PAUSE_MS = 500
"""A pause of this length ends a cue."""
HESITATION_MS = 200
"""A pause of this length is a good place to break a cue that is too long."""
NEAR_MS = 1000
"""A single short word joins a neighbour that is nearer than this."""
SHORTEST_MS = 833
"""How long a cue is shown at least, where the next one does not begin before: 5/6 s."""
SMALLEST_GAP_MS = 300
"""A gap between two cues that is smaller than this is closed, since it flickers."""
ORPHAN_COLUMNS = 10
"""A single word of at most this width is no cue of its own, where that can be avoided."""
FULL = 0.8
"""How much of a screen can be filled on average: lines end between words."""
COSTS = {
    Break.SENTENCE: 0.0,
    Break.CLAUSE: 0.1,
    Break.WORD: 0.6,
    Break.CHARACTER: 0.65,
    Break.SHORT_WORD: 0.8,
    Break.LETTER: 3.0,
}
"""The cost of a break. A cue that is twice as wide as the ideal one, or empty, costs 1."""
LINE_BALANCE = 1.5
"""The cost of such a line: lines of about the same width matter more."""
ORPHAN_COST = 1.0
EXTRA_CUE_COST = 0.25
"""For a break that makes one more cue necessary."""


@dataclass(frozen=True)
class CueLimits:
    """How much a cue has at most: `lines` of so many `columns` (2 or more; a wide character has two), and `seconds`."""

    columns: int = 42
    lines: int = 2
    seconds: float = 7.0


@dataclass(frozen=True)
class Cue:
    """A cue of subtitles, numbered from 1. Times are in milliseconds."""

    number: int
    start: int
    end: int
    lines: tuple[str, ...]


class Cues:
    """Makes the cues of finals that come in order. No cue begins before the one before it has ended.

    All lines of an utterance's cues are its text. Their times are those of its words, if it has any; else the
    utterance's time is shared among its characters: 90 % of the words are then within 0.32 s of when they are spoken.
    """

    def __init__(self, limits: CueLimits | None = None) -> None:
        self._limits = limits or CueLimits()
        self._count = 0
        self._latest = 0

    def add(self, final: Final) -> list[Cue]:
        """The cues of the next final; none if it has no text."""
        text = one_line(final.text)
        if not text:
            return []
        utterance = _Utterance(text, final, self._limits)
        parts = utterance.cues()
        cues = []
        for (begin, end), following in zip(parts, [*parts[1:], None], strict=True):
            # Each cue gets a millisecond at least, whatever the times are.
            start = max(self._latest, utterance.starts[begin])
            next_start = max(utterance.end if following is None else utterance.starts[following[0]], start + 1)
            shown_until = max(utterance.ends[end - 1], start + min(SHORTEST_MS, utterance.longest))
            if following is not None and next_start - shown_until < SMALLEST_GAP_MS:
                shown_until = next_start
            self._latest = max(min(shown_until, next_start, start + utterance.longest), start + 1)
            self._count += 1
            cues.append(Cue(self._count, start, self._latest, tuple(utterance.lines(begin, end))))
        return cues


def spells(words: Sequence[Word], text: str) -> bool:
    """Whether the words, in order, are the text, apart from its blanks."""
    return "".join(_visible(word.text) for word in words) == _visible(text)


def _visible(text: str) -> str:
    """The text without blanks and control characters."""
    solid = "".join(text.split())
    return solid if solid.isprintable() else "".join(one_line(solid).split())


class _Utterance:
    """The pieces of an utterance, with their times in milliseconds. A range [begin, end) of them is a cue or a line."""

    def __init__(self, text: str, final: Final, limits: CueLimits) -> None:
        self._limits = limits
        self._pieces = pieces(text, limits.columns)
        self.longest = max(1, round(limits.seconds * 1000))
        self.end = max(_milliseconds(final.start), _milliseconds(final.end))
        words = final.words if spells(final.words, text) else (Word(text, final.start, final.end),)
        starts, ends = _character_times(words, _milliseconds(final.start), self.end)
        first = [0, *accumulate(len(_visible(piece.text)) for piece in self._pieces)]
        self.starts = [starts[min(at, len(starts) - 1)] for at in first[:-1]]
        self.ends = [ends[max(at - 1, 0)] for at in first[1:]]
        # The column at which each piece begins and the last one ends, if all were one line.
        self._offsets = [0, *accumulate(piece.columns + piece.after_blank for piece in self._pieces)]

    def cues(self) -> list[tuple[int, int]]:
        """The parts of the utterance that are a cue each."""
        return [cue for begin, end in self._joined() for cue in self._split(begin, end)]

    def lines(self, begin: int, end: int) -> Iterator[str]:
        """The lines of a cue: as few as possible, and of about the same width."""
        count = self._line_count(begin, end)
        while count > 1:
            last = min(self._line_end(begin), end - 1)
            possible = [at for at in range(begin + 1, last + 1) if self._screen_end(at, count - 1) >= end]
            target = self._columns(begin, end) / count
            costs = [LINE_BALANCE * self._deviation(begin, at, target) + self._break_cost(at) for at in possible]
            at = possible[costs.index(min(costs))]
            yield self._text(begin, at)
            begin, count = at, count - 1
        yield self._text(begin, end)

    # --- what is a cue

    def _sentences(self) -> list[tuple[int, int]]:
        """The parts between pauses and ends of sentences."""
        edges = [
            at
            for at in range(1, len(self._pieces))
            if self._gap(at) >= PAUSE_MS or self._pieces[at].before is Break.SENTENCE
        ]
        return list(zip([0, *edges], [*edges, len(self._pieces)], strict=True))

    def _joined(self) -> list[tuple[int, int]]:
        """The sentences, of which those that are too short for a cue of their own are joined with a neighbour."""
        sentences = self._sentences()
        joined: list[tuple[int, int]] = []
        for (begin, end), following in zip(sentences, [*sentences[1:], None], strict=True):
            if joined and self._belong_together(joined[-1], (begin, end), following):
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((begin, end))
        return joined

    def _belong_together(self, one: tuple[int, int], two: tuple[int, int], following: tuple[int, int] | None) -> bool:
        """Whether two sentences are one cue. The second may rather belong to the `following`."""
        gap = self._gap(two[0])
        fits = self._fits(one[0], two[1])
        if gap >= NEAR_MS:
            return False
        if self._is_short(*one):
            return fits or self._is_orphan(*one)
        if not self._is_short(*two):
            return False
        if following is not None and self._gap(following[0]) <= gap and self._fits(two[0], following[1]):
            return False
        return fits or (following is None and self._is_orphan(*two))

    def _is_short(self, begin: int, end: int) -> bool:
        until = self.starts[end] if end < len(self._pieces) else self.end
        return self._is_orphan(begin, end) or until - self.starts[begin] < min(SHORTEST_MS, self.longest)

    def _is_orphan(self, begin: int, end: int) -> bool:
        """Whether it is a single short word, or as little of a script without blanks."""
        return self._columns(begin, end) <= ORPHAN_COLUMNS and not any(
            piece.after_blank for piece in self._pieces[begin + 1 : end]
        )

    def _split(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Parts that fit into a cue each. Text that is spoken too slowly may be longer, if only orphans would do."""
        while not self._fits(begin, end):
            at = self._best_split(begin, end)
            if at is None or (
                self._leaves_orphan(begin, at, end) and self._screen_end(begin, self._limits.lines) >= end
            ):
                break
            yield begin, at
            begin = at
        yield begin, end

    def _best_split(self, begin: int, end: int) -> int | None:
        """Where to end the cue that begins there; None if there is no such place."""
        count = max(2, self._cue_count(begin, end))
        target = self._columns(begin, end) / count
        last = min(max(self._cue_end(begin), begin + 1), end - 1)

        def cost(at: int) -> float:
            orphan, longer = self._leaves_orphan(begin, at, end), self._cue_count(at, end) >= count
            extra = ORPHAN_COST * orphan + EXTRA_CUE_COST * longer
            return self._deviation(begin, at, target) + self._break_cost(at) + extra

        return min(range(begin + 1, last + 1), key=cost, default=None)

    def _cue_count(self, begin: int, end: int) -> int:
        """About how many cues there must be."""
        screens = self._columns(begin, end) / (FULL * self._limits.columns * self._limits.lines)
        return max(ceil(screens), ceil((self.ends[end - 1] - self.starts[begin]) / self.longest))

    def _leaves_orphan(self, begin: int, at: int, end: int) -> bool:
        return self._is_orphan(begin, at) or self._is_orphan(at, end)

    def _deviation(self, begin: int, at: int, target: float) -> float:
        """How far the width is from the ideal one, as a part of that."""
        return abs(self._columns(begin, at) - target) / target

    def _break_cost(self, at: int) -> float:
        return 0.0 if self._gap(at) >= HESITATION_MS else COSTS[self._pieces[at].before]

    # --- what fits

    def _fits(self, begin: int, end: int) -> bool:
        return self._cue_end(begin) >= end

    def _cue_end(self, begin: int) -> int:
        """The end of the longest cue that begins there; `begin` if one piece takes too long."""
        in_time = bisect_right(self.ends, self.starts[begin] + self.longest)
        return min(in_time, self._screen_end(begin, self._limits.lines))

    def _screen_end(self, begin: int, lines: int) -> int:
        """The end of as much text as fits into so many lines."""
        for _ in range(lines):
            if begin == len(self._pieces):
                break
            begin = self._line_end(begin)
        return begin

    def _line_count(self, begin: int, end: int) -> int:
        count = 0
        while begin < end:
            begin, count = self._line_end(begin), count + 1
        return count

    def _line_end(self, begin: int) -> int:
        column = self._offsets[begin] + self._pieces[begin].after_blank
        return bisect_right(self._offsets, column + self._limits.columns) - 1

    def _columns(self, begin: int, end: int) -> int:
        return self._offsets[end] - self._offsets[begin] - self._pieces[begin].after_blank

    def _gap(self, at: int) -> int:
        return self.starts[at] - self.ends[at - 1]

    def _text(self, begin: int, end: int) -> str:
        parts = (" " * piece.after_blank + piece.text for piece in self._pieces[begin:end])
        return "".join(parts).removeprefix(" ")


def _character_times(words: Sequence[Word], first: int, last: int) -> tuple[list[int], list[int]]:
    """When each visible character of the words begins and ends, from `first` to `last`, in order."""
    starts, ends = [], []
    begin = end = first
    for word in words:
        begin = min(max(begin, _milliseconds(word.start)), last)
        end = min(max(begin, end, _milliseconds(word.end)), last)
        count = len(_visible(word.text))
        starts += [begin + (end - begin) * at // count for at in range(count)]
        ends += [begin + (end - begin) * (at + 1) // count for at in range(count)]
    return list(accumulate(starts, max)), list(accumulate(ends, max))


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE
