"""One value or a list of them: the audios that a method is given, and what belongs to each."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from qwen_asr.errors import BadInput

AudioLike = str | Path | bytes | tuple[Any, Any]
"""A path, URL, base64 text or the bytes of a file; or an array of samples and its rate in Hz."""


def audio_list(audio: AudioLike | Sequence[AudioLike]) -> list[Any]:
    """The audios, one or a list of them, as a list. `load_audio` tells later whether each is one."""
    return list(audio) if isinstance(audio, Sequence) and not _is_one(audio) else [audio]


def _is_one(audio: Sequence[Any]) -> bool:
    """Whether this is one audio: text, bytes, or a pair of samples and rate in either order."""
    if isinstance(audio, str | bytes | bytearray):
        return True
    return isinstance(audio, tuple) and any(isinstance(part, Real) or getattr(part, "ndim", 1) == 0 for part in audio)


def text_or_none(value: Any, name: str) -> str | None:
    """The value. Raises `BadInput` unless it is text or None."""
    if value is None or isinstance(value, str):
        return value
    raise BadInput(f"{name} was given {value!r}; expected text.")


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """The value as an int. Raises `BadInput` unless it is a whole number of at least `least`."""
    number = float(value) if isinstance(value, Real) else 0.5
    if number.is_integer() and (least is None or number >= least):
        return int(number)
    expected = "a whole number" if least is None else f"a whole number of at least {least}"
    raise BadInput(f"{name} was given {value!r}; expected {expected}.")


def broadcast(
    value: str | Sequence[str | None] | None, count: int, name: str, *, spread: bool = True
) -> list[str | None]:
    """`value` as a list of `count`: one for all, or one each. Without `spread` there must be one each.

    Raises `BadInput` for another number of them, and for what is not text.
    """
    values = [value] if value is None or isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(one is None or isinstance(one, str) for one in values):
        raise BadInput(f"{name} was given {value!r}; expected text, or a list with one for each audio.")
    if len(values) == 1 and spread:
        return [*values] * count
    if len(values) != count:
        expected = "give one for all, or one each" if spread else "give one each"
        raise BadInput(f"There are {count} audios but {len(values)} values of {name}: {expected}.")
    return [*values]
