"""Sentences about wrong values: what was given, what is expected, and where."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qwen_asr.web.validation import SHOWN_CHARACTERS, Expectation, expects, first_error, shown


class Inner(BaseModel):
    model_config = ConfigDict(strict=True)

    ratio: Annotated[float, Field(ge=0, le=1), expects("a number from 0 to 1")] = 0.5
    count: Annotated[int, Field(ge=1)] = 1
    names: list[str] = []


class Outer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    kind: Literal["new", "old"] = "new"
    text: Annotated[str, Field(max_length=5)] = ""
    on: bool = True
    inner: Inner | None = None
    rate: int = 8_000
    field_name: str = Field("", alias="field-name")
    required: int = 0

    @field_validator("rate")
    @classmethod
    def _known_rate(cls, rate: int) -> int:
        if rate != 8_000:
            raise Expectation("8000")
        return rate

    @field_validator("on")
    @classmethod
    def _always_on(cls, on: bool) -> bool:
        if not on:
            raise ValueError("It cannot be switched off.")
        return on


@pytest.mark.parametrize(
    ("given", "path", "sentence"),
    [
        ([], "", "The value was given []; expected an object."),
        ({"kind": "x"}, "kind", 'kind was given "x"; expected one of new, old.'),
        ({"kind": ["x"]}, "kind", 'kind was given ["x"]; expected one of new, old.'),
        ({"text": 5}, "text", "text was given 5; expected a string."),
        ({"text": "123456"}, "text", 'text was given "123456"; expected at most 5 characters.'),
        ({"on": 1}, "on", "on was given 1; expected true or false."),
        ({"on": False}, "on", "It cannot be switched off."),
        ({"inner": 1}, "inner", "inner was given 1; expected an object."),
        ({"inner": {"ratio": 2}}, "inner.ratio", "inner.ratio was given 2; expected a number from 0 to 1."),
        ({"inner": {"ratio": "1"}}, "inner.ratio", 'inner.ratio was given "1"; expected a number from 0 to 1.'),
        (
            {"inner": {"ratio": float("nan")}},
            "inner.ratio",
            "inner.ratio was given NaN; expected a number from 0 to 1.",
        ),
        ({"inner": {"count": 0}}, "inner.count", "inner.count was given 0; expected a number of at least 1."),
        ({"inner": {"names": ["a", 1]}}, "inner.names[1]", "inner.names[1] was given 1; expected a string."),
        ({"rate": 16_000}, "rate", "rate was given 16000; expected 8000."),
        ({"field-name": None}, "field-name", "field-name was given null; expected a string."),
        ({"other": 1}, "other", "other is unknown; leave it out."),
        ({"required": None, "rate": 1}, "rate", "rate was given 1; expected 8000."),
    ],
)
def test_each_kind_of_mistake(given: Any, path: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(given)
    assert first_error(caught.value) == (path, sentence)


def test_a_missing_field_and_a_prefix() -> None:
    class Needed(BaseModel):
        audio: str

    with pytest.raises(ValidationError) as caught:
        Needed.model_validate({})
    assert first_error(caught.value, "session") == ("session.audio", "session.audio is missing; it is required.")


def test_a_value_is_shown_short_and_in_ascii() -> None:
    assert shown("é") == '"\\u00e9"'
    assert shown("x" * 10_000_000) == '"' + "x" * (SHOWN_CHARACTERS - 1) + "…"
    assert shown(["x" * 100]).endswith("…")
    assert shown("\ud800") == '"\\ud800"'
