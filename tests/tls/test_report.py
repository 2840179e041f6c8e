"""Reports on certificate files. tests/cli/test_cert.py tests most of them through `qwen-asr cert`."""

from __future__ import annotations

from pathlib import Path

from qwen_asr.tls.report import describe
from tests.support.certificates import DAY, NOW, issue, put


def test_an_expired_certificate_is_still_described(tmp_path: Path) -> None:
    issued = issue(begins=NOW - 90 * DAY, ends=NOW - DAY)
    put(tmp_path, issued.pem)
    report = describe([str(tmp_path / "cert.pem")], None)
    assert report.problems == 1
    assert "for         localhost" in report.text
