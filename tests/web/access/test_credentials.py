"""API keys and passwords: where a request may carry them, and how they are compared."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.datastructures import Headers

from qwen_asr.web.access.credentials import Secrets, api_keys, basic_users


def test_a_secret_matches_only_as_a_whole() -> None:
    known = Secrets(["one-key", "zwei-Schlüssel"])
    assert "one-key" in known
    assert "zwei-Schlüssel" in known
    for other in ("", "one-ke", "one-key ", "One-key", "one-key\0", "\udcff", "zwei-Schlussel"):
        assert other not in known
    assert known
    assert not Secrets([])
    assert "" not in Secrets([])


def test_secrets_are_kept_as_hashes() -> None:
    known = Secrets(["one-key"])
    assert "one-key" not in repr(vars(known))
    assert known.identifier("one-key") == known.identifier("one-key") != known.identifier("one-kez")
    assert known.identifier("one-key") != Secrets(["one-key"]).identifier("one-key")


def scope(kind: str, query: str = "", *subprotocols: str) -> dict[str, Any]:
    return {"type": kind, "query_string": query.encode(), "subprotocols": list(subprotocols)}


PAGE = {"origin": "https://localhost:8000"}
OFFERED = ("realtime", "openai-insecure-api-key.KEY")


@pytest.mark.parametrize(
    ("request_scope", "headers", "keys"),
    [
        (scope("http"), {"authorization": "Bearer KEY"}, ["KEY"]),
        (scope("http"), {"authorization": "bearer   KEY "}, ["KEY"]),
        (scope("http"), {"authorization": "KEY"}, []),
        (scope("http"), {"authorization": "Basic S0VZ"}, []),
        (scope("http", "api_key=KEY"), PAGE, []),
        (scope("http"), {"x-api-key": "KEY"}, ["KEY"]),
        (scope("http"), {"api-key": "KEY", "authorization": "Bearer OTHER"}, ["OTHER", "KEY"]),
        (scope("websocket", "api_key=KEY"), {}, ["KEY"]),
        (scope("websocket", "a=1&api_key=K%2BY"), PAGE, ["K+Y"]),
        (scope("http", "", *OFFERED), {}, []),
        (scope("websocket", "", *OFFERED), {}, ["KEY"]),
        (scope("websocket", "", *OFFERED), PAGE, ["KEY"]),
        (scope("websocket"), {"authorization": "Bearer KEY"}, ["KEY"]),
        (scope("http"), {"authorization": "Token KEY"}, ["KEY"]),
        (scope("websocket", "", "token", "KEY"), {}, ["KEY"]),
        (scope("websocket", "", "bearer", "KEY"), PAGE, ["KEY"]),
        (scope("websocket", "", "token"), {}, []),
        (scope("http", "", "token", "KEY"), {}, []),
    ],
)
def test_where_an_api_key_may_be(request_scope: dict[str, Any], headers: dict[str, str], keys: list[str]) -> None:
    assert api_keys(request_scope, Headers(headers)) == keys


def test_http_basic() -> None:
    def users_in(value: bytes) -> list[str]:
        return basic_users(Headers({"authorization": "Basic " + value.decode()}))

    assert users_in(base64.b64encode("ada:pässword:x".encode())) == ["ada:pässword:x"]
    assert users_in(b"no base64!") == [""]
    assert users_in(base64.b64encode(b"\xff\xfe")) == [""]
    assert basic_users(Headers({"authorization": "Bearer KEY"})) == []
