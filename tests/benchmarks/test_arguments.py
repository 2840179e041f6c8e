"""The types of the benchmarks' options."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from benchmarks.arguments import count, counts, positive


def test_numbers_above_zero() -> None:
    assert (count("8"), counts("1, 8,24"), positive("0.2")) == (8, [1, 8, 24], 0.2)


@pytest.mark.parametrize("text", ["", "0", "-1", "2.5", "x", "²"])
def test_no_count(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a whole number above 0"):
        count(text)
    with pytest.raises(ArgumentTypeError, match="is not a whole number above 0"):
        counts(f"2,{text}")


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "nan", "inf"])
def test_no_positive_number(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a number above 0"):
        positive(text)
