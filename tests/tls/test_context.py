"""The SSL context that serves a checked certificate."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from qwen_asr.errors import CertificateError
from qwen_asr.tls.context import load_context
from qwen_asr.tls.preflight import check_pair
from tests.support.certificates import NOW, issue, put


def test_files_that_changed_after_the_check_are_an_error(tmp_path: Path) -> None:
    issued = issue()
    put(tmp_path, issued.pem, issued.key_pem())
    checked = check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", None, NOW)
    (tmp_path / "key.pem").write_bytes(issue().key_pem())
    with pytest.raises(CertificateError, match="do not belong together"):
        load_context(checked)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(CertificateError, match="cannot be loaded"):
        load_context(checked)


def test_the_context_allows_only_modern_tls(tmp_path: Path) -> None:
    issued = issue()
    put(tmp_path, issued.pem, issued.key_pem())
    context = load_context(check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", None, NOW))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    suites = [suite["name"] for suite in context.get_ciphers() if not suite["name"].startswith("TLS_")]
    assert suites
    assert all("ECDHE" in name and ("GCM" in name or "POLY1305" in name) for name in suites)


def test_the_server_sends_nothing_after_the_handshake(tmp_path: Path) -> None:
    """Session tickets would be read in one thread of a synchronous WebSocket client while another writes."""
    issued = issue()
    put(tmp_path, issued.pem, issued.key_pem())
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = load_context(check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", None, NOW)).wrap_bio(
        to_server, to_client, server_side=True
    )
    client = trusting.wrap_bio(to_client, to_server)
    for side in (client, server, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    server.do_handshake()
    assert (client.version(), server.version()) == ("TLSv1.3", "TLSv1.3")
    assert to_client.pending == 0
