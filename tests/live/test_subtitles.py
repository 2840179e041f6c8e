"""Subtitle files, compared with the complete expected text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.live import subtitles
from qwen_asr.live.events import Final

SECOND = 16000


def final(start: float, end: float, text: str) -> Final:
    return Final(0, round(start * SECOND), round(end * SECOND), "English", text, 0.0)


FINALS = [
    final(0.5, 2.25, "Hello & <b>welcome</b>."),
    final(3, 3.5, ""),
    final(3661.001, 3665, "An arrow --> and a\n\nblank line."),
]


def test_srt() -> None:
    assert subtitles.srt(FINALS) == (
        "1\n00:00:00,500 --> 00:00:02,250\nHello & <b>welcome</b>.\n\n"
        "2\n01:01:01,001 --> 01:01:05,000\nAn arrow -> and a blank line.\n\n"
    )


def test_vtt() -> None:
    assert subtitles.vtt(FINALS) == (
        "WEBVTT\n\n"
        "00:00:00.500 --> 00:00:02.250\nHello &amp; &lt;b&gt;welcome&lt;/b&gt;.\n\n"
        "01:01:01.001 --> 01:01:05.000\nAn arrow --&gt; and a blank line.\n\n"
    )


def test_txt() -> None:
    assert subtitles.txt(FINALS) == "Hello & <b>welcome</b>.\nAn arrow --> and a blank line.\n"


def test_json() -> None:
    read = json.loads(subtitles.as_json(FINALS))
    assert read["language"] == "English"
    assert [one["start"] for one in read["utterances"]] == [0.5, 3661.001]


def test_each_piece_is_there_as_soon_as_its_final_is_known() -> None:
    for form, write in (
        ("txt", subtitles.txt),
        ("srt", subtitles.srt),
        ("vtt", subtitles.vtt),
        ("json", subtitles.as_json),
    ):
        taken: list[Final] = []
        written: list[tuple[int, str]] = []

        def heard(taken: list[Final] = taken) -> Iterator[Final]:
            for one in FINALS:
                taken.append(one)
                yield one

        for piece in subtitles.PIECES[form](heard()):
            written.append((len(taken), piece))
        assert [count for count, _ in written][:2] == [1, 3]  # the second final has no text
        assert "welcome" in written[0][1]
        assert "".join(piece for _, piece in written) == write(FINALS)
    assert "".join(subtitles.json_pieces([], "a.wav")) == (
        '{\n  "file": "a.wav",\n  "utterances": [],\n  "text": "",\n  "language": null\n}\n'
    )


def test_finals_without_text() -> None:
    assert subtitles.srt([]) == ""
    assert subtitles.txt([final(0, 1, "  ")]) == ""
    assert subtitles.vtt([]) == "WEBVTT\n\n"


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            lambda start, length, text: Final(0, start, start + length, None, text, 0.0),
            st.integers(0, 10**7),
            st.integers(0, 10**5),
            st.text(max_size=12),
        ),
        max_size=8,
    )
)
def test_cues_never_overlap_and_any_text_gives_a_valid_file(finals: list[Final]) -> None:
    for text, point in ((subtitles.srt(finals), ","), (subtitles.vtt(finals), ".")):
        stamp = rf"(\d+):(\d\d):(\d\d){re.escape(point)}(\d\d\d)"
        blocks = [block for block in text.removeprefix("WEBVTT\n\n").split("\n\n") if block]
        latest = 0
        for block in blocks:
            lines = block.split("\n")
            assert len(lines) == (3 if point == "," else 2)
            assert sum("-->" in line for line in lines) == 1
            times = re.fullmatch(f"{stamp} --> {stamp}", lines[-2])
            assert times is not None
            numbers = [int(number) for number in times.groups()]
            start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:]))
            assert latest <= start < end
            latest = end
