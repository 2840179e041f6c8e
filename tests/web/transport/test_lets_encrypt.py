"""Let's Encrypt's way to a certificate, by certbot and in the process, from Let's Encrypt's own test authority."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
import subprocess
import time
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
from qwen_asr.web.app import bind
from qwen_asr.web.sockets.asr.route import AsrRoute
from qwen_asr.web.transport.https import WEBROOT, choose_certificate, opened_https
from qwen_asr.web.transport.redirect import other_port
from qwen_asr.web.transport.redirect_port import answering, challenges_in
from tests.support import pebble
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.https import kind_of, served, serving
from tests.support.pebble import Pebble
from tests.support.processes import until
from tests.support.sockets import client, silence

NAME = "asr.example.com"
SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[Pebble]:
    with pebble.running(tmp_path_factory.mktemp("pebble"), program) as authority:
        yield authority


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Certbot:
    """certbot, with its files in a folder of the test's own."""

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


def test_certbot_renews_to_another_key_while_people_talk(
    authority: Pebble, tmp_path: Path, program: Callable[[str], str]
) -> None:
    certbot = Certbot(program("certbot"), tmp_path / "letsencrypt", authority)
    trust = authority.trust()
    torch.set_num_threads(1)
    plain = bind("127.0.0.1", authority.http_port)
    with (
        answering(plain, other_port(authority.http_port, 443, challenges_in(WEBROOT))),
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
        with serving(certificate, app) as port:
            assert kind_of(served(port, trust, NAME)) == "EC"
            renewal = ["renew", "--force-renewal", "--key-type", "rsa", "--no-random-sleep-on-renew"]
            said = asyncio.run(_talk_meanwhile(port, trust, lambda: certbot.run(*renewal)))
            assert kind_of(served(port, trust, NAME)) == "RSA"
    assert said == list(SENTENCES)


async def _talk_meanwhile(port: int, trust: ssl.SSLContext, renew: Callable[[], None]) -> list[str]:
    """One session across the renewal, and new connections all the time; returns the finals' texts."""
    ended = asyncio.Event()
    connected = 0

    async def keep_connecting() -> None:
        nonlocal connected
        knows = ssl.create_default_context(cadata=_roots(trust))
        while not ended.is_set():
            await asyncio.to_thread(served, port, knows, NAME)  # raises where one fails
            connected += 1
            await asyncio.sleep(0.02)

    # The session's own handshake asks for the name, while the address is that of this machine.
    options = {"host": "127.0.0.1", "port": port, "server_hostname": NAME}
    async with client(f"wss://{NAME}/ws/asr", trust, **options) as speaker:
        await speaker.config()
        await speaker.audio(np.concatenate([silence(0.5), spoken(SENTENCES[0]), silence(1.5)]))
        first = await speaker.wait_for("final")
        connecting = asyncio.create_task(keep_connecting())
        await asyncio.to_thread(renew)
        renewed = time.monotonic()
        for name in (NAME, None):
            while kind_of(await asyncio.to_thread(served, port, _without_checks(trust, name), name)) != "RSA":
                assert time.monotonic() - renewed < 5, f"not served within 5 s ({name=})"
                await asyncio.sleep(0.05)
        print(f"served after {time.monotonic() - renewed:.1f} s")
        await speaker.audio(np.concatenate([spoken(SENTENCES[1]), silence(0.2)]))
        await speaker.finalize()
        ended.set()
        await connecting
        assert connected > 10
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
    with opened_https(config, choose_certificate(config), 443, plain) as certificate:
        assert certificate is not None
        yield certificate


def test_the_process_gets_its_certificate_keeps_it_and_renews_it(
    tmp_path: Path, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qwen_asr")
    (tmp_path / "pebble").mkdir()
    with pebble.running(tmp_path / "pebble", program, lifetime=18, refused_nonces=50) as authority:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
        config = config_of(authority, NAME, "www.example.com")
        with opened(config) as certificate, serving(certificate) as port:
            first = served(port, authority.trust(), NAME)
            assert served(port, authority.trust(), "www.example.com") == first
            files = [path for path in (tmp_path / "certs").rglob("*") if path.is_file()]
            assert {path.name for path in files} == {"account.pem", f"{NAME}.pem"}
            assert all(path.stat().st_mode & 0o077 == 0 for path in files)
            account = next(path for path in files if path.name == "account.pem").read_bytes()
            assert until(lambda: certificate.leaf != first)
            renewed = served(port, authority.trust(), NAME)
            assert renewed != first
            assert renewed.not_valid_before_utc < first.not_valid_after_utc
            assert renewed.public_key() != first.public_key()
        assert next(path for path in files if path.name == "account.pem").read_bytes() == account
        with opened(config) as certificate:  # another start: what still can serve is not asked for again
            assert certificate.leaf.not_valid_before_utc >= renewed.not_valid_before_utc
        asked_for = [message for message in caplog.messages if message.startswith("Asking")]
        assert len(asked_for) == 1


def check_fails(config: Config, words: str) -> None:
    with pytest.raises(AcmeError) as failure, opened(config):
        pass
    assert re.search(words, str(failure.value)), failure.value
    print(failure.value)


def test_a_refused_order_is_told_in_the_words_of_the_authority(
    authority: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # it goes first
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    check_fails(config_of(authority, pebble.BLOCKED), f"localhost refused a certificate for {pebble.BLOCKED}: .*policy")
    # Nobody answers where the authority asks.
    elsewhere = Config(acme_domain=(NAME,), acme_directory=authority.directory, http_redirect_port=0)
    check_fails(elsewhere, f"localhost refused a certificate for {NAME}: .*connection refused")
    assert not list(tmp_path.rglob(f"{NAME}.pem"))


def test_an_authority_that_is_not_reached_is_told(authority: Pebble) -> None:
    nowhere = Config(acme_domain=(NAME,), acme_directory="https://127.0.0.1:9/dir", http_redirect_port=0)
    check_fails(nowhere, f"https://127.0.0.1:9/dir gave no certificate for {NAME}: Connection refused")
    # Its certificate is not trusted: no bundle was named.
    check_fails(config_of(authority, NAME), f"/dir gave no certificate for {NAME}: .*certificate verify failed")
