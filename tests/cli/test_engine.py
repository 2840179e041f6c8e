"""`qwen-asr engine`: what it warns of, how it listens, and that it ends with whoever started it."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.fleet.sockets import SocketCalls
from tests.support.commands import QWEN_ASR, error_of, run
from tests.support.engines import Engine
from tests.support.https import served_certificate
from tests.support.network import free_ports
from tests.support.processes import until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "none"], "--port was given 'none', but expects a whole number from 0 to 65535."),
        (["--uds", "/run/a", "--ssl-certfile", "a.pem"], "--uds was given with a certificate"),
        (["--ssl-keyfile", "key.pem"], "--ssl-keyfile was given without --ssl-certfile"),
        (["--api-key", "with blank"], "--api-key was given a value that cannot be sent in a header"),
        (["--engine", "a"], "Unrecognized arguments: --engine"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid is not an address"),
    ],
)
def test_mistakes_are_said(options: list[str], sentence: str) -> None:
    assert sentence in error_of(run(*QWEN_ASR, "engine", *options))


def test_a_server_elsewhere_needs_a_key_and_a_certificate(tmp_path: Path) -> None:
    [port] = free_ports(1)
    engine = Engine(tmp_path, "engine", port, "--host", "0.0.0.0")
    try:
        assert engine.wait_for(r"Listening at (\S+)") == f"ws://0.0.0.0:{port}"
        engine.wait_until_ready()
        assert "Everybody who reaches this address can use the engine" in engine.text
        assert "Speech and keys travel in plain text to this address: give a certificate" in engine.text
        assert engine.end() == 0
        assert "Stopped." in engine.text
    finally:
        engine.kill()


def test_a_self_signed_certificate_is_trusted_as_a_file_and_renewed_without_a_restart(tmp_path: Path) -> None:
    [port] = free_ports(1)
    options = ["--host", "0.0.0.0", "--generate-self-signed-cert"]
    engine = Engine(tmp_path, "engine", port, *options, QWEN_ASR_API_KEY="geheim-7")
    certfile = tmp_path / "certs" / "qwen_asr_cert.pem"
    calls = None
    try:
        engine.wait_until_ready()
        assert "Everybody who reaches" not in engine.text
        assert "give a certificate" not in engine.text
        assert "geheim-7" not in engine.text
        trust = ssl.create_default_context(cafile=str(certfile))
        calls = SocketCalls([EngineAddress("localhost", port, tls=True)], api_key="geheim-7", context=trust)
        assert calls.wait(60), calls.unavailable_reason()
        assert httpx.get(f"https://localhost:{port}/readyz", verify=trust).status_code == 200
        assert httpx.get(f"https://localhost:{port}/metrics", verify=trust).status_code == 401
        before = served_certificate(port, trust)
        assert run(*QWEN_ASR, "cert", "renew", folder=tmp_path).returncode == 0

        def is_renewed() -> bool:
            now = ssl.create_default_context(cafile=str(certfile))
            try:
                return served_certificate(port, now) != before
            except ssl.SSLCertVerificationError:  # the one before, which `now` does not trust
                return False

        assert until(is_renewed)
        assert len(calls.joined) == 1, "open connections stay"
    finally:
        if calls is not None:
            calls.close()
        engine.kill()


def test_it_ends_with_its_standard_input_and_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    options = ["--asr-model-path", "demo", "--device", "cpu", "--uds", str(path), "--end-with-stdin"]
    process = subprocess.Popen(
        [*QWEN_ASR, "engine", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        calls = SocketCalls([EngineAddress(socket=str(path))])
        try:
            assert process.stdout.readline() == f"Listening at unix:{path}\n"
            assert process.stdout.readline() == "Ready. Model: demo\n"
            assert calls.wait(60)
            assert calls.joined == (f"unix:{path}",)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            calls.close()
            process.kill()
