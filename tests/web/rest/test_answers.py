"""The answers that are sent at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from openai.types.audio import TranscriptionVerbose

from qwen_asr.live.events import Final
from qwen_asr.web.rest.answers import WhyNoWords, whole_answer
from qwen_asr.web.rest.form import parse_request
from qwen_asr.web.spoken_words import bare
from tests.support.aligners import aligned_finals, with_words
from tests.support.finals import SCORED, final

VERBOSE: Any = {"response_format": "verbose_json"}
NO_ALIGNER = "This server has no aligner: start it with --aligner-model-path."


def known(language: str | None) -> str | None:
    """A server that knows the words of all languages but one."""
    return "Finnish has no words." if language == "Finnish" else None


def answer(
    finals: Sequence[Final], seconds: float, *, why: WhyNoWords = known, words: Sequence[str] = (), **fields: str
) -> Any:
    """`words`: the granularities."""
    request = parse_request({name: [value] for name, value in fields.items()} | {"timestamp_granularities[]": words})
    return json.loads(bytes(whole_answer(request, why, finals, seconds).body))


def test_json() -> None:
    assert answer([final("One."), final("Two.", 1)], 3.5) == {
        "text": "One. Two.",
        "languages": [{"code": "en"}],
        "usage": {"type": "duration", "seconds": 3.5},
    }


def test_the_probabilities_of_the_tokens_are_those_of_the_text() -> None:
    body = answer(SCORED, 5.0, include="logprobs")
    assert [(one["token"], one["logprob"]) for one in body["logprobs"]] == [
        ("One", -0.5), (" \ufffd", -0.25), ("\ufffd.", -0.75), (" Two.", -0.125),
    ]  # fmt: skip
    assert b"".join(bytes(one["bytes"]) for one in body["logprobs"]).decode() == body["text"] == "One é. Two."
    assert "logprobs" not in answer(SCORED, 5.0)
    assert answer([], 5.0, include="logprobs")["logprobs"] == []


def test_verbose_json() -> None:
    body = answer([final("One."), *SCORED[1:]], 5.0, response_format="verbose_json")
    first, second = body.pop("segments")
    assert body == {
        "text": "One. Two.",
        "languages": [{"code": "en"}],
        "usage": {"type": "duration", "seconds": 5.0},
        "task": "transcribe",
        "language": "english",
        "duration": 5.0,
        "warnings": [],
    }
    assert first == {
        "id": 0, "seek": 0, "start": 0.0, "end": 1.0, "text": "One.", "tokens": [], "temperature": 0.0,
        "avg_logprob": 0.0, "compression_ratio": pytest.approx(4 / 12), "no_speech_prob": 0.0,
    }  # fmt: skip
    assert (second["id"], second["seek"], second["start"], second["end"]) == (1, 400, 4.0, 5.0)
    assert (second["tokens"], second["avg_logprob"]) == ([10], -0.125)
    [segment] = answer(SCORED[:1], 1.0, response_format="verbose_json")["segments"]
    assert segment["avg_logprob"] == -0.5


CUT = "repetition: the model repeated the same words in a loop; one occurrence was kept."


def test_words_are_those_of_openai() -> None:
    finals = [with_words("Turn it on."), final("", 1), with_words("“Now”, twenty-one — 50%!", 2)]
    body = answer(finals, 5.0, words=["word"], **VERBOSE)
    assert body["words"] == [
        {"word": "Turn", "start": 0.0, "end": 0.1},
        {"word": "it", "start": 0.1, "end": 0.2},
        {"word": "on", "start": 0.2, "end": 0.3},
        {"word": "Now", "start": 4.0, "end": 4.1},
        {"word": "twenty-one", "start": 4.1, "end": 4.2},
        {"word": "50%", "start": 4.3, "end": 4.4},
    ]
    assert body["warnings"] == []
    assert "segments" not in body
    parsed = TranscriptionVerbose.model_validate(body, strict=True)
    assert parsed.words is not None
    assert parsed.words[1].word == "it"


@pytest.mark.parametrize(
    ("granularities", "expected"),
    [
        ([], {"segments"}),
        (["segment"], {"segments"}),
        (["word"], {"words"}),
        (["word", "segment"], {"words", "segments"}),
    ],
)
def test_an_answer_has_what_was_asked_for(granularities: list[str], expected: set[str]) -> None:
    for finals in ([with_words("One.")], []):
        body = answer(finals, 1.0, words=granularities, **VERBOSE)
        assert body.keys() & {"words", "segments"} == expected
        assert "words" not in answer(finals, 1.0, words=granularities)  # json


def test_without_an_aligner_the_segments_take_the_place_of_words() -> None:
    body = answer([final("One.", warnings=(CUT,))], 1.0, why=lambda _: NO_ALIGNER, words=["word"], **VERBOSE)
    assert body["warnings"] == [f"words: {NO_ALIGNER} `segments` has the times of the utterances.", CUT]
    assert "words" not in body
    assert len(body["segments"]) == 1
    assert answer([final("One.")], 1.0, why=lambda _: NO_ALIGNER, **VERBOSE)["warnings"] == []


def test_a_language_without_words_is_named_once() -> None:
    finals = [with_words("One."), *(final("Yksi.", number, language="Finnish") for number in (1, 2)), final("…", 3)]
    body = answer(finals, 7.0, words=["word"], **VERBOSE)
    assert [word["word"] for word in body["words"]] == ["One"]
    assert body["warnings"] == ["words: Finnish has no words. `segments` has the times of the utterances."]
    assert len(body["segments"]) == 4
    body = answer(finals[1:], 7.0, words=["word"], language="Finnish", **VERBOSE)
    assert "words" not in body
    assert len(body["warnings"]) == 1


def test_where_an_alignment_failed_the_segments_are_there() -> None:
    failed = final("Two.", 1, warnings=("words: their times are unknown. The log says why.",))
    body = answer([with_words("One."), failed], 3.0, words=["word"], **VERBOSE)
    assert [word["word"] for word in body["words"]] == ["One"]
    assert body["warnings"] == list(failed.warnings)
    assert [segment["text"] for segment in body["segments"]] == ["One.", "Two."]
    assert "segments" not in answer([with_words("One."), final("…", 1)], 3.0, words=["word"], **VERBOSE)


@given(aligned_finals())
def test_the_words_are_in_the_text_in_order_and_never_go_back(finals: list[Final]) -> None:
    body = answer(finals, 9.0, words=["word"], **VERBOSE)
    rest = body["text"]
    for word in body["words"]:
        before, found, rest = rest.partition(word["word"])
        assert found
        assert bare(before) == ""
    assert bare(rest) == ""
    assert all(word["start"] <= word["end"] for word in body["words"])
    assert all(one["start"] <= other["start"] for one, other in pairwise(body["words"]))


def test_the_languages_begin_with_that_of_most_of_the_audio() -> None:
    finals = [final("Ja.", language="German"), final("One."), final("Two."), final("", language="French")]
    assert answer(finals, 9.0)["languages"] == [{"code": "en"}, {"code": "de"}]
    assert answer([], 9.0)["languages"] == []


def test_without_speech_the_language_is_that_of_the_request() -> None:
    assert answer([], 1.0, **VERBOSE, language="German")["language"] == "german"
    assert answer([], 1.0, **VERBOSE, languages="de")["language"] == "german"
    assert answer([], 1.0, **VERBOSE)["language"] == ""
