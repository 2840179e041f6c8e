"""The server as it is started: ports, signals, headers, and what it says."""

from __future__ import annotations

import signal
import socket
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_asr.config.config import Config
from qwen_asr.errors import BadConfig, PortInUse, StartupError
from qwen_asr.web.app import _announce, serve
from qwen_asr.web.transport.https import choose_certificate
from qwen_asr.web.transport.uvicorn_server import bind
from tests.support.certificates import Chained, issue, put
from tests.support.gradio_events import RecorderClient
from tests.support.https import send_request
from tests.support.processes import ServerProcess


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.slow
def test_a_port_in_use_is_said_before_anything_is_loaded(taken: int, tmp_path: Path, repository: Path) -> None:
    with pytest.raises(PortInUse, match=f"Port {taken} on 127.0.0.1 is in use.*--port"):
        serve(Config(port=taken))
    code, said = ServerProcess(tmp_path, repository, "--port", str(taken)).end()
    assert code == 1
    assert said.count("\n") == 1  # no line about loading before it
    assert "in use" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gpus": "all"}, "nvidia-smi"),
        ({"engine": ("wss://gpu1.example.com:9000",), "engine_ca_certs": "nowhere.pem"}, r"nowhere\.pem.*give PEM"),
        ({"engine": ("ray",)}, "Ray Serve, which is not installed"),
    ],
)
def test_what_the_engines_need_is_said_before_a_port_is_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taken: int, options: dict[str, Any], expected: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StartupError, match=expected):
        serve(Config(port=taken, **options))


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartupError, match="is not an address of this machine"):
        bind("192.0.2.1", 0)
    with pytest.raises(StartupError, match="is not an address"):
        bind("no such host", 0)


def test_share_and_own_https_do_not_go_together() -> None:
    with pytest.raises(BadConfig, match="either --share or"):
        serve(Config(share=True, generate_self_signed_cert=True, port=0))


def test_on_a_space_it_serves_as_spaces_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "somebody/something")
    config = Config()
    assert (config.host, config.port, config.tls) == ("0.0.0.0", 7860, False)


@pytest.mark.slow
def test_it_serves_https_and_stops_cleanly(tmp_path: Path, repository: Path) -> None:
    started = ServerProcess(
        tmp_path,
        repository,
        "--asr-model-path",
        "demo",
        "--generate-self-signed-cert",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    )
    url = started.line_with("https://")
    started.line_with("Ready. Model: demo")
    trust = ssl.create_default_context(cafile=str(tmp_path / "certs" / "qwen_asr_cert.pem"))
    with urllib.request.urlopen(url, context=trust, timeout=30) as page:  # noqa: S310 - our own server
        assert page.status == 200
        assert "server" not in {name.lower() for name in page.headers}
        body = page.read().decode()
    assert "fonts.googleapis" not in body
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30) as plain:
        status, headers, _ = send_request(plain, b"GET /x HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
    assert b"307" in status
    assert headers["location"] == "https://localhost:1/x"
    with httpx.Client(base_url=url, verify=trust, timeout=30) as http:
        recorder = RecorderClient(http)
        recorder.join(None).raise_for_status()
        with recorder.messages() as stream:
            assert stream.headers["X-Accel-Buffering"] == "no"
            assert stream.headers["content-type"].startswith("text/event-stream")
            started.process.send_signal(signal.SIGINT)  # with a stream still open
            started.line_with("Stopped.")
            code, said = started.end()
    assert code == 0, said
    assert "Traceback" not in said


def test_allowed_hosts_are_announced_where_the_certificate_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(generate_self_signed_cert=True, host="127.0.0.1", allowed_hosts=("asr.home.arpa", "*.example.org"))
    _announce(config, 8000, choose_certificate(config, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["The page is at:", "  https://localhost:8000", "  https://asr.home.arpa:8000"]


def test_plain_http_on_all_addresses_announces_that_browsers_need_https(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for config in (Config(host="192.0.2.7"), Config(), Config(host="192.0.2.7", generate_self_signed_cert=True)):
        _announce(config, 8000)
        outputs.append(capsys.readouterr().out)
    assert ["--generate-self-signed-cert" in output for output in outputs] == [True, False, False]


@pytest.mark.parametrize("own", [True, False], ids=["self-signed", "of an authority"])
def test_the_warning_of_browsers_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str], own: bool) -> None:
    issued = issue() if own else Chained().leaf
    put(tmp_path, issued.pem, issued.key_pem())
    config = Config(ssl_certfile=str(tmp_path / "cert.pem"), ssl_keyfile=str(tmp_path / "key.pem"))
    _announce(config, 443, choose_certificate(config))
    output = capsys.readouterr().out
    assert ("the browser shows a warning once" in output) is own
    assert output.count("https://") == output.count("https://localhost\n") == 1
