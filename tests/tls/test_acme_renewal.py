"""ACME renewal: failures and retries. tests/web/transport/test_lets_encrypt.py covers successful orders."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from qwen_asr.errors import AcmeError, StartupError
from qwen_asr.tls.acme_client import Authority, check_installed, write_secret
from qwen_asr.tls.acme_renewal import AcmeCertificate, retry_delay
from tests.support.certificates import Issuer
from tests.support.processes import until

UNREACHABLE = "https://127.0.0.1:9/dir"


@pytest.mark.slow
def test_a_failed_renewal_keeps_the_certificate_and_is_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "qwen_asr")
    certificate = AcmeCertificate(Authority(UNREACHABLE, None, tmp_path), ("asr.example.com",))
    issued = Issuer().issue("asr.example.com", begins=timedelta(minutes=-5), ends=timedelta(minutes=2))
    write_secret(certificate.file, issued.key_pem() + issued.pem)
    before = certificate.file.read_bytes()
    with certificate:
        assert until(lambda: len(caplog.messages) >= 2)
    assert all("not renewed; the current one stays in use" in message for message in caplog.messages)
    assert "Connection refused" in caplog.messages[0]
    assert certificate.file.read_bytes() == before


@pytest.mark.parametrize("name", ["other.example.com", "asr.example.com"])
def test_an_unusable_certificate_is_requested_at_startup(name: str, tmp_path: Path) -> None:
    certificate = AcmeCertificate(Authority(UNREACHABLE, None, tmp_path), ("asr.example.com",))
    issued = Issuer().issue(name, begins=timedelta(days=-2), ends=timedelta(days=5 if "other" in name else -1))
    write_secret(certificate.file, issued.key_pem() + issued.pem)
    with pytest.raises(AcmeError, match="Connection refused"), certificate:
        pass


def test_retry_delays_grow() -> None:
    delays = [retry_delay(failures, timedelta(days=90)) for failures in range(1, 12)]
    assert 450 <= delays[0] <= 600
    assert all(3600 * 4.5 <= seconds <= 3600 * 6 for seconds in delays[-3:])
    assert sum(delays[:3]) > 3000, "Let's Encrypt allows fewer than five failures an hour"
    # The delays are randomized.
    assert len({retry_delay(1, timedelta(days=90)) for _ in range(9)}) > 1


def test_a_broken_account_key_is_not_replaced(tmp_path: Path) -> None:
    authority = Authority(UNREACHABLE, None, tmp_path)
    write_secret(authority.folder / "account.pem", b"rubbish")
    with pytest.raises(AcmeError, match=r"account\.pem is not an account key"):
        authority.request_certificate(("asr.example.com",))
    assert (authority.folder / "account.pem").read_bytes() == b"rubbish"


def test_a_missing_library_is_reported_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acme", None)  # as if it were not installed
    with pytest.raises(StartupError, match=r"pip install -r requirements-acme\.txt"):
        check_installed()
