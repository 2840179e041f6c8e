"""Subtitle files, compared with the complete expected text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.live.events import Final
from qwen_asr.live.subtitles import formats
from qwen_asr.live.subtitles.cues import CueLimits, Cues
from tests.support.finals import hostile_finals

SECOND = 16000


def final(start: float, end: float, text: str) -> Final:
    return Final(0, round(start * SECOND), round(end * SECOND), "English", text, 0.0)


FINALS = [
    final(0.5, 2.25, "Hello & <b>welcome</b>."),
    final(3, 3.5, ""),
    final(3661.001, 3665, "An arrow --> and a\n\nblank line."),
]


def test_srt() -> None:
    assert formats.srt(FINALS) == (
        "1\n00:00:00,500 --> 00:00:02,250\nHello & <b>welcome</b>.\n\n"
        "2\n01:01:01,001 --> 01:01:05,000\nAn arrow -> and a blank line.\n\n"
    )


def test_vtt() -> None:
    assert formats.vtt(FINALS) == (
        "WEBVTT\n\n"
        "00:00:00.500 --> 00:00:02.250\nHello &amp; &lt;b&gt;welcome&lt;/b&gt;.\n\n"
        "01:01:01.001 --> 01:01:05.000\nAn arrow --&gt; and a blank line.\n\n"
    )


def test_txt() -> None:
    assert formats.txt(FINALS) == "Hello & <b>welcome</b>.\nAn arrow --> and a blank line.\n"


def test_json() -> None:
    read = json.loads(formats.as_json(FINALS))
    assert read["language"] == "English"
    assert [one["start"] for one in read["utterances"]] == [0.5, 3661.001]


def test_each_piece_is_there_as_soon_as_its_final_is_known() -> None:
    for form, write in (
        ("txt", formats.txt),
        ("srt", formats.srt),
        ("vtt", formats.vtt),
        ("json", formats.as_json),
    ):
        taken: list[Final] = []
        written: list[tuple[int, str]] = []

        def heard(taken: list[Final] = taken) -> Iterator[Final]:
            for one in FINALS:
                taken.append(one)
                yield one

        for piece in formats.PIECES[form](heard()):
            written.append((len(taken), piece))
        assert [count for count, _ in written][:2] == [1, 3]  # the second final has no text
        assert "welcome" in written[0][1]
        assert "".join(piece for _, piece in written) == write(FINALS)
    assert "".join(formats.json_pieces([], "a.wav")) == (
        '{\n  "file": "a.wav",\n  "utterances": [],\n  "text": "",\n  "language": null\n}\n'
    )


def test_finals_without_text() -> None:
    assert formats.srt([]) == ""
    assert formats.txt([final(0, 1, "  ")]) == ""
    assert formats.vtt([]) == "WEBVTT\n\n"


def test_no_arrow_is_left_in_subrip() -> None:
    assert "a -> b -> c" in formats.srt([final(0, 5, "a --> b ----> c")])


def test_each_format_takes_the_limits_of_its_cues() -> None:
    for form in formats.PIECES:
        narrow = "".join(formats.pieces_of(form, CueLimits(columns=9, lines=1))(FINALS))
        assert (narrow == "".join(formats.PIECES[form](FINALS))) == (form in ("txt", "json"))
    assert formats.srt(FINALS[2:], CueLimits(columns=9, lines=9)).count("-->") == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(hostile_finals(), max_size=4))
def test_any_subtitles_are_read_as_they_are_meant(given_finals: list[Final]) -> None:
    maker = Cues()
    in_order = sorted(given_finals, key=lambda one: (one.start, one.end))
    cues = [cue for one in in_order for cue in maker.add(one)]
    read = list(srt.parse(formats.srt(given_finals)))
    captions = webvtt.from_buffer(io.StringIO(formats.vtt(given_finals))).captions
    for cue, subtitle, caption in zip(cues, read, captions, strict=True):
        lines = "\n".join(cue.lines)
        assert subtitle.index == cue.number
        assert subtitle.content == re.sub("-{2,}>", "->", lines)
        assert caption.raw_text == lines.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for start, end in (
            (subtitle.start.total_seconds(), subtitle.end.total_seconds()),
            (seconds(caption.start), seconds(caption.end)),
        ):
            assert (round(start * 1000), round(end * 1000)) == (cue.start, cue.end)


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
