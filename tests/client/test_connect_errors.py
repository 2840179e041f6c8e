"""Server addresses, and the messages for connections that fail."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidURI

from qwen_asr.client import Event, Lost, SpeechClient, trusted
from qwen_asr.client.connect_errors import connect_error, socket_url
from qwen_asr.client.limits import ClientLimits
from qwen_asr.errors import BadConfig, CertificateError, ConnectionFailed, Forbidden, QwenASRError
from qwen_asr.tls.self_signed import ensure_self_signed


def test_an_untrusted_certificate_is_explained(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certfile, files.keyfile)

    async def connect() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server, SpeechClient(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            async for _ in client:
                pass

    with pytest.raises(CertificateError, match=r"not trusted .*certs/qwen_asr_cert\.pem.*--cafile"):
        asyncio.run(connect())
    with pytest.raises(CertificateError, match="expected a certificate in PEM"):
        trusted(str(files.keyfile))


@pytest.mark.parametrize("answer", ["no JSON", "[]", "[" * 100_000])
def test_a_server_of_another_protocol_is_reported(answer: str) -> None:
    async def respond(connection: ServerConnection) -> None:
        await connection.send(answer)
        await connection.wait_closed()

    async def connect() -> None:
        async with serve(respond, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with SpeechClient(f"ws://127.0.0.1:{port}") as client:
                async for _ in client:
                    pass

    with pytest.raises(ConnectionFailed, match="does not belong to this protocol"):
        asyncio.run(connect())


class Late(SpeechClient):
    """A client on a busy machine: the server has closed before it sends anything."""

    async def _connect(self) -> Any:
        connection = await super()._connect()
        await connection.wait_closed()
        return connection


def refused(code: str, close_code: int) -> tuple[QwenASRError, list[Event]]:
    """What a client raises, and the events before that, where a server refuses every session at once."""
    events: list[Event] = []

    async def refuse(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "error", "code": code, "message": "No place for you."}))
        await connection.close(close_code, "No place for you.")

    async def connect() -> None:
        limits = ClientLimits(first_delay_seconds=0.01, max_delay_seconds=0.01, max_attempts=3)
        async with serve(refuse, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Late(f"ws://127.0.0.1:{port}", limits=limits) as client:
                async for event in client:
                    events.append(event)

    with pytest.raises(QwenASRError) as error:
        asyncio.run(connect())
    return error.value, events


def test_a_refusal_before_the_config_is_sent_ends_the_client_with_its_reason() -> None:
    error, events = refused("Forbidden", 1008)
    assert isinstance(error, Forbidden)
    assert str(error) == "No place for you."
    assert events == []


def test_a_refusal_for_now_is_the_reason_of_each_new_attempt() -> None:
    error, events = refused("NotReady", 1013)
    assert [event.reason for event in events if isinstance(event, Lost)] == ["No place for you."] * 3
    assert "No place for you." in str(error)


def test_redirects_are_named_and_passwords_are_not_shown() -> None:
    redirected, _ = connect_error(InvalidURI("https://b.example/x", "scheme"), "wss://anna:secret@a.example/ws/asr")
    assert str(redirected).startswith("wss://a.example/ws/asr redirects to https://b.example/x,")
    timed_out, temporary = connect_error(TimeoutError(), "wss://anna:secret@a.example/ws/asr")
    assert temporary
    assert "secret" not in str(timed_out)


def test_socket_url() -> None:
    assert socket_url("https://a.example") == "wss://a.example/ws/asr"
    assert socket_url("http://a.example:80/x/ws/asr") == "ws://a.example:80/x/ws/asr"
    for invalid in ("localhost:8000", "wss://", "wss://a:x", "wss://user@a", ""):
        with pytest.raises(BadConfig):
            socket_url(invalid)
    for invalid in ("wss://anna:secret@a:x", "anna:secret@a", "wss://anna:secret/1@a", "ftp://anna:secret@a"):
        with pytest.raises(BadConfig) as error:
            socket_url(invalid)
        assert "secret" not in str(error.value)
