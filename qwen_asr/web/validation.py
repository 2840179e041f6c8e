"""Turns pydantic's ValidationError into the path of the first wrong value and one clear sentence about it.

Models state what they expect in the usual ways (types, `Literal`, `Field(max_length=…)`). Where pydantic's own error
says too little, such as only one end of a range, the field's annotation ends with `expects("a number from 0 to 1")`, or
a validator raises `Expectation`. A validator that raises a plain ValueError provides the whole sentence.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

SHOWN_CHARACTERS = 80
"""How much of a client's value an error repeats."""

_EXPECTED = {
    "string_type": "a string",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} {unit}",
    "too_long": "at most {max_length} {unit}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
}
"""pydantic's error types, and what was expected where they occur, with the names of their context."""


class Expectation(ValueError):
    """To be raised by a validator. Its text completes the sentence "PATH was given VALUE; expected …"."""


def expects(words: str) -> WrapValidator:
    """For `Annotated`, as its last item: what the error says was expected, whatever rule was broken."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise Expectation(words) from None

    return WrapValidator(validate)


def first_error(error: ValidationError, prefix: str = "") -> tuple[str, str]:
    """The path of the first wrong value, in the order of the model's fields, and a sentence for the client.

    `prefix` is the path of the validated object itself. A path looks like ``session.audio.input`` or ``include[0]``;
    it is empty where the object as a whole is wrong.
    """
    first = error.errors(include_url=False)[0]
    path = _join(prefix, first["loc"])
    kind, context = first["type"], first.get("ctx", {})
    cause = context.get("error")
    if kind == "value_error" and not isinstance(cause, Expectation):
        return path, str(cause)
    name = path or "The value"
    if kind == "missing":
        return path, f"{name} is missing; it is required."
    if kind == "extra_forbidden":
        return path, f"{name} is unknown; leave it out."
    if isinstance(cause, Expectation):
        expected = str(cause)
    elif kind == "literal_error":
        values = re.findall(r"'([^']*)'", context["expected"])  # pydantic writes them as 'a', 'b' or 'c'
        expected = f"one of {', '.join(values)}" if len(values) > 1 else context["expected"]
    elif kind in _EXPECTED:
        unit = "characters" if isinstance(first["input"], str) else "items"
        expected = _EXPECTED[kind].format_map({"unit": unit, **context})
    else:
        expected = f"another value ({first['msg']})"
    return path, f"{name} was given {shown(first['input'])}; expected {expected}."


def shown(value: Any) -> str:
    """A value as JSON, shortened, and in ASCII so that any value can be sent back."""
    # A long string is cut before it is encoded: it may be megabytes of audio.
    written = json.dumps(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str) else value, default=str)
    return written if len(written) <= SHOWN_CHARACTERS else written[:SHOWN_CHARACTERS] + "…"


def _join(prefix: str, location: tuple[int | str, ...]) -> str:
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
