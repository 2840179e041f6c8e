"""Cues: any text fits on a screen and is there once, and each sentence is shown when it is spoken."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.vad import Silero
from qwen_asr.engine.frame_aligner.aligner import load_frame_aligner
from qwen_asr.engine.local_engine import LocalModel
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.live.runner import run_session
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.live.subtitles.cues import Cue, CueLimits, Cues, spells
from qwen_asr.live.subtitles.line_breaks import columns, one_line
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.finals import hostile_finals

SENTENCES = (
    "Good morning, everybody, and welcome.",
    "We begin with the kitchen light.",
    "Is the door of the garden open?",
    "Nobody has closed it since yesterday evening.",
    "The dog of our neighbours came in!",
    "He ate everything that was on the table.",
    "Then it began to rain, as it always does here.",
    "We waited for the train to the city.",
    "It was late by half an hour again.",
    "That is all that I remember of the day.",
)
STEP = 3.0
"""One of them begins every three seconds."""


def final(text: str, seconds: float, start: float = 0.0, words: Sequence[Word] = ()) -> Final:
    begin = round(start * SAMPLE_RATE)
    return Final(0, begin, begin + round(seconds * SAMPLE_RATE), None, text, 0.0, words=tuple(words))


def timed(sentences: Sequence[str], step: float = STEP, pause: float = 0.3) -> tuple[Final, list[tuple[float, float]]]:
    """An utterance with words whose times are known, and the times of its sentences in seconds."""
    words: list[Word] = []
    times = []
    for number, sentence in enumerate(sentences):
        parts = sentence.split()
        at = number * step
        each = (step - pause) / len(parts)
        times.append((at, at + step - pause))
        for index, part in enumerate(parts):
            begin = at + index * each
            words.append(Word(part, round(begin * SAMPLE_RATE), round((begin + each) * SAMPLE_RATE)))
    return final(" ".join(sentences), step * len(sentences), words=words), times


def shown(cues: Sequence[Cue]) -> list[str]:
    return [" ".join(cue.lines) for cue in cues]


# --- ten sentences


def test_each_sentence_is_shown_when_it_is_spoken() -> None:
    utterance, times = timed(SENTENCES)
    cues = Cues().add(utterance)
    assert shown(cues) == list(SENTENCES)
    for cue, (start, end) in zip(cues, times, strict=True):
        assert abs(cue.start / 1000 - start) < 0.3
        assert abs(cue.end / 1000 - end) <= 0.3


def test_sentences_without_the_times_of_words() -> None:
    cues = Cues().add(final(" ".join(SENTENCES), STEP * len(SENTENCES)))
    assert shown(cues) == list(SENTENCES)
    assert (cues[0].start, cues[-1].end) == (0, 30_000)
    written = [len("".join(sentence.split())) for sentence in SENTENCES]
    for number, cue in enumerate(cues):  # a sentence has as much of the time as of the characters
        assert cue.start == pytest.approx(30_000 * sum(written[:number]) / sum(written), abs=1)


def test_words_that_are_not_the_text_do_not_count() -> None:
    utterance, _ = timed(SENTENCES)
    text = utterance.text.replace("kitchen", "bathroom")
    assert not spells(utterance.words, text)
    assert spells(utterance.words, utterance.text.replace(" ", "\n"))
    edited = final(text, 30, words=utterance.words)
    assert Cues().add(edited) == Cues().add(final(text, 30))


SPOKEN = (
    "Turn on the kitchen light.",
    "The meeting is on Monday the tenth of May.",
    "My number is four seven one.",
    "Wake me up at half past six.",
    "The green umbrella is in the hall.",
    "Turn off the bedroom light.",
    "My number is four seven one.",
    "The green umbrella is in the hall.",
    "Wake me up at half past six.",
    "Turn on the kitchen light.",
)


@pytest.mark.slow
def test_each_sentence_of_real_speech_is_shown_when_it_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten sentences in one utterance, through the demo checkpoint and its aligner."""
    blocks, times, at = [], [], 0
    for sentence in SPOKEN:
        sound = np.flatnonzero(np.abs(spoken(sentence)) > 0.01)
        blocks += [spoken(sentence)[: sound[-1]], np.zeros(round(0.35 * SAMPLE_RATE), np.float32)]
        times.append(((at + sound[0]) / SAMPLE_RATE, (at + sound[-1]) / SAMPLE_RATE))
        at += sum(map(len, blocks[-2:]))
    recognizer = demo_recognizer()
    monkeypatch.setattr(recognizer, "aligner", load_frame_aligner(recognizer))  # other tests share it
    session = create_session(LocalModel(recognizer), Silero(), SessionOptions(chunk_seconds=60.0, words=True))
    [heard] = [event for event in run_session(session, [np.concatenate(blocks)]) if isinstance(event, Final)]
    cues = Cues().add(heard)
    assert [cue.lines[0].split()[0] for cue in cues] == [sentence.split()[0] for sentence in SPOKEN]
    for cue, (start, end) in zip(cues, times, strict=True):
        assert abs(cue.start / 1000 - start) < 0.3
        assert abs(cue.end / 1000 - end) < 0.3


# --- where cues and lines are broken


def text_of(text: str, seconds: float = 6.0, limits: CueLimits | None = None) -> list[tuple[str, ...]]:
    return [cue.lines for cue in Cues(limits).add(final(text, seconds))]


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("One line is enough for this.", [("One line is enough for this.",)]),
        (  # lines are balanced, and end before a short word rather than after it
            "Then they all went together to the old house by the sea.",
            [("Then they all went together", "to the old house by the sea.")],
        ),
        (  # a comma is better than the middle
            "He said that he would come tomorrow, and bring his friend.",
            [("He said that he would come tomorrow,", "and bring his friend.")],
        ),
        (  # full stops that end no sentence
            "3.5 km, says Dr. Smith of the U.S. Army on 3. Mai.",
            [("3.5 km, says Dr. Smith", "of the U.S. Army on 3. Mai.")],
        ),
        (
            "今天我们要讨论的是如何构建这些系统，以及为什么它很重要。",
            [("今天我们要讨论的是如何构建这些系统，", "以及为什么它很重要。")],
        ),
    ],
)  # fmt: skip
def test_lines(text: str, cues: list[tuple[str, ...]]) -> None:
    assert text_of(text) == cues


def test_no_short_word_stands_alone() -> None:
    assert text_of("Is it raining? No. It is sunny.", 9) == [("Is it raining?",), ("No. It is sunny.",)]
    assert text_of("We did not see it. Yes.", 6) == [("We did not see it. Yes.",)]
    long = "and then we went on along the river until it was dark and nobody knew where we were any more"
    for count in range(4, 20):
        for lines in text_of(" ".join(long.split()[:count]) + "."):
            assert len(" ".join(lines).split()) > 1


def test_a_pause_ends_a_cue_and_a_shorter_one_is_a_good_place() -> None:
    def with_gap(gap: float, after: int, count: int) -> list[str]:
        words, at = [], 0.0
        for index in range(count):
            words.append(Word(f"word{index:02}", round(at * SAMPLE_RATE), round((at + 0.25) * SAMPLE_RATE)))
            at += 0.25 + (gap if index == after else 0)
        return shown(Cues().add(final(" ".join(word.text for word in words), at, words=words)))

    assert [len(cue.split()) for cue in with_gap(0.6, 3, 8)] == [4, 4]
    assert [len(cue.split()) for cue in with_gap(0.3, 3, 8)] == [8]
    assert [len(cue.split()) for cue in with_gap(0.3, 5, 16)] == [6, 10]
    assert [len(cue.split()) for cue in with_gap(0.0, 5, 16)] == [8, 8]


def test_a_long_word_is_broken_and_no_other() -> None:
    word = "Donaudampfschifffahrtsgesellschaftskapitän"
    assert len(word) == 42
    assert word in [line for cue in text_of(f"Der {word} schläft.") for line in cue]
    parts = [line for cue in text_of("x" * 100) for line in cue]
    assert "".join(parts) == "x" * 100
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_scripts_without_blanks_keep_their_rules() -> None:
    for text in (
        "「你好。」" * 30,
        "（一）、“二”，" * 20,
        "เแโใไ" + "กำๆ" * 60,
        "ちょっと待って、キャッチャー！" * 9,
        "２０２６年" * 30,
    ):
        for lines in text_of(text, 60):
            for line in lines:
                assert line[0] not in "」。），、”！ำๆょっャー"
                assert line[-1] not in "「（“เแโใไ"
    assert not any(
        re.match("[０-９]", line) for cue in text_of("年２０２６" * 30, 60) for line in cue[1:] if line[0] != "２"
    )


@pytest.mark.parametrize("grapheme", ["👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0301", "한", "नि"])
def test_graphemes_are_whole(grapheme: str) -> None:
    lines = [line for cue in text_of(grapheme * 100, 60) for line in cue]
    assert len(lines) > 2
    assert all(line == grapheme * (len(line) // len(grapheme)) for line in lines)


# --- times


def times_of(*finals: Final, limits: CueLimits | None = None) -> list[tuple[int, int]]:
    cues = Cues(limits)
    return [(cue.start, cue.end) for one in finals for cue in cues.add(one)]


def word(text: str, start: float, end: float) -> Word:
    return Word(text, round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))


def test_a_short_cue_lasts_a_little_longer_but_not_into_the_next() -> None:
    words = [word("Stop now.", 1.0, 1.2), word("Go on.", 2.5, 2.7), word("Begin.", 3.4, 3.6)]
    text = "Stop now. Go on. Begin."
    assert times_of(final(text, 4, words=words)) == [(1000, 1833), (2500, 3600)]
    assert times_of(final("Stop now.", 1.1, words=words[:1])) == [(1000, 1100)]


def test_a_small_gap_is_closed() -> None:
    words = [
        word("This is one sentence.", 0, 2.0),
        word("This is another one.", 2.29, 4.0),
        word("And one more.", 4.31, 6),
    ]
    text = "This is one sentence. This is another one. And one more."
    assert times_of(final(text, 6, words=words)) == [(0, 2290), (2290, 4000), (4310, 6000)]


def test_a_cue_ends_after_seven_seconds() -> None:
    assert times_of(final("Yes.", 12)) == [(0, 7000)]
    assert times_of(final("Yes, I know.", 30)) == [(0, 7000)]
    assert times_of(final("Yes.", 12), limits=CueLimits(seconds=2.5)) == [(0, 2500)]
    slow = final("We will now all wait for a very long time.", 20)
    assert all(3000 <= end - start <= 7000 for start, end in times_of(slow))


def test_finals_that_overlap_or_come_late_give_cues_in_order() -> None:
    times = times_of(final("One sentence.", 3, 5), final("Another one.", 3, 6), final("A late one.", 1, 1))
    assert times == [(5000, 8000), (8000, 9000), (9000, 9001)]


# --- properties

LIMITS = st.one_of(
    st.just(CueLimits()),
    st.builds(CueLimits, st.integers(4, 60), st.integers(1, 4), st.floats(0.5, 20)),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.lists(hostile_finals(), max_size=4), LIMITS)
def test_any_text_fits_on_a_screen_and_nothing_is_lost(given_finals: list[Final], limits: CueLimits) -> None:
    cues = Cues(limits)
    latest, number = 0, 0
    for one in given_finals:
        text = one_line(one.text)
        rest = blanked(text)
        for cue in cues.add(one):
            number += 1
            assert cue.number == number
            assert latest <= cue.start < cue.end
            assert cue.end - cue.start <= limits.seconds * 1000 + 1
            latest = cue.end
            assert 1 <= len(cue.lines) <= limits.lines
            for line in cue.lines:
                assert columns(line) <= limits.columns
                assert line
                rest = rest if rest.startswith(blanked(line)) else rest.lstrip()
                assert rest.startswith(blanked(line))
                check_break(text, len(text) - len(rest), limits.columns)
                rest = rest[len(line) :]
        assert not rest.strip()


def blanked(text: str) -> str:
    """The text with blanks in place of no-break spaces: a long word is broken there, and its parts may share a line."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def check_break(text: str, cut: int, most: int) -> None:
    """A line does not begin inside of a word that fits on a line, or of a grapheme."""
    before, after = text[:cut], text[cut:]
    if not before or before[-1].isspace():
        return
    graphemes = regex.findall(r"\X", text)
    ends = {sum(map(len, graphemes[:count])) for count in range(len(graphemes) + 1)}
    assert len(before) in ends or max(map(columns, graphemes)) > most
    if before[-1].isascii() and after[0].isascii():
        for part in (graphemes[n:] for n in range(len(graphemes)) if n == 0 or graphemes[n - 1] == " "):
            begin = len(text) - sum(map(len, part))
            word = "".join(itertools.takewhile(lambda one: one != " ", part))
            if begin < cut < begin + len(word):
                assert columns(word) > most


@settings(max_examples=50)
@given(st.lists(st.text("abcdefg", min_size=1, max_size=8), min_size=2, max_size=60))
def test_the_lines_of_a_cue_are_balanced(words: list[str]) -> None:
    for lines in text_of(" ".join(words), 5):
        if len(lines) == 2:
            assert columns(" ".join(lines)) > 42  # else it is one
            assert min(map(columns, lines)) >= max(map(columns, lines)) / 2
