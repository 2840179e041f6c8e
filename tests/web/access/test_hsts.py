"""Strict-Transport-Security: for which host names and certificates it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_asr.tls.addresses import names_of
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.tls.self_signed import ensure_self_signed
from qwen_asr.web.access.hsts import HSTS, StrictTransport, is_ca_signed_for, is_public
from tests.support.certificates import Issuer
from tests.support.https import https_server, send_request, tls_connection


@pytest.mark.slow
def test_the_header_is_sent_for_public_names_of_the_certificate_only(tmp_path: Path) -> None:
    issuer = Issuer()
    names = ("asr.example.com", "*.wild.example.com", "localhost", "box.local", "192.0.2.1")
    certificate = ReloadingCertificate(*issuer.issue(*names).write(tmp_path))
    hosts = ("asr.example.com", "ASR.example.com:8000", "a.wild.example.com", *names[2:], "other.example.com", "")
    found = {}
    with https_server(certificate, middleware=lambda app: StrictTransport(app, lambda: certificate.leaf)) as port:
        for host in hosts:
            with tls_connection(port, issuer.trust()) as secure:
                request = f"GET /missing HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                found[host] = send_request(secure, request.encode())[1].get("strict-transport-security")
    assert {host for host, header in found.items() if header} == {
        "asr.example.com",
        "ASR.example.com:8000",
        "a.wild.example.com",
    }
    assert set(found.values()) == {HSTS, None}


def test_the_header_is_never_sent_with_a_self_signed_certificate(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path, names=names_of((), ("asr.example.com",)))
    assert not is_ca_signed_for(ReloadingCertificate(files.certfile, files.keyfile).leaf, "asr.example.com")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "box", "box.local", "nas.home.arpa", ""])
def test_local_names_are_not_public(host: str) -> None:
    assert not is_public(host)
