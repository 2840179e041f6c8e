"""What the requests of one address may hold together."""

from __future__ import annotations

import pytest

from qwen_asr.errors import LimitExceeded
from qwen_asr.service.shares import Shares


def test_the_share_of_an_address_is_exact_and_is_given_back() -> None:
    shares = Shares(10, "Your files have {most} bytes")
    with shares.opened("a") as take, shares.opened("a") as other, shares.opened("b") as elsewhere:
        take(6)
        other(4)
        elsewhere(10)
        shares.check("a", 0)
        with pytest.raises(LimitExceeded, match=r"Your files have 10 bytes, the most .* try again later"):
            shares.check("a", 1)
        with pytest.raises(LimitExceeded):
            other(1)
        other(0)
    assert len(shares) == 0
    with shares.opened("a") as take:
        take(10)


def test_a_share_is_given_back_where_a_request_fails() -> None:
    shares = Shares(10, "x")
    with pytest.raises(ZeroDivisionError), shares.opened("a") as take:
        take(10 // (0 * 1))
    with pytest.raises(LimitExceeded), shares.opened("a") as take:
        list(map(take, (10, 1)))
    assert len(shares) == 0


def test_an_address_that_holds_nothing_is_not_kept() -> None:
    shares = Shares(10, "x")
    shares.check("a", 1)
    with shares.opened("a") as take, pytest.raises(LimitExceeded):
        take(11)
    assert len(shares) == 0


def test_all_addresses_together_have_a_limit_too() -> None:
    shares = Shares(10, "Your files have {most} bytes", 15, "All files have {most} bytes")
    with shares.opened("a") as take, shares.opened("b") as other:
        take(10)
        with pytest.raises(LimitExceeded, match="All files have 15 bytes"):
            other(6)
        other(5)
        with pytest.raises(LimitExceeded, match="Your files have 10 bytes"):
            take(1)
        with pytest.raises(LimitExceeded, match="All files have 15 bytes"):
            shares.check("c", 1)
    with shares.opened("b") as take, shares.opened("c") as other:
        take(10)
        other(5)
