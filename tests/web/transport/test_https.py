"""Options for HTTPS that exclude or need each other, checked before a port is bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig
from qwen_asr.tls.checks import dns_and_ip_names
from qwen_asr.web.app import serve
from qwen_asr.web.transport.https import check_https_options, choose_certificate

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"generate_self_signed_cert": True, "ssl_certfile": "x.pem"}, "--generate-self-signed-cert and --ssl-certfile"),
    ({"ssl_keyfile": "x.pem"}, "--ssl-keyfile was given without --ssl-certfile"),
    ({"http_redirect_port": 80}, "does not serve HTTPS"),
    ({"generate_self_signed_cert": True, "port": 8443, "http_redirect_port": 8443}, "are both 8443"),
    ({"acme_domain": ("asr.example.com",)}, "without --http-redirect-port"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=[words for _, words in WRONG])
def test_conflicting_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        serve(Config(**options))


@pytest.mark.parametrize("name", ["*.example.com", "192.0.2.1", "2001:db8::1", "localhost", "a..b", "-a.b", "x."])
def test_names_without_a_public_certificate_are_refused(name: str) -> None:
    with pytest.raises(BadConfig, match=r"--acme-domain was given .* public name"):
        check_https_options(Config(acme_domain=(name,), http_redirect_port=80))


@pytest.mark.parametrize("name", ["asr.example.com", "xn--bcher-kva.example", "a.b.c.d.museum", "4you.example"])
def test_public_names_are_accepted(name: str) -> None:
    check_https_options(Config(acme_domain=(name,), http_redirect_port=80))


@pytest.mark.parametrize("option", ["local_ca", "generate_self_signed_cert"])
def test_allowed_hosts_are_in_the_certificate_which_is_made_anew_for_another(tmp_path: Path, option: str) -> None:
    """With `--local-ca --allowed-hosts asr.home.arpa` a container's page has to open."""

    def names(*hosts: str) -> tuple[str, ...]:
        options: dict[str, Any] = {option: True, "allowed_hosts": hosts}
        chosen = choose_certificate(Config(**options), tmp_path)
        assert chosen is not None
        return dns_and_ip_names(chosen.checked.leaf)

    assert {"asr.home.arpa", "*.corp.example", "192.0.2.5"} <= {*names("asr.home.arpa", "*.corp.example", "192.0.2.5")}
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    names("asr.home.arpa")
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    assert {"asr.home.arpa", "voice.asr.home.arpa"} <= {*names("asr.home.arpa", "voice.asr.home.arpa")}


def test_there_is_no_certificate_without_https_and_with_acme() -> None:
    assert choose_certificate(Config()) is None
    assert choose_certificate(Config(acme_domain=("asr.example.com",), http_redirect_port=80)) is None
