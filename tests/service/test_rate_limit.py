"""Rate limits: N hits in a moving window and not one more, for each name."""

from __future__ import annotations

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, LimitExceeded
from qwen_asr.service.rate_limit import Rates, sender
from tests.support.processes import until
from tests.support.rate_clock import Clock


def test_a_name_has_so_many_hits_until_the_window_has_moved(clock: Clock) -> None:
    rates = Rates("3/2second")
    for _ in range(3):
        rates.hit("ada")
    with pytest.raises(LimitExceeded) as refused:
        rates.hit("ada")
    assert refused.value.retry_after == 2
    rates.hit("grace")
    clock.now += 1.9
    with pytest.raises(LimitExceeded) as refused:
        rates.hit("ada")
    assert refused.value.retry_after == 1
    clock.now += 1  # as long as the error said
    rates.hit("ada")


def test_the_strictest_of_several_windows_and_names_decides(clock: Clock) -> None:
    rates = Rates("2/minute; 3/hour")
    rates.hit("address", "key")
    rates.hit("address", "other key")
    clock.now += 5
    with pytest.raises(LimitExceeded) as refused:
        rates.hit("address", "third key")
    assert refused.value.retry_after == 55
    rates.hit("other address", "third key")  # the refused request did not count
    rates.hit("other address", "third key")
    with pytest.raises(LimitExceeded):
        rates.check("third key")


def test_none_is_no_limit() -> None:
    rates = Rates(None)
    for _ in range(1000):
        rates.hit("ada")


@pytest.mark.slow
def test_names_without_recent_hits_are_removed(clock: Clock) -> None:
    rates = Rates("1/second", sweep_at=50)
    for number in range(50):
        rates.hit(str(number))
    clock.now += 2
    # The storage drops expired hits on a timer thread of its own, in real time.

    def few_are_left() -> bool:
        clock.now += 2
        rates.hit(f"later {clock.now}")
        return len(rates._storage.events) <= 25

    assert until(few_are_left)


@pytest.mark.parametrize("rate", ["60/minute", "5 per second", "1/day", "5/second; 1000/day"])
def test_valid_rates(rate: str) -> None:
    Rates(Config(rate_limit=rate).rate_limit).hit("ada")


@pytest.mark.parametrize("rate", ["60", "minute", "0/minute", "-1/second", "60/fortnight", " "])
def test_invalid_rates_are_refused_at_the_start(rate: str) -> None:
    with pytest.raises(BadConfig, match=r"--rate-limit was given .* such as 60/minute, .* semicolon"):
        Config(rate_limit=rate)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_sender_is_an_address_or_the_network_of_a_site(host: str, name: str) -> None:
    assert sender({"client": (host, 1)}) == name
    assert sender({"client": None}) == ""
