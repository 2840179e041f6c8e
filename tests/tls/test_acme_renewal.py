"""Renewal in the process when it fails, and what is said without the library; for the rest see test_lets_encrypt.py."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import AcmeError, StartupError
from qwen_asr.tls.acme_client import Authority, write_secret
from qwen_asr.tls.acme_renewal import AcmeCertificate, back_off_seconds
from qwen_asr.web.transport.https import check_https_options
from tests.support.issuing import Issuer
from tests.support.processes import until

NOBODY = "https://127.0.0.1:9/dir"


def test_a_failed_renewal_keeps_the_certificate_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "qwen_asr")
    renewed = AcmeCertificate(Authority(NOBODY, None, tmp_path), ("asr.example.com",))
    issued = Issuer().issue("asr.example.com", begins=timedelta(minutes=-5), ends=timedelta(minutes=2))
    write_secret(renewed.file, issued.key_pem + issued.certificate_pem)
    before = renewed.file.read_bytes()
    with renewed:
        assert until(lambda: len(caplog.messages) >= 2)
    assert all("not renewed, the one before stays" in message for message in caplog.messages)
    assert "Connection refused" in caplog.messages[0]
    assert renewed.file.read_bytes() == before


@pytest.mark.parametrize("name", ["other.example.com", "asr.example.com"])
def test_a_certificate_that_cannot_serve_is_asked_for_at_the_start(name: str, tmp_path: Path) -> None:
    renewed = AcmeCertificate(Authority(NOBODY, None, tmp_path), ("asr.example.com",))
    issued = Issuer().issue(name, begins=timedelta(days=-2), ends=timedelta(days=5 if "other" in name else -1))
    write_secret(renewed.file, issued.key_pem + issued.certificate_pem)
    with pytest.raises(AcmeError, match="Connection refused"), renewed:
        pass


def test_tries_come_later_and_later() -> None:
    days = [back_off_seconds(failures, timedelta(days=90)) for failures in range(1, 12)]
    assert 450 <= days[0] <= 600
    assert all(3600 * 4.5 <= seconds <= 3600 * 6 for seconds in days[-3:])
    assert sum(days[:3]) > 3000, "not five in an hour, which Let's Encrypt would count"
    assert len({back_off_seconds(1, timedelta(days=90)) for _ in range(9)}) > 1


def test_a_broken_account_key_is_not_replaced(tmp_path: Path) -> None:
    authority = Authority(NOBODY, None, tmp_path)
    write_secret(authority.folder / "account.pem", b"rubbish")
    with pytest.raises(AcmeError, match=r"account\.pem is no account key"):
        authority.certificate(("asr.example.com",))
    assert (authority.folder / "account.pem").read_bytes() == b"rubbish"


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acme", None)  # as if it were not there
    with pytest.raises(StartupError, match=r"pip install -r requirements-acme\.txt"):
        check_https_options(Config(acme_domain=("asr.example.com",), http_redirect_port=0))
