"""The Origin check."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from qwen_asr.errors import Forbidden
from qwen_asr.web.access.origin import AllowedOrigins, same_origin


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


# --- fetch metadata, and origins that are allowed

OWN = "https://asr.example.org"
NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def scope(method: str = "GET", kind: str = "http", **headers: str) -> dict[str, Any]:
    names = {"host": "asr.example.org"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in names.items()]
    return {"type": kind, "headers": raw} | ({"method": method} if kind == "http" else {})


def test_what_browsers_say_of_requests_without_an_origin() -> None:
    origins, framed = AllowedOrigins(), AllowedOrigins(framed=True)
    for site in ("same-origin", "none"):
        assert not origins.check(scope(sec_fetch_site=site), api=True)
    for site in ("same-site", "cross-site"):
        assert not origins.check(scope(sec_fetch_site=site, **NAVIGATION), api=False)  # a link to the page
        for wrong in (
            scope(sec_fetch_site=site),  # an image or a script
            scope("POST", sec_fetch_site=site, **NAVIGATION),
            scope(sec_fetch_site=site, **NAVIGATION | {"sec-fetch-dest": "iframe"}),
            scope(kind="websocket", sec_fetch_site=site),
        ):
            for api in (True, False):
                with pytest.raises(Forbidden):
                    origins.check(wrong, api=api)
        assert not framed.check(scope(sec_fetch_site=site, **NAVIGATION | {"sec-fetch-dest": "iframe"}), api=False)


def test_a_browser_vouches_for_the_page_behind_a_proxy_that_changes_the_host() -> None:
    behind = scope("POST", host="127.0.0.1:8000", origin=OWN, sec_fetch_site="same-origin")
    assert not AllowedOrigins().check(behind, api=False)
    del behind["headers"][-1]
    with pytest.raises(Forbidden, match="pass on the Host header"):
        AllowedOrigins().check(behind, api=False)


ALLOWED = ["https://app.example.org", "http://localhost:5173", "chrome-extension://abcdef", "tauri://localhost"]


def test_allowed_origins_may_use_the_api_only() -> None:
    origins = AllowedOrigins(ALLOWED)
    for origin in (*ALLOWED, "https://APP.example.org"):
        for kind in ("http", "websocket"):
            request = scope("POST", kind, origin=origin, sec_fetch_site="cross-site")
            assert origins.check(request, api=True)
            with pytest.raises(Forbidden):
                origins.check(request, api=False)
    others = ["https://app.example.org:8443", "http://app.example.org", "https://app.example.org.evil", "null", ""]
    for origin in others:
        with pytest.raises(Forbidden):
            origins.check(scope("POST", origin=origin), api=True)
    two = scope("POST", origin=ALLOWED[0])
    two["headers"].append((b"origin", b"https://evil.example"))
    with pytest.raises(Forbidden):
        origins.check(two, api=True)
    assert AllowedOrigins(["*"]).check(scope("POST", origin="https://any.example"), api=True)
