"""The values of `--engine` and `--gpus`."""

from __future__ import annotations

import pytest

from qwen_asr.config.engine_addresses import EngineAddress, check_gpus, parse_engines, ray_application
from qwen_asr.errors import BadConfig


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("gpu1:9001",), ["ws://gpu1:9001"]),
        (("gpu1",), ["ws://gpu1:9000"]),
        (("ws://a:1, wss://b:2", "unix:/run/engine.sock"), ["ws://a:1", "wss://b:2", "unix:/run/engine.sock"]),
        (("wss://gpu.example.com/",), ["wss://gpu.example.com:9000"]),
        (("[::1]:9000",), ["ws://[::1]:9000"]),
        ((), []),
    ],
)
def test_addresses(texts: tuple[str, ...], expected: list[str]) -> None:
    assert [str(address) for address in parse_engines(texts)] == expected


def test_the_url_of_a_unix_socket_is_only_for_the_handshake() -> None:
    assert EngineAddress(socket="/run/engine.sock").url == "ws://localhost/engine"
    assert EngineAddress("gpu1", 9000, tls=True).url == "wss://gpu1:9000/engine"


@pytest.mark.parametrize(
    "text",
    [
        "http://a:1",
        "a:b",
        "a:70000",
        "ws://",
        "ws://a:1/path",
        "ws://a:1?key=x",
        "unix:relative",
        ":9000",
        "a:0",
        "[",
        "ws://[::1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadConfig, match=r"--engine was given .* but expects host:port, ws://host:port"):
        parse_engines((text,))


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(BadConfig, match="--engine-api-key") as caught:
        parse_engines(("ws://user:geheim@a:1",))
    assert "geheim" not in str(caught.value)
    with pytest.raises(BadConfig) as caught:
        parse_engines(("http://user:geheim@a:1",))
    assert "geheim" not in str(caught.value)


def test_each_engine_is_given_once() -> None:
    with pytest.raises(BadConfig, match="twice"):
        parse_engines(("a:9000", "ws://a"))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("ray",), "default"),
        (("ray:speech",), "speech"),
        (("gpu1:9001", "gpu2"), None),
        (("ray.example.com", "ws://ray:9000"), None),
        ((), None),
    ],
)
def test_applications_of_ray_serve(texts: tuple[str, ...], expected: str | None) -> None:
    assert ray_application(texts) == expected


@pytest.mark.parametrize("texts", [("ray", "gpu1"), ("ray,ray:speech",), ("ray://gpu1:10001",), ("ray:",)])
def test_what_is_no_application_of_ray_serve(texts: tuple[str, ...]) -> None:
    with pytest.raises(BadConfig, match=r"--engine was given ray"):
        ray_application(texts)


@pytest.mark.parametrize("value", [None, "all", "0", "0,1", "3,1", "cpu", "cpu,cpu"])
def test_gpus(value: str | None) -> None:
    check_gpus(value)


@pytest.mark.parametrize("value", ["", "none", "0,", "0,0", "-1", "0-3", "cpu,0", "all,0", "²"])
def test_what_is_no_list_of_gpus(value: str) -> None:
    with pytest.raises(BadConfig, match=r"--gpus was given .* but expects all, or numbers"):
        check_gpus(value)
