"""Logins: signed cookies that end, survive a restart, and are bound to the users of the configuration."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from qwen_asr.config.config import Config
from qwen_asr.config.limits import GuardLimits
from qwen_asr.service.rate_limit import Rates
from qwen_asr.service.service import Service
from qwen_asr.web.access.cookies import CookieWriter
from qwen_asr.web.access.guard import AccessGuard
from qwen_asr.web.access.login import WORDS, WRONG, WRONG_IN_CHINESE, Login, Logins, login_page
from tests.support.browser import serving, small_config
from tests.support.checkpoints import random_recognizer
from tests.web.access.test_guard import guarded_client

USERS = ("ada:correct horse", "bob:battery staple")
COOKIES = CookieWriter("login", 8000)
LIMITS = GuardLimits(login_idle_seconds=1000, login_total_seconds=5000)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def logins(clock: Clock, users: tuple[str, ...] = USERS) -> Logins:
    return Logins(users, COOKIES, LIMITS, clock)


def scope(set_cookie: str | None = None, scheme: str = "http") -> dict[str, Any]:
    """The scope of a request with the cookie that a browser keeps after that `Set-Cookie` header."""
    cookie = (set_cookie or "").partition(";")[0]
    return {"type": "http", "scheme": scheme, "headers": [(b"cookie", cookie.encode())] if cookie else []}


def test_a_login_is_valid_until_it_is_idle_for_too_long() -> None:
    clock = Clock()
    known = logins(clock)
    begun = known.begin(scope(), "ada")
    login = known.read(scope(begun))
    assert login is not None
    assert login.user == "ada"
    clock.now += 1000
    assert known.read(scope(begun)) == login
    clock.now += 1
    assert known.read(scope(begun)) is None


def test_the_key_of_the_cookies_cannot_be_derived_from_the_passwords() -> None:
    clock = Clock()
    assert logins(clock).read(scope(logins(clock).begin(scope(), "ada"))) is None


def test_a_login_that_is_used_is_renewed_until_its_total_is_over() -> None:
    clock = Clock()
    known = logins(clock)
    cookie, renewals, start = known.begin(scope(), "ada"), 0, clock.now
    assert known.renewal(scope(), Login("ada", "id", clock.now, clock.now)) is None
    while (login := known.read(scope(cookie))) is not None:
        renewed = known.renewal(scope(), login)
        renewals += renewed is not None
        cookie = renewed or cookie
        clock.now += 10
    assert clock.now - start == 5010
    assert 70 <= renewals <= 110  # after every twentieth of the idle time


def test_a_login_that_has_ended_is_not_valid_in_any_copy() -> None:
    clock = Clock()
    known = logins(clock)
    first, second = known.begin(scope(), "ada"), known.begin(scope(), "ada")
    clock.now += 100
    login = known.read(scope(first))
    assert login is not None
    copy = known.renewal(scope(), login)
    removal = known.end(scope(), login)
    assert re.search("Max-Age=0", removal)
    assert known.read(scope(first)) is known.read(scope(copy)) is None
    assert known.read(scope(second)) is not None  # that of another device
    clock.now += 2000
    known.end(scope(), None)
    assert known._ended == {}  # what is over anyway needs no memory


def test_logouts_are_remembered_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.web.access.login._MAX_ENDED", 3)
    clock = Clock()
    known = logins(clock)
    for number in range(5):
        known.end(scope(), Login("ada", str(number), clock.now, clock.now))
    begun = known.begin(scope(), "bob")
    known.end(scope(), known.read(scope(begun)))
    assert known.read(scope(begun)) is None
    assert len(known._ended) == 3


def test_a_cookie_that_was_changed_is_no_login() -> None:
    known = logins(Clock())
    name, _, value = known.begin(scope(), "ada").partition(";")[0].partition("=")
    for index in range(len(value)):
        other = "_" if value[index] not in "89-_" else "A"  # in the last character only the upper bits count
        changed = value[:index] + other + value[index + 1 :]
        assert known.read(scope(f"{name}={changed}")) is None, index
    for other in ("", "x", ".", value * 2, "é"):
        assert known.read(scope(f"{name}={other}")) is None


def test_the_attributes_of_a_cookie() -> None:
    plain = CookieWriter("login", 8000).header(scope(), "text", 60)
    assert plain == "login_8000=text; Path=/; HttpOnly; Max-Age=60; SameSite=Lax"
    secure = CookieWriter("login", 8000).header(scope(scheme="https"), "text")
    assert secure == "__Host-login_8000=text; Path=/; HttpOnly; Secure; SameSite=Lax"
    framed = CookieWriter("login", 8000, framed=True).header(scope(scheme="https"), "text")
    assert framed == "__Host-login_8000=text; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"


def test_a_cookie_of_plain_http_is_no_login_under_https() -> None:
    clock = Clock()
    begun = logins(clock).begin(scope(), "ada")
    assert logins(clock).read(scope(begun, "https")) is None


# --- the form


def client_with_users(**limits: Any) -> TestClient:
    guard = AccessGuard(Config(auth=USERS), Rates(None), GuardLimits(**limits))
    client = guarded_client(guard, "192.0.2.1")
    client.follow_redirects = False
    return client


def test_bodies_that_are_no_login_form() -> None:
    client = client_with_users(login_bytes=100)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for body, status, words in [
        (b"", 400, "no username"),
        (b"username=ada", 400, "no password"),
        (b'{"username": "ada"}', 400, "no username"),
        (b"username=ada&password=" + b"x" * 78, 401, "is wrong"),
        (b"username=ada&password=" + b"x" * 79, 413, "at most 100 bytes"),
    ]:
        response = client.post("/login", content=body, headers=kind)
        assert (response.status_code, words in response.text) == (status, True), body


@pytest.mark.slow
def test_bodies_that_are_no_login_form_on_the_whole_server(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Service(small_config(auth=USERS), random_recognizer()), None) as served:
        for kind, body in [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=x", b"garbage"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nb\r\n--x--',
            ),
            ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % number for number in range(20))),
        ]:
            answer = httpx.post(f"{served.url}/login", content=body, headers={"content-type": kind}, timeout=60)
            assert answer.status_code == 400, (kind, answer.text)
            assert "content-security-policy" in answer.headers
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_whoever_is_logged_in_gets_no_form() -> None:
    client = client_with_users()
    assert client.get("/login").status_code == 200
    assert client.head("/login").status_code == 200
    form = {"username": " ada ", "password": "correct horse"}
    assert client.post("/login", data=form, headers={"Accept": "text/html,*/*"}).status_code == 303
    for method in ("GET", "HEAD"):
        response = client.request(method, "/login")
        assert (response.status_code, response.headers["location"]) == (303, "./")
    assert client.get("/v1/models").status_code == 200


def test_a_program_that_logs_in_is_not_led_to_the_page() -> None:
    client = client_with_users()
    answer = client.post("/login", data={"username": "ada", "password": "correct horse"})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert client.get("/v1/models").status_code == 200
    assert client_with_users().post("/login", data={"username": "ada", "password": "wrong"}).status_code == 401


def test_without_users_there_is_no_login() -> None:
    client = guarded_client(AccessGuard(Config(), Rates(None)), "192.0.2.1")
    for method, path in (("GET", "/login"), ("POST", "/login"), ("POST", "/logout")):
        assert client.request(method, path).status_code == 404


def test_the_form_is_in_the_browsers_language() -> None:
    def form(language: str, problem: str = "") -> str:
        asked = {"type": "http", "headers": [(b"accept-language", language.encode())]}
        return bytes(login_page(asked, 401, problem).body).decode()

    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert '<html lang="zh-CN">' in form("zh-TW, en;q=0.5")
    for words in WORDS["zh"].values():
        assert words in form("zh")
    assert f'<p role="alert">{WRONG_IN_CHINESE}</p>' in form("zh", WRONG)
    # A sentence that stays English is marked, so that a screen reader reads it as English.
    assert '<p role="alert" lang="en">Try &lt;later&gt;.</p>' in form("zh", "Try <later>.")
    assert '<html lang="en">' in form("fr")
    assert f'<p role="alert">{WRONG}</p>' in form("en", WRONG)
