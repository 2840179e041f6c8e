"""`POST /v1/realtime/client_secrets` and its older forms, with the openai package and browsers' handshakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.realtime.route import RealtimeRoute
from tests.support.checkpoints import demo_recognizer
from tests.support.sockets import Listening, listening

pytestmark = pytest.mark.slow
KEY = "a-right-key"
RIGHT = {"Authorization": f"Bearer {KEY}"}
INPUT: dict[str, Any] = {
    "format": {"type": "audio/pcm", "rate": 16_000},
    "transcription": {"language": "de", "prompt": "Grzegorz"},
    "turn_detection": None,
}
SESSION: Any = {"type": "transcription", "audio": {"input": INPUT}}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Listening]:
    """A server with a key."""
    torch.set_num_threads(1)
    with listening(Service(Config(api_key=(KEY,)), demo_recognizer()), route=RealtimeRoute) as server:
        yield server


@pytest.fixture(scope="module")
def open_server() -> Iterator[Listening]:
    """A server without keys."""
    torch.set_num_threads(1)
    with listening(Service(Config(), demo_recognizer()), route=RealtimeRoute) as server:
        yield server


def base(server: Listening) -> str:
    return server.url.replace("ws://", "http://")


def post(server: Listening, form: str = "client_secrets", headers: Any = RIGHT, **body: Any) -> httpx.Response:
    return httpx.post(f"{base(server)}/{form}", headers=headers, timeout=60, **body)


def created(server: Listening, secret: str, path: str = "") -> dict[str, Any]:
    """The first event of a browser's session with that secret; the status of a refusal as `status`."""

    async def speak() -> dict[str, Any]:
        url = server.url.replace("/v1/realtime", path) if path else server.url
        offered: Any = ["realtime", f"openai-insecure-api-key.{secret}"]
        try:
            async with connect(url, subprotocols=offered, open_timeout=60) as connection:
                return dict(json.loads(await connection.recv()))
        except InvalidStatus as refused:
            body = json.loads(refused.response.body or b"{}")
            return {"status": refused.response.status_code, **body}

    return asyncio.run(speak())


def test_the_openai_package_makes_a_secret_and_a_browser_uses_it(keyed: Listening) -> None:
    with openai.OpenAI(base_url=base(keyed).removesuffix("/realtime"), api_key=KEY, max_retries=0) as client:
        made: Any = client.realtime.client_secrets.create(
            session=SESSION,
            expires_after={"anchor": "created_at", "seconds": 60},
        )
    assert made.value.startswith("ek_")
    assert made.session.audio.input.transcription.language == "de"
    for _ in range(2):
        event = created(keyed, made.value)
        inputs = event["session"]["audio"]["input"]
        assert event["type"] == "session.created"
        assert (inputs["format"]["rate"], inputs["turn_detection"]) == (16_000, None)
        assert (inputs["transcription"]["language"], inputs["transcription"]["prompt"]) == ("de", "Grzegorz")


@pytest.mark.parametrize("form", ["transcription_sessions", "sessions"])
def test_the_older_forms(keyed: Listening, form: str) -> None:
    body = {"input_audio_format": "g711_ulaw", "turn_detection": None, "model": "any", "voice": "alloy"}
    answer = post(keyed, form, json=body).json()
    assert answer["input_audio_format"] == "g711_ulaw"
    assert answer["object"] == ("realtime.session" if form == "sessions" else "realtime.transcription_session")
    event = created(keyed, answer["client_secret"]["value"])
    assert event["session"]["audio"]["input"]["format"]["type"] == "audio/pcmu"


def test_a_secret_needs_the_key_and_opens_only_realtime_sessions(keyed: Listening) -> None:
    assert post(keyed, headers={}).status_code == 401
    assert post(keyed, headers={"Authorization": "Bearer ek_wrong"}).status_code == 401
    secret = post(keyed).json()["value"]
    assert created(keyed, secret)["type"] == "session.created"
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{keyed.http.removesuffix('/v1/realtime')}/v1/models", headers=headers).status_code == 401
    assert post(keyed, headers=headers).status_code == 401
    assert created(keyed, secret, "/api-ws/v1/realtime")["status"] == 401
    assert created(keyed, secret, "/ws/asr")["status"] == 401


@pytest.mark.parametrize("server_name", ["keyed", "open_server"])
def test_an_unknown_secret_is_refused(server_name: str, request: pytest.FixtureRequest) -> None:
    refused = created(request.getfixturevalue(server_name), "ek_unknown")
    assert refused["status"] == 401
    assert "POST /v1/realtime/client_secrets" in refused["error"]["message"]


def test_secrets_work_on_a_server_without_keys(open_server: Listening) -> None:
    secret = post(open_server, headers={}, json={"session": SESSION}).json()["value"]
    assert created(open_server, secret)["session"]["audio"]["input"]["transcription"]["language"] == "de"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"no json", None),
        (b"[]", None),
        (b"\xff", None),
        (b'{"expires_after": {"seconds": 9}}', "expires_after.seconds"),
        (b'{"expires_after": {"seconds": 7201}}', "expires_after.seconds"),
        (b'{"expires_after": {"anchor": "now"}}', "expires_after.anchor"),
        (b'{"session": {"audio": 1}}', "session.audio"),
        (
            b'{"session": {"audio": {"input": {"transcription": {"prompt": "<|im_end|>"}}}}}',
            "session.audio.input.transcription.prompt",
        ),
    ],
)
def test_a_wrong_body_gets_a_sentence(keyed: Listening, body: bytes, param: str | None) -> None:
    answer = post(keyed, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "bad_field" if param else "bad_input", param)
    assert error["message"].endswith(".")


def test_a_body_that_is_too_large(keyed: Listening) -> None:
    assert post(keyed, content=b" " * 70_000).status_code == 413
    assert httpx.get(f"{base(keyed)}/client_secrets", headers=RIGHT).status_code == 405
