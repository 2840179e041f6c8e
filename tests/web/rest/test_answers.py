"""The answers that are sent at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from qwen_asr.live.events import Final
from qwen_asr.web.rest.answers import whole_answer
from qwen_asr.web.rest.form import parse_request
from tests.support.finals import SCORED, final


def answer(finals: Sequence[Final], seconds: float, **fields: str) -> Any:
    request = parse_request({name: [value] for name, value in fields.items()})
    return json.loads(bytes(whole_answer(request, finals, seconds).body))


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


def test_what_is_missing_or_was_removed_is_a_warning() -> None:
    cut = final("One.", warnings=("repetition: the model repeated the same words in a loop; one occurrence was kept.",))
    fields = {"response_format": "verbose_json", "timestamp_granularities": "word"}
    body = answer([cut], 1.0, **fields)
    assert [warning.partition(":")[0] for warning in body["warnings"]] == ["words", "repetition"]
    assert "words" not in body
    assert len(body["segments"]) == 1


def test_the_languages_begin_with_that_of_most_of_the_audio() -> None:
    finals = [final("Ja.", language="German"), final("One."), final("Two."), final("", language="French")]
    assert answer(finals, 9.0)["languages"] == [{"code": "en"}, {"code": "de"}]
    assert answer([], 9.0)["languages"] == []


def test_without_speech_the_language_is_that_of_the_request() -> None:
    verbose = {"response_format": "verbose_json"}
    assert answer([], 1.0, **verbose, language="German")["language"] == "german"
    assert answer([], 1.0, **verbose, languages="de")["language"] == "german"
    assert answer([], 1.0, **verbose)["language"] == ""
