"""Types of the benchmarks' options, for `argparse`."""

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def counts(text: str) -> list[int]:
    """Whole numbers above 0 with commas between them, such as 1,8,24. Raises ArgumentTypeError."""
    return [count(part.strip()) for part in text.split(",")]


def positive(text: str) -> float:
    """A number above 0. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
