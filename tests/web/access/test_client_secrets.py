"""Client secrets: how long and for whom they count, and how much memory they take."""

from __future__ import annotations

import pytest

from qwen_asr.config.limits import GuardLimits
from qwen_asr.errors import LimitExceeded
from qwen_asr.web.access.client_secrets import PREFIX, ClientSecrets


class Clock:
    """A clock that the test sets."""

    now = 1_000.5

    def __call__(self) -> float:
        return self.now


def test_a_secret_counts_until_it_expires() -> None:
    clock = Clock()
    store = ClientSecrets(clock=clock)
    value, expires_at = store.create("key a", "", {"a": 1}, 10, 60)
    assert value.startswith(PREFIX)
    assert len(value) > 40
    assert expires_at == 1_060
    for _ in range(2):  # it opens any number of sessions
        found = store.find(value)
        assert found is not None
        assert (found.owner, found.session) == ("key a", {"a": 1})
    for other in ("", PREFIX, value[:-1], value + "x", value.upper(), "ek_\udc80"):
        assert store.find(other) is None
    clock.now = 1_059.9
    assert store.find(value) is not None
    clock.now = 1_060.0
    assert store.find(value) is None


def test_the_value_is_not_kept() -> None:
    store = ClientSecrets()
    value, _ = store.create("", "10.0.0.1", None, 0, 60)
    assert value not in repr(vars(store))
    assert value.removeprefix(PREFIX) not in repr(vars(store))


def test_memory_is_bounded_for_each_owner_and_for_all() -> None:
    clock = Clock()
    limits = GuardLimits(client_secrets_bytes=25_000, client_secrets_bytes_per_owner=10_000)
    store = ClientSecrets(limits, clock)

    def fill(owner: str, address: str = "") -> int:
        for count in range(100):
            try:
                store.create(owner, address, None, 1_000, 60)
            except LimitExceeded:
                return count
        return 100

    assert fill("key a") == 5
    assert fill("", "10.0.0.1") == 5
    assert fill("", "10.0.0.1") == 0
    assert fill("key b", "10.0.0.1") == 2
    with pytest.raises(LimitExceeded, match="The server has too many"):
        store.create("key c", "", None, 1_000, 60)
    with pytest.raises(LimitExceeded, match="You have too many"):
        store.create("key a", "", None, 1_000, 60)
    clock.now += 61
    assert fill("key a") == 5
    assert len(store) == 5
