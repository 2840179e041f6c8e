"""The Host header check."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from qwen_asr.config.config import Config
from qwen_asr.errors import WrongHost
from qwen_asr.tls.addresses import host_names
from qwen_asr.web.access.hosts import AllowedHosts


def allowed(config: Config, *hosts: str) -> bool:
    """Whether a request with these Host headers passes."""
    headers = Headers(raw=[(b"host", host.encode()) for host in hosts])
    try:
        AllowedHosts(config).check(headers)
    except WrongHost:
        return False
    return True


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:9", "127.0.0.2", "[::1]:8000"]
)
def test_loopback_names_are_always_allowed(host: str) -> None:
    assert allowed(Config(), host)
    assert allowed(Config(allowed_hosts=("asr.example",)), host)


def test_the_names_of_this_machine_and_a_missing_header_are_allowed() -> None:
    assert all(allowed(Config(), name) for name in host_names())
    assert allowed(Config())


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "192.168.1.7:8000", "", "127.0.0.1.nip.io"),
        *("[::1]evil.example", "localhost:evil", "localhost@evil.example", "::1", "[127.0.0.1]", "localhost/"),
    ],
)
def test_a_server_on_loopback_refuses_other_names(host: str) -> None:
    assert not allowed(Config(), host)
    assert not allowed(Config(), "localhost", host)
    assert allowed(Config(generate_self_signed_cert=True), host)
    assert allowed(Config(host="0.0.0.0"), host)
    assert not allowed(Config(share=True), host)
    assert allowed(Config(allowed_hosts=("*",)), host)


def test_the_name_of_the_public_link_is_allowed_while_it_lasts() -> None:
    hosts = AllowedHosts(Config(share=True, allowed_hosts=("asr.example",)))

    def passes(host: str) -> bool:
        try:
            hosts.check(Headers({"host": host}))
        except WrongHost:
            return False
        return True

    assert not passes("one.gradio.live")
    hosts.share("https://one.gradio.live")
    assert passes("ONE.gradio.live")
    assert passes("asr.example")
    assert not passes("two.gradio.live")
    hosts.share("https://two.gradio.live")
    assert [passes("one.gradio.live"), passes("two.gradio.live")] == [False, True]


def test_a_space_allows_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "somebody/something")
    assert allowed(Config(), "somebody-something.hf.space")


def test_allowed_hosts_are_names_wildcards_and_addresses() -> None:
    config = Config(host="0.0.0.0", allowed_hosts=("ASR.example", "*.corp.example", "2001:db8::1"))
    for host in ("asr.example", "asr.EXAMPLE:443", "a.corp.example", "a.b.corp.example", "[2001:DB8::1]:8000"):
        assert allowed(config, host)
    for host in ("corp.example", "xasr.example", "asr.example.evil", "evilcorp.example", "[2001:db8::2]"):
        assert not allowed(config, host)
