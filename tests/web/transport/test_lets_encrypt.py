"""Certificates from Pebble, Let's Encrypt's test authority: with certbot, and with `--acme-domain`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi import FastAPI

from qwen_asr.config.config import Config
from qwen_asr.errors import AcmeError
from qwen_asr.service.service import Service
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.web.sockets.asr.route import AsrRoute
from qwen_asr.web.transport.https import WEBROOT, active_certificate, choose_certificate
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.redirect import redirect_to_port
from qwen_asr.web.transport.redirect_port import answering, challenges_in
from qwen_asr.web.transport.uvicorn_server import bind
from tests.support import pebble
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.https import https_server, key_type, served_certificate
from tests.support.pebble import Pebble
from tests.support.processes import until
from tests.support.sockets import client, silence

pytestmark = pytest.mark.slow

NAME = "asr.example.com"
SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[Pebble]:
    with pebble.running(tmp_path_factory.mktemp("pebble"), program) as authority:
        yield authority


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Certbot:
    """certbot, with its files in a folder of the test."""

    def __init__(self, program: str, folder: Path, authority: Pebble) -> None:
        self._program, self._folder, self._authority = program, folder, authority
        self.live = folder / "live" / NAME

    def run(self, command: str, *options: str) -> None:
        folders = [f"--{name}-dir={self._folder / part}" for name, part in self._parts.items()]
        done = subprocess.run(
            [self._program, command, *folders, "--server", self._authority.directory, "--non-interactive", *options],
            env={**os.environ, "REQUESTS_CA_BUNDLE": str(self._authority.bundle)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    _parts = {"config": "", "work": "work", "logs": "logs"}  # noqa: RUF012 - a constant


def test_certbot_renews_with_another_key_type_during_a_session(
    authority: Pebble, tmp_path: Path, program: Callable[[str], str]
) -> None:
    certbot = Certbot(program("certbot"), tmp_path / "letsencrypt", authority)
    trust = authority.trust()
    torch.set_num_threads(1)
    plain = bind("127.0.0.1", authority.http_port)
    with (
        answering(plain, redirect_to_port(authority.http_port, 443, challenges_in(WEBROOT)), OpenConnections(100, 100)),
        contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as service,
    ):
        WEBROOT.mkdir(parents=True)
        certbot.run(
            "certonly", "--webroot", "-w", str(WEBROOT), "-d", NAME, "--key-type", "ecdsa", "--agree-tos",
            "--register-unsafely-without-email",
        )  # fmt: skip
        certificate = ReloadingCertificate(certbot.live / "fullchain.pem", certbot.live / "privkey.pem")
        app = FastAPI()
        AsrRoute.add_to(app, service)
        with https_server(certificate, app) as port:
            assert key_type(served_certificate(port, trust, NAME)) == "EC"
            renewal = ["renew", "--force-renewal", "--key-type", "rsa", "--no-random-sleep-on-renew"]
            texts = asyncio.run(_speak_during_renewal(port, trust, lambda: certbot.run(*renewal)))
            assert key_type(served_certificate(port, trust, NAME)) == "RSA"
    assert texts == list(SENTENCES)


async def _speak_during_renewal(port: int, trust: ssl.SSLContext, renew: Callable[[], None]) -> list[str]:
    """One session across the renewal, with new connections all the time. Returns the texts of its finals."""
    ended = asyncio.Event()
    connections = 0

    async def keep_connecting() -> None:
        nonlocal connections
        own_trust = ssl.create_default_context(cadata=_roots(trust))
        while not ended.is_set():
            await asyncio.to_thread(served_certificate, port, own_trust, NAME)  # raises if the handshake fails
            connections += 1
            await asyncio.sleep(0.02)

    # The handshake names the domain, while the connection goes to 127.0.0.1.
    options = {"host": "127.0.0.1", "port": port, "server_hostname": NAME}
    async with client(f"wss://{NAME}/ws/asr", trust, **options) as speaker:
        await speaker.config()
        await speaker.audio(np.concatenate([silence(0.5), spoken(SENTENCES[0]), silence(1.5)]))
        first = await speaker.wait_for("final")
        connecting = asyncio.create_task(keep_connecting())
        await asyncio.to_thread(renew)
        for name in (NAME, None):
            context = _without_checks(trust, name)

            def renewed(name: str | None = name, context: ssl.SSLContext = context) -> bool:
                return key_type(served_certificate(port, context, name)) == "RSA"

            assert await asyncio.to_thread(until, renewed), f"the new certificate is not served ({name=})"
        await speaker.audio(np.concatenate([spoken(SENTENCES[1]), silence(0.2)]))
        await speaker.finalize()
        assert await asyncio.to_thread(until, lambda: connections > 10)
        ended.set()
        await connecting
        return [first["text"], speaker.of_type("final")[-1]["text"]]


def _roots(trust: ssl.SSLContext) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(root) for root in trust.get_ca_certs(binary_form=True))


def _without_checks(trust: ssl.SSLContext, name: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=_roots(trust))
    made.check_hostname = name is not None
    return made


def config_of(authority: Pebble, *names: str) -> Config:
    return Config(
        acme_domain=names, acme_directory=authority.directory, http_redirect_port=authority.http_port, host="127.0.0.1"
    )


@contextlib.contextmanager
def opened(config: Config) -> Iterator[ReloadingCertificate]:
    plain = bind("127.0.0.1", config.http_redirect_port or 0)
    with active_certificate(config, choose_certificate(config), 443, plain, OpenConnections(100, 100)) as certificate:
        assert certificate is not None
        yield certificate


def test_the_server_obtains_keeps_and_renews_its_certificate(
    tmp_path: Path, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qwen_asr")
    (tmp_path / "pebble").mkdir()
    # Renewed after 24 s; an order has 12 s before the certificate expires, and takes about 1 s on an idle machine.
    with pebble.running(tmp_path / "pebble", program, lifetime=36, refused_nonces=50) as authority:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
        config = config_of(authority, NAME, "www.example.com")
        with opened(config) as certificate, https_server(certificate) as port:
            first = served_certificate(port, authority.trust(), NAME)
            assert served_certificate(port, authority.trust(), "www.example.com") == first
            files = [path for path in (tmp_path / "certs").rglob("*") if path.is_file()]
            assert {path.name for path in files} == {"account.pem", f"{NAME}.pem"}
            assert all(path.stat().st_mode & 0o077 == 0 for path in files)
            account = next(path for path in files if path.name == "account.pem").read_bytes()
            assert until(lambda: certificate.leaf != first)
            renewed = served_certificate(port, authority.trust(), NAME)
            assert renewed != first
            assert renewed.not_valid_before_utc < first.not_valid_after_utc
            assert renewed.public_key() != first.public_key()
        assert next(path for path in files if path.name == "account.pem").read_bytes() == account
        with opened(config) as certificate:  # after a restart a valid certificate is not requested again
            assert certificate.leaf.not_valid_before_utc >= renewed.not_valid_before_utc
        requests = [message for message in caplog.messages if message.startswith("Asking")]
        assert len(requests) == 1


def check_fails(config: Config, words: str) -> None:
    with pytest.raises(AcmeError) as failure, opened(config):
        pass
    assert re.search(words, str(failure.value)), failure.value
    print(failure.value)


def test_a_refused_order_is_reported_with_the_authoritys_reason(
    authority: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # it takes precedence
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    check_fails(config_of(authority, pebble.BLOCKED), f"localhost refused a certificate for {pebble.BLOCKED}: .*policy")
    # Nothing listens on the port that the authority connects to.
    elsewhere = Config(acme_domain=(NAME,), acme_directory=authority.directory, http_redirect_port=0)
    check_fails(elsewhere, f"localhost refused a certificate for {NAME}: .*connection refused")
    assert not list(tmp_path.rglob(f"{NAME}.pem"))


def test_an_unreachable_authority_is_reported(authority: Pebble) -> None:
    nowhere = Config(acme_domain=(NAME,), acme_directory="https://127.0.0.1:9/dir", http_redirect_port=0)
    check_fails(nowhere, f"https://127.0.0.1:9/dir gave no certificate for {NAME}: Connection refused")
    no_address = Config(acme_domain=(NAME,), acme_directory="http://[", http_redirect_port=0)
    check_fails(no_address, rf"http://\[ gave no certificate for {NAME}: .*not a valid host")
    # Its certificate is not trusted without the bundle.
    check_fails(config_of(authority, NAME), f"/dir gave no certificate for {NAME}: .*certificate verify failed")
