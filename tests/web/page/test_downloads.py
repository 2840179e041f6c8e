"""Transcripts that the page saves: as subtitles of the same cues as anywhere, and no bad message gets further."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from typing import Any

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.config.limits import PageLimits
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles import formats
from qwen_asr.web.page.downloads import download

LINES: list[dict[str, Any]] = [
    {"start": 0, "end": 1, "text": "Turn on the light.", "language": "English"},
    {
        "start": 2.5,
        "end": 6,
        "text": "One. Two three.",
        "language": None,
        "words": [["One.", 2.75, 3.0], ["Two", 4.25, 4.5], ["three.", 4.5, 5.75]],
    },
]
FINALS = [
    Final(0, 0, 16_000, "English", "Turn on the light.", 0.0),
    Final(
        1, 40_000, 96_000, None, "One. Two three.", 0.0,
        words=(Word("One.", 44_000, 48_000), Word("Two", 68_000, 72_000), Word("three.", 72_000, 92_000)),
    ),
]  # fmt: skip


def saved(form: str, lines: Any = LINES) -> str:
    answer = download({"format": form, "lines": json.dumps(lines)})
    assert set(answer) == {"text"}, answer
    return answer["text"]


def test_each_format_is_that_of_the_same_finals() -> None:
    assert saved("txt") == formats.txt(FINALS) == "Turn on the light.\nOne. Two three.\n"
    assert saved("srt") == formats.srt(FINALS)
    assert saved("vtt") == formats.vtt(FINALS)
    assert saved("json") == formats.as_json(FINALS)
    assert [str(cue.start)[:9] for cue in srt.parse(saved("srt"))] == ["0:00:00", "0:00:02.7", "0:00:04.2"]
    assert len(webvtt.from_buffer(io.StringIO(saved("vtt"))).captions) == 3
    assert json.loads(saved("json"))["text"] == "Turn on the light. One. Two three."
    assert [saved(form, []) for form in ("txt", "srt", "vtt")] == ["", "", "WEBVTT\n\n"]


def test_words_that_are_not_the_text_any_more_do_not_count() -> None:
    edited = [LINES[1] | {"text": "One. Two or three."}]
    assert saved("srt", edited) == saved("srt", [{**edited[0], "words": []}]) != saved("srt", LINES[1:])
    respaced = [LINES[1] | {"text": "One.  Two\nthree."}]
    assert saved("srt", respaced) == saved("srt", LINES[1:])


def test_lines_are_put_in_order_and_an_end_before_the_start_does_no_harm() -> None:
    assert saved("txt", LINES[::-1]) == saved("txt")
    [cue] = srt.parse(saved("srt", [{"start": 5, "end": 1, "text": "Late."}]))
    assert cue.start.total_seconds() == 5


LINE = LINES[0]
NAN, INFINITE = float("nan"), float("inf")
BAD: dict[str, list[Any]] = {
    "start": [None, -1, 360_001, 1e308, "1", True, NAN, INFINITE],
    "text": [None, 1, ["x"]],
    "language": [1, "x" * 65],
    "words": [None, "x", [1], [[]], [["x", 1]], [["x", 1, 2, 3]], [["x", 2, -1]], [["x", 1, NAN]]],
}
BAD_TRANSCRIPTS: list[Any] = [{}, None, 1, "x", [1], [[]], [{}]]
BAD_LINES = [
    *map(json.dumps, BAD_TRANSCRIPTS),
    *(json.dumps([LINE | {field: value}]) for field, values in BAD.items() for value in values),
    *("", "[", "[" * 1000, '[{"text": "\\ud800", "start": 0, "end": 1}]', '[], "format": "json"', "[]}"),
]


@pytest.mark.parametrize("lines", BAD_LINES)
def test_a_transcript_that_cannot_be_read(lines: str) -> None:
    answer = download({"format": "srt", "lines": lines})
    assert set(answer) == {"error"}
    assert "The page sent a transcript that cannot be read (" in answer["error"]
    assert answer["error"].endswith("; reload the page.")
    assert len(answer["error"]) < 200


@pytest.mark.parametrize(
    "data", [None, [], "x", {}, {"format": "srt"}, {"format": "doc", "lines": "[]"}, {"format": "srt", "lines": []}]
)
def test_a_message_that_cannot_be_read(data: Any) -> None:
    assert "cannot be read" in download(data)["error"]


def test_a_transcript_that_is_too_long() -> None:
    many = "[" + ",".join(['{"start":0,"end":1,"text":"a","words":[]}'] * (PageLimits.transcript_brackets // 2)) + "]"
    assert "too long for one file" in download({"format": "txt", "lines": many})["error"]
    long = [{"start": 0, "end": 1, "text": "a" * (PageLimits.transcript_characters // 2)}]
    assert "text" in download({"format": "txt", "lines": json.dumps(long * 2)})
    assert "too long for one file" in download({"format": "txt", "lines": json.dumps([*long * 2, LINE])})["error"]


@pytest.mark.slow
def test_five_hours_with_words_fit() -> None:
    """An hour of fast Chinese, where every character has its times, is less than a fifth of what fits."""
    rate = 6
    lines = []
    for second in range(0, 3600, 10):
        times = [12_345 + second + count / rate for count in range(10 * rate + 1)]
        words = [["字", round(start, 3), round(end, 3)] for start, end in pairwise(times)]
        lines.append(
            {"start": times[0], "end": times[-1], "text": "字" * 10 * rate, "language": "Chinese", "words": words}
        )
    written = json.dumps(lines, ensure_ascii=False, separators=(",", ":"))
    body = json.dumps({"data": {"format": "vtt", "lines": written}, "fn_name": "download"}, ensure_ascii=False)
    assert 5 * len(body.encode()) < PageLimits.transcript_bytes
    assert 5 * (written.count("[") + written.count("{")) < PageLimits.transcript_brackets
    assert 5 * written.count("字") < 2 * PageLimits.transcript_characters
    assert saved("srt", lines).count("字") == 3600 * rate


@pytest.mark.slow
@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda some: st.lists(some), max_leaves=5)
    | st.lists(
        st.fixed_dictionaries(
            {"start": st.floats(0, 10), "end": st.floats(0, 10), "text": st.text(st.characters(codec="utf-8"))},
            optional={"words": st.lists(st.tuples(st.text("ab"), st.floats(0, 10), st.floats())), "extra": st.text()},
        )
    ),
    st.sampled_from(["txt", "srt", "vtt", "json"]),
)
def test_every_message_is_answered(lines: Any, form: str) -> None:
    [(key, sentence)] = download({"format": form, "lines": json.dumps(lines)}).items()
    assert key in ("text", "error")
    assert isinstance(sentence, str)
