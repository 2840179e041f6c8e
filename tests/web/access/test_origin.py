"""The Origin check."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from qwen_asr.web.access.origin import same_origin


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", None),
        ("", None),
        ("localhost:8000", "http://localhost:8000"),
        ("localhost:8000", "https://localhost:8000"),
        ("Box.Example", "https://box.example"),
        ("box.example:443", "https://box.example"),
        ("box.example", "https://box.example:443"),
        ("box.example:80", "http://box.example"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_own_pages_and_programs_are_allowed(host: str, origin: str | None) -> None:
    assert same_origin(Headers({"host": host} | ({"origin": origin} if origin else {})))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", "https://evil.example"),
        ("localhost:8000", "http://localhost"),
        ("localhost:8000", "http://localhost:8001"),
        ("box.example", "https://box.example.evil"),
        ("box.example", "https://evilbox.example"),
        ("box.example", "https://box.example:80"),
        ("box.example", "https://user@box.example"),
        ("box.example", "file://box.example"),
        ("box.example", "null"),
        ("box.example", ""),
        ("box.example", "https://[box"),
        ("box.example", "https://box.example:"),
        ("box.example:443:443", "https://box.example:443:443"),
        ("", "https://"),
        ("evil/", "https://evil/"),
    ],
)
def test_pages_of_other_sites_are_refused(host: str, origin: str) -> None:
    assert not same_origin(Headers({"host": host, "origin": origin}))


def test_all_of_several_origins_must_match() -> None:
    raw = [(b"host", b"a.example"), (b"origin", b"https://a.example"), (b"origin", b"https://b.example")]
    assert not same_origin(Headers(raw=raw))
