"""Turns dataclass fields into command-line options, environment variables and rows of docs/options.md.

`config` defines the options themselves. The metadata of each field holds its help text and range, which `add_options`
(argparse), `option_table` and the checks all use, so that they always agree.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from qwen_asr.errors import BadConfig

ENV_PREFIX = "QWEN_ASR_"

GROUPS = {
    "model": "model",
    "server": "address and HTTPS",
    "proxy": "behind a proxy",
    "access": "authentication and allowed hosts",
    "limits": "limits",
    "endpointing": "endpointing: where an utterance starts and ends",
    "pacing": "decoding",
    "defaults": "defaults for clients that send no value",
    "other": "other",
}
"""The sections of `--help`: the allowed values of `group`, with their titles."""

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    group: str,
    *,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    none: str | None = None,
    env: str | None = None,
    shown: str | None = None,
    secret: bool = False,
    separator: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option.

    `low` and `high` are the allowed range, both inclusive. `none` is a word for None, such as auto. `shown` describes
    the default in `--help` and in the docs if it is not simply the value. `env` is the environment variable, by default
    QWEN_ASR_ and the field's name in capitals. A `secret` value appears neither in the object's `repr` nor in error
    messages. An option of type `tuple[str, ...]` is repeatable; its environment variable holds the values separated by
    `separator`, or by spaces.
    """
    return dataclasses.field(
        default=default,
        repr=not secret,
        metadata={
            "help": help,
            "group": group,
            "metavar": metavar,
            "choices": choices,
            "low": low,
            "high": high,
            "none": none,
            "env": env,
            "shown": shown,
            "secret": secret,
            "separator": separator,
        },
    )


def flag(name: str) -> str:
    """The command-line flag of a field: ``chunk_size_sec`` → ``--chunk-size-sec``."""
    return "--" + name.replace("_", "-")


def environment_name(field: dataclasses.Field[Any]) -> str:
    """The environment variable that sets a field."""
    return field.metadata["env"] or ENV_PREFIX + field.name.upper()


def add_options(parser: argparse.ArgumentParser, options: type, *names: str) -> None:
    """Adds options to `parser` for the fields `names` of the dataclass `options`, or for all fields if none are named.

    The parser keeps values as text and leaves out options that were not given. `from_options` converts the values, so
    that those from the environment pass the same checks.
    """
    for key, title in GROUPS.items():
        fields = [field for field in dataclasses.fields(options) if field.metadata["group"] == key]
        selected = [field for field in fields if not names or field.name in names]
        if selected:
            section = parser.add_argument_group(title)
            for field in selected:
                _add_option(section, field)


def _add_option(section: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    help = f"{field.metadata['help']} (default: {_default(field)})".replace("`", "").replace("%", "%%")
    if _kind(field) is bool:
        section.add_argument(flag(field.name), action="store_true", default=argparse.SUPPRESS, help=help)
        return
    choices = field.metadata["choices"]
    metavar = field.metadata["metavar"] or "{" + ",".join(choices) + "}"
    action = "append" if _kind(field) is tuple else "store"
    section.add_argument(flag(field.name), action=action, default=argparse.SUPPRESS, metavar=metavar, help=help)


def from_options(kind: Callable[..., T], options: Mapping[str, Any], environ: Mapping[str, str]) -> T:
    """Builds the dataclass `kind` from parsed options (field name → text, texts, or True) and the environment.

    Raises `BadConfig` if a value cannot be converted, and whatever `kind` raises.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cast(type, kind)):
        if field.name in options:
            values[field.name] = _convert(field, options[field.name], flag(field.name))
        elif environ.get(environment_name(field)):
            name = environment_name(field)
            values[field.name] = _convert(field, environ[name], name)
            check(field, values[field.name], name)
    return kind(**values)


def unknown_variables(options: type, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that start with QWEN_ASR_ but match no option, such as misspelled ones; sorted."""
    known = {environment_name(field) for field in dataclasses.fields(options)}
    return tuple(sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known))


def option_table(options: type) -> str:
    """The options as a Markdown table, for docs/options.md."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(options):
        values = field.metadata["choices"]
        argument = field.metadata["metavar"] if not values else None
        option = f"`{flag(field.name)}{' ' + argument if argument else ''}`"
        meaning = field.metadata["help"] + ("; one of " + ", ".join(f"`{value}`" for value in values) if values else "")
        lines.append(f"| {option} | {_default(field)} | {meaning} |")
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.metadata["shown"]:
        return str(field.metadata["shown"])
    if field.default is None and field.metadata["none"]:
        return f"`{field.metadata['none']}`"
    if field.default in (None, ()):
        return "none"
    if field.default is False:
        return "off"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _kind(field: dataclasses.Field[Any]) -> type:
    """The type of a field's values, apart from None."""
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}
    return kinds[str(field.type).removesuffix(" | None")]


_ON, _OFF = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _convert(field: dataclasses.Field[Any], given: Any, source: str) -> Any:
    kind = _kind(field)
    # An empty file name usually comes from an unset shell variable: `check` rejects it.
    if given == "" and "None" in str(field.type) and field.metadata["metavar"] != "FILE":
        return None
    if field.metadata["none"] and given == field.metadata["none"]:
        return None
    if kind is tuple:
        if not isinstance(given, str):
            return tuple(given)
        return tuple(filter(None, map(str.strip, given.split(field.metadata["separator"]))))
    if isinstance(given, bool) or kind is str:
        return given
    if kind is bool:
        if given.strip().lower() not in _ON | _OFF:
            raise BadConfig(f"{source} was given {given!r}, but expects 1 or 0.")
        return given.strip().lower() in _ON
    try:
        return kind(given)
    except ValueError:
        raise BadConfig(f"{source} was given {given!r}, but expects {_expected(field)}.") from None


def check(field: dataclasses.Field[Any], value: Any, source: str | None = None) -> None:
    """Raises `BadConfig` if `value` has the wrong type, is out of range, or is not one of the choices.

    `source` is what gave the value, for the message: by default the field's flag.
    """
    source = source or flag(field.name)
    if value is None and "None" in str(field.type):
        return
    kind, low, high = _kind(field), field.metadata["low"], field.metadata["high"]
    if isinstance(value, tuple) and "" in value:
        raise BadConfig(f"{source} was given an empty text, but expects one that is not empty.")
    types = (int, float) if kind is float else kind
    right_type = isinstance(value, types) and isinstance(value, bool) == (kind is bool)
    in_choices = not field.metadata["choices"] or value in field.metadata["choices"]
    # The comparison is negated so that it also rejects NaN, which compares false with everything.
    if not (right_type and in_choices and (low is None or low <= value <= high)) or value == "":
        shown = "a value" if field.metadata["secret"] else repr(value)
        raise BadConfig(f"{source} was given {shown}, but expects {_expected(field)}.")


def _expected(field: dataclasses.Field[Any]) -> str:
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text that is not empty"}
    names[tuple] = "a tuple of texts"
    text = names[_kind(field)]
    low, high, none = (field.metadata[key] for key in ("low", "high", "none"))
    return (text if low is None else f"{text} from {low:.10g} to {high:.10g}") + (f", or {none}" if none else "")
