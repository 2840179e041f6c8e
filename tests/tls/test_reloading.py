"""New connections get a renewed certificate, and invalid files are ignored; tested with real connections."""

from __future__ import annotations

import logging
import ssl
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from qwen_asr.errors import CertificateError
from qwen_asr.tls.reloading import RETRY_SECONDS, ReloadingCertificate
from tests.support.certificates import Issuer, replace
from tests.support.https import https_server, key_type, served_certificate, tls_connection
from tests.support.processes import until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


POLL_SECONDS = 0.1  # faster than in production


def serves(certificate: ReloadingCertificate, kind: str) -> bool:
    """Whether the certificate that is served now has a key of that kind."""
    return key_type(certificate.leaf) == kind


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_key_of_another_type_is_served_with_and_without_sni(
    version: ssl.TLSVersion, issuer: Issuer, tmp_path: Path
) -> None:
    trust = issuer.trust()
    trust.minimum_version = trust.maximum_version = version
    certificate = ReloadingCertificate(*issuer.issue().write(tmp_path), poll_seconds=POLL_SECONDS)
    with https_server(certificate) as port:
        for kind in ("RSA", "EC"):
            with tls_connection(port, trust) as before:
                issuer.issue(kind=kind).write(tmp_path)
                assert until(partial(serves, certificate, kind))
                assert key_type(served_certificate(port, trust)) == kind
                assert key_type(served_certificate(port, trust, name=None)) == kind
                before.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200 OK" in before.recv(65536)


@pytest.mark.slow
def test_a_session_of_the_previous_certificate_is_not_resumed(issuer: Issuer, tmp_path: Path) -> None:
    trust = issuer.trust()
    trust.maximum_version = ssl.TLSVersion.TLSv1_2  # with TLS 1.3 no session can be resumed: it has no tickets
    certificate = ReloadingCertificate(*issuer.issue().write(tmp_path), poll_seconds=POLL_SECONDS)

    def session(earlier: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with tls_connection(port, trust, session=earlier) as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            secure.recv(65536)
            return secure.session, secure.session_reused

    with https_server(certificate) as port:
        first, reused = session(None)
        assert not reused
        again, reused = session(first)
        assert reused, "if no session is resumed, this test shows nothing"
        renewed = issuer.issue(kind="RSA")
        renewed.write(tmp_path)
        assert until(lambda: certificate.leaf == renewed.certificate)
        _, reused = session(again)
        assert not reused
        assert served_certificate(port, trust) == renewed.certificate


def test_replaced_symbolic_links_are_noticed(issuer: Issuer, tmp_path: Path) -> None:
    # certbot's layout: archive/ holds each version, live/ links to the newest.
    archive, live = tmp_path / "archive", tmp_path / "live"
    archive.mkdir()
    live.mkdir()

    def publish(version: int) -> None:
        issued = issuer.issue()
        for name, content in (("privkey", issued.key_pem()), ("fullchain", issued.pem)):
            (archive / f"{name}{version}.pem").write_bytes(content)
            fresh = live / f"{name}.new"
            fresh.symlink_to(archive / f"{name}{version}.pem")
            fresh.replace(live / f"{name}.pem")

    publish(1)
    certificate = ReloadingCertificate(live / "fullchain.pem", live / "privkey.pem")
    first = certificate.leaf
    assert not certificate.reload_if_changed()
    publish(2)
    assert certificate.reload_if_changed()
    assert certificate.leaf != first


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["half", "rubbish", "empty", "gone", "other key", "expired", "early"])
def test_invalid_files_leave_the_previous_certificate_in_use(
    damage: str, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "qwen_asr")
    clock = Clock()
    first = issuer.issue()
    certfile, keyfile = first.write(tmp_path)
    certificate = ReloadingCertificate(certfile, keyfile, clock=clock)
    renewed = issuer.issue(kind="RSA")
    if damage == "half":
        replace(certfile, renewed.pem[:300])
    elif damage == "rubbish":
        replace(keyfile, bytes(range(256)))
    elif damage == "empty":
        replace(certfile, b"")
    elif damage == "gone":
        keyfile.unlink()
    elif damage == "other key":
        replace(certfile, renewed.pem)
    elif damage == "expired":
        issuer.issue(begins=timedelta(days=-9), ends=timedelta(days=-1)).write(tmp_path)
    else:
        issuer.issue(begins=timedelta(days=1), ends=timedelta(days=9)).write(tmp_path)
    context = certificate.context
    assert not certificate.reload_if_changed()
    assert caplog.messages == [], "the files may be half-written, which is not a failure yet"
    for _ in range(100):
        clock.advance(1)
        assert not certificate.reload_if_changed()
    assert certificate.context is context
    assert certificate.leaf == first.certificate
    [message] = caplog.messages
    assert "stays in use" in message
    assert ("key.pem" if damage in ("rubbish", "gone", "other key") else "cert.pem") in message
    renewed.write(tmp_path)
    assert certificate.reload_if_changed()
    assert certificate.leaf == renewed.certificate


def test_a_certificate_that_becomes_valid_is_loaded_without_a_change_to_the_files(
    issuer: Issuer, tmp_path: Path
) -> None:
    clock = Clock()
    certificate = ReloadingCertificate(*issuer.issue().write(tmp_path), clock=clock)
    early = issuer.issue(begins=timedelta(minutes=10))
    early.write(tmp_path)
    for _ in range(3):
        assert not certificate.reload_if_changed()
        clock.advance(1)
    clock.advance(600 + RETRY_SECONDS)
    assert certificate.reload_if_changed()
    assert certificate.leaf == early.certificate


def test_invalid_files_at_startup_are_an_error(issuer: Issuer, tmp_path: Path) -> None:
    certfile, keyfile = issuer.issue().write(tmp_path)
    keyfile.write_bytes(issuer.issue().key_pem())
    with pytest.raises(CertificateError, match=r"key\.pem"):
        ReloadingCertificate(certfile, keyfile)


def test_a_warning_is_logged_when_a_third_of_the_lifetime_is_left(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "qwen_asr")
    clock = Clock()
    issued = issuer.issue(begins=timedelta(days=-59), ends=timedelta(days=31))
    certificate = ReloadingCertificate(*issued.write(tmp_path), clock=clock)
    assert certificate.expiry() == issued.certificate.not_valid_after_utc
    certificate.log_warning()
    assert certificate.warning() is None
    assert caplog.messages == []
    clock.advance(1.5 * 86400)
    for _ in range(23):
        certificate.log_warning()
        clock.advance(3600)
    assert len(caplog.messages) == 1, "once a day"
    assert "in 30 days" in caplog.messages[0] or "in 29 days" in caplog.messages[0]
    clock.advance(3600)
    certificate.log_warning()
    assert len(caplog.messages) == 2
    clock.advance(32 * 86400)
    certificate.log_warning()
    assert "expired" in caplog.messages[-1]
    assert "expired" in (certificate.warning() or "")


@pytest.mark.slow
def test_no_connection_fails_while_the_files_change(issuer: Issuer, tmp_path: Path) -> None:
    certificate = ReloadingCertificate(*issuer.issue().write(tmp_path), poll_seconds=POLL_SECONDS)
    kinds: set[str] = set()
    failures: list[Exception] = []
    ended = threading.Event()
    with https_server(certificate) as port:

        def connect() -> None:
            trust = issuer.trust()
            while not ended.wait(0.01):
                try:
                    kinds.add(key_type(served_certificate(port, trust)))
                except OSError as error:
                    failures.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        for kind in ("RSA", "EC", "RSA"):
            issuer.issue(kind=kind).write(tmp_path)
            assert until(partial(serves, certificate, kind))
        ended.set()
        thread.join()
    assert failures == []
    assert kinds == {"EC", "RSA"}
