"""How often somebody may come: N times and not once more, until the window has moved on."""

from __future__ import annotations

import time

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, LimitExceeded
from qwen_asr.service import rate_limit as module
from qwen_asr.service.rate_limit import Rates, sender


def test_so_often_and_no_more_and_again_later() -> None:
    rates = Rates("3/2second")
    for _ in range(3):
        rates.hit("ada")
    with pytest.raises(LimitExceeded) as refused:
        rates.hit("ada")
    assert refused.value.retry_after in (1, 2)
    rates.hit("grace")
    time.sleep(refused.value.retry_after + 0.1)  # what it was told is enough
    rates.hit("ada")


def test_the_strictest_of_several_and_of_several_names() -> None:
    rates = Rates("2/minute; 3/hour")
    rates.hit("address", "key")
    rates.hit("address", "other key")
    with pytest.raises(LimitExceeded) as refused:
        rates.hit("address", "third key")
    assert refused.value.retry_after is not None
    assert 50 <= refused.value.retry_after <= 60
    rates.hit("other address", "third key")  # what was refused did not count
    rates.hit("other address", "third key")
    with pytest.raises(LimitExceeded):
        rates.check("third key")


def test_none_is_no_limit() -> None:
    rates = Rates(None)
    for _ in range(1000):
        rates.hit("ada")


def test_who_came_once_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_AT", 50)
    rates = Rates("1/second")
    for number in range(50):
        rates.hit(str(number))
    deadline = time.monotonic() + 30
    while len(rates._storage.events) > 25 and time.monotonic() < deadline:
        time.sleep(0.2)
        rates.hit(f"later {time.monotonic()}")
    assert len(rates._storage.events) <= 25


@pytest.mark.parametrize("rate", ["60/minute", "5 per second", "1/day", "5/second; 1000/day"])
def test_rates_that_can_be_given(rate: str) -> None:
    Rates(Config(rate_limit=rate).rate_limit).hit("ada")


@pytest.mark.parametrize("rate", ["60", "minute", "0/minute", "-1/second", "60/fortnight", " "])
def test_rates_that_mean_nothing_are_said_at_the_start(rate: str) -> None:
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
