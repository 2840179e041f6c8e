"""The names under which the server answers."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from qwen_asr.config.config import Config
from qwen_asr.errors import WrongHost
from qwen_asr.network import host_name, is_loopback
from qwen_asr.tls.addresses import host_names
from qwen_asr.web.access.hosts import Hosts


def answers(config: Config, *hosts: str) -> bool:
    headers = Headers(raw=[(b"host", host.encode()) for host in hosts])
    try:
        Hosts(config).check(headers)
    except WrongHost:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:9", "127.0.0.2", "[::1]:8000"]
)
def test_this_machine_by_its_own_names(host: str) -> None:
    assert answers(Config(), host)
    assert answers(Config(allowed_hosts=("asr.example",)), host)


def test_this_machine_by_its_host_name_and_without_a_name() -> None:
    assert all(answers(Config(), name) for name in host_names())
    assert answers(Config())


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "192.168.1.7:8000", "", "127.0.0.1.nip.io"]
)
def test_other_names_lead_nowhere_where_only_this_machine_is_listened_to(host: str) -> None:
    assert not answers(Config(), host)
    assert not answers(Config(), "localhost", host)
    assert answers(Config(generate_self_signed_cert=True), host)
    assert answers(Config(host="0.0.0.0"), host)
    assert answers(Config(share=True), host)
    assert answers(Config(allowed_hosts=("*",)), host)


def test_a_space_is_asked_for_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "somebody/something")
    assert answers(Config(), "somebody-something.hf.space")


def test_the_names_that_are_given_and_no_others() -> None:
    config = Config(host="0.0.0.0", allowed_hosts=("ASR.example", "*.corp.example", "2001:db8::1"))
    for host in ("asr.example", "asr.EXAMPLE:443", "a.corp.example", "a.b.corp.example", "[2001:DB8::1]:8000"):
        assert answers(config, host)
    for host in ("corp.example", "xasr.example", "asr.example.evil", "evilcorp.example", "[2001:db8::2]"):
        assert not answers(config, host)


def test_what_leads_to_this_machine_alone() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "")))
    assert host_name("[::1]:8000") == "::1"
