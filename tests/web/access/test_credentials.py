"""Which secrets a request brings, and which of them count."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.datastructures import Headers

from qwen_asr.web.access.credentials import Secrets, given_keys, given_users


def test_a_secret_is_known_by_all_of_it_and_by_nothing_less() -> None:
    known = Secrets(["one-key", "zwei-Schlüssel"])
    assert "one-key" in known
    assert "zwei-Schlüssel" in known
    for other in ("", "one-ke", "one-key ", "One-key", "one-key\0", "\udcff", "zwei-Schlussel"):
        assert other not in known
    assert known
    assert not Secrets([])
    assert "" not in Secrets([])


def test_what_is_kept_is_no_secret() -> None:
    known = Secrets(["one-key"])
    assert "one-key" not in repr(vars(known))
    assert known.name("one-key") == known.name("one-key") != known.name("one-kez")
    assert known.name("one-key") != Secrets(["one-key"]).name("one-key")


def scope(kind: str, query: str = "", *subprotocols: str) -> dict[str, Any]:
    return {"type": kind, "query_string": query.encode(), "subprotocols": list(subprotocols)}


PAGE = {"origin": "https://localhost:8000"}
OFFERED = ("realtime", "openai-insecure-api-key.KEY")


@pytest.mark.parametrize(
    ("asked", "headers", "keys"),
    [
        (scope("http"), {"authorization": "Bearer KEY"}, ["KEY"]),
        (scope("http"), {"authorization": "bearer   KEY "}, ["KEY"]),
        (scope("http"), {"authorization": "KEY"}, []),
        (scope("http"), {"authorization": "Basic S0VZ"}, []),
        (scope("http", "api_key=KEY"), PAGE, []),
        (scope("websocket", "api_key=KEY"), {}, []),
        (scope("websocket", "a=1&api_key=K%2BY"), PAGE, ["K+Y"]),
        (scope("websocket", "", *OFFERED), {}, []),
        (scope("websocket", "", *OFFERED), PAGE, ["KEY"]),
        (scope("websocket"), {"authorization": "Bearer KEY"}, ["KEY"]),
    ],
)
def test_where_a_key_may_stand(asked: dict[str, Any], headers: dict[str, str], keys: list[str]) -> None:
    assert given_keys(asked, Headers(headers)) == keys


def test_users_of_http_basic() -> None:
    def given(value: bytes) -> list[str]:
        return given_users(Headers({"authorization": "Basic " + value.decode()}))

    assert given(base64.b64encode("ada:pässword:x".encode())) == ["ada:pässword:x"]
    assert given(b"no base64!") == [""]
    assert given(base64.b64encode(b"\xff\xfe")) == [""]
    assert given_users(Headers({"authorization": "Bearer KEY"})) == []
