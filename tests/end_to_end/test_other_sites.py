"""Web pages of other sites in a browser whose user is logged in: they get nothing, unless their origin is allowed.

The sites are host names that Chromium resolves to loopback: one beside the server's own name, as another server in the
same domain would be, and one of a domain of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_asr.service.service import Service
from qwen_asr.tls.reloading import ReloadingCertificate
from qwen_asr.tls.self_signed import ensure_self_signed
from tests.support.browser import MARKS, TIMEOUT_MS, Served, serving, small_config, start_chromium, write_wav
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.https import https_server

pytestmark = [*MARKS, pytest.mark.slow]

NAME, SIBLING, STRANGER, APP = "asr.example.test", "evil.example.test", "evil.test", "app.test"
USER, PASSWORD, KEY = "ada", "correct horse", "a-right-key"

# Each function runs in a page of another site; `url` is the server's.
ASK = """async ([url, path, options]) => {
  try {
    const answer = await fetch(url + path, options);
    return {type: answer.type, status: answer.status, text: await answer.text()};
  } catch (error) { return {error: String(error)}; }
}"""
LOAD = """([url, path, tag]) => new Promise((resolve) => {
  const element = document.createElement(tag);
  element.onload = () => resolve("loaded");
  element.onerror = () => resolve("failed");
  element[tag === "link" ? "href" : "src"] = url + path;
  if (tag === "link") element.rel = "stylesheet";
  document.body.append(element);
})"""
CONNECT = """([url, path]) => new Promise((resolve) => {
  const socket = new WebSocket(url.replace("https", "wss") + path);
  socket.onopen = () => { socket.close(); resolve("open"); };
  socket.onerror = () => resolve("failed");
})"""
SUBMIT = """([url, path]) => {
  const form = Object.assign(document.createElement("form"), {method: "post", action: url + path});
  document.body.append(form);
  form.submit();
}"""


class StatusLog:
    """ASGI middleware that notes the status of every answer, which a browser hides from the pages of other sites."""

    statuses: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append((scope["path"], message["status"]))
            await send(message)

        await self._app(scope, receive, noting if scope["type"] == "http" else send)


@pytest.fixture(scope="module")
def others(certificates: Path) -> Iterator[int]:
    """The port of a server for the pages of the other sites: Chromium keeps pages of the internet from loopback."""
    files = ensure_self_signed(certificates)
    app = FastAPI()
    app.get("/", response_class=HTMLResponse)(lambda: "<!doctype html><title>other</title><body></body>")
    with https_server(ReloadingCertificate(files.certfile, files.keyfile), app) as port:
        yield port


@pytest.fixture(scope="module")
def served(certificates: Path, others: int) -> Iterator[Served]:
    config = small_config(
        auth=(f"{USER}:{PASSWORD}",),
        api_key=(KEY,),
        allowed_hosts=(NAME,),
        allowed_origins=(f"https://{APP}:{others}",),
    )
    with serving(Service(config, demo_recognizer()), certificates, StatusLog) as server:
        yield server


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    sound = write_wav(tmp_path_factory.mktemp("sound") / "a.wav", spoken("Turn on the kitchen light."), 16_000)
    with start_chromium(playwright, sound, flags=["--host-resolver-rules=MAP *.test 127.0.0.1"]) as chromium:
        yield chromium


@pytest.fixture
def url(served: Served) -> str:
    return served.url.replace("localhost", NAME)


@pytest.fixture
def context(browser: Browser, url: str) -> Iterator[BrowserContext]:
    """A browser whose user is logged in."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    page.get_by_label("User name").fill(USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#status")).to_have_text("Ready")
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext, others: int) -> Callable[[str], Page]:
    """Opens a page of another site, by its host name."""

    def open_page(host: str) -> Page:
        page = context.new_page()
        page.goto(f"https://{host}:{others}/")
        return page

    return open_page


def still_logged_in(context: BrowserContext) -> None:
    own = context.pages[0]
    own.reload()
    expect(own.locator("#status")).to_have_text("Ready")


PATHS = ["/", "/gradio_api/token", "/gradio_api/user", "/gradio_api/info", "/config", "/v1/models", "/theme.css"]


@pytest.mark.parametrize("host", [SIBLING, STRANGER])
def test_another_site_reads_nothing(context: BrowserContext, visit: Callable[[str], Page], url: str, host: str) -> None:
    page = visit(host)
    json = {"method": "POST", "headers": {"content-type": "application/json"}, "body": "{}"}
    for options in ({"credentials": "include"}, {}, json, json | {"credentials": "include"}):
        for path in (*PATHS, "/gradio_api/queue/join", "/gradio_api/component_server/"):
            assert "error" in page.evaluate(ASK, [url, path, options]), (path, options)
    # Requests without CORS are sent all the same, with their answers hidden from the page: nothing must happen.
    StatusLog.statuses.clear()
    paths = ("/gradio_api/upload", "/gradio_api/component_server/", "/gradio_api/cancel", "/login", "/logout")
    for path in paths:
        plain = {"method": "POST", "mode": "no-cors", "credentials": "include", "body": "{}"}
        page.evaluate(ASK, [url, path, plain])
    assert StatusLog.statuses == [(path, 404 if path.endswith("cancel") else 403) for path in paths]
    for path, tag in (("/theme.css", "link"), ("/favicon.ico", "img"), ("/assets/x", "script")):
        assert page.evaluate(LOAD, [url, path, tag]) == "failed"
    for path in ("/ws/asr", "/v1/realtime", f"/ws/asr?api_key={KEY}"):
        assert page.evaluate(CONNECT, [url, path]) == "failed"
    still_logged_in(context)


@pytest.mark.parametrize("host", [SIBLING, STRANGER])
def test_another_site_logs_nobody_out(
    context: BrowserContext, visit: Callable[[str], Page], url: str, host: str
) -> None:
    page = visit(host)
    with page.expect_navigation() as navigation:
        page.evaluate(SUBMIT, [url, "/logout"])
    assert navigation.value is not None
    assert navigation.value.status == 403
    followed = page.goto(f"{url}/logout")
    assert followed is not None
    assert followed.status == 405
    still_logged_in(context)


def test_another_site_shows_no_frame_of_the_page(visit: Callable[[str], Page], url: str) -> None:
    page = visit(SIBLING)
    page.evaluate(LOAD, [url, "/", "iframe"])
    [frame] = page.frames[1:]
    assert frame.url.startswith("chrome-error://") or "gradio" not in frame.content()


def test_a_link_leads_to_the_page(visit: Callable[[str], Page], url: str) -> None:
    page = visit(STRANGER)
    page.evaluate("(url) => { location.href = url; }", url)
    expect(page.locator("#status")).to_have_text("Ready")  # and the user is still known


def test_scripts_cannot_read_the_cookies(context: BrowserContext) -> None:
    assert context.pages[0].evaluate("document.cookie") == ""
    [login] = [cookie for cookie in context.cookies() if "login" in cookie.get("name", "")]
    assert login.get("name", "").startswith("__Host-")
    assert (login.get("httpOnly"), login.get("secure"), login.get("sameSite")) == (True, True, "Lax")


def test_an_allowed_origin_uses_the_api_with_its_key(visit: Callable[[str], Page], url: str) -> None:
    page = visit(APP)

    def ask(path: str, **options: Any) -> dict[str, Any]:
        return dict(page.evaluate(ASK, [url, path, options]))

    for name, value in (("Authorization", f"Bearer {KEY}"), ("X-API-Key", KEY), ("api-key", KEY)):
        answer = ask("/v1/models", headers={name: value})
        assert (answer["type"], answer["status"]) == ("cors", 200)
        assert '"object":"list"' in answer["text"]
    # The login of this browser's user is not the app's: it needs a key, and can read what is wrong.
    for options in ({}, {"headers": {"Authorization": "Bearer wrong"}}):
        answer = ask("/v1/models", **options)
        assert (answer["status"], "invalid_api_key" in answer["text"]) == (401, True)
    assert "error" in ask("/v1/models", credentials="include", headers={"Authorization": f"Bearer {KEY}"})
    for path in ("/", "/gradio_api/queue/join", "/theme.css"):
        assert "error" in ask(path, headers={"Authorization": f"Bearer {KEY}"})
    assert page.evaluate(CONNECT, [url, f"/ws/asr?api_key={KEY}"]) == "open"
    assert page.evaluate(CONNECT, [url, "/ws/asr"]) == "failed"


def test_a_user_logs_out_and_in_while_recording(context: BrowserContext, url: str) -> None:
    own = context.pages[0]
    own.get_by_role("button", name="Record", exact=True).click()
    expect(own.locator("#status")).to_have_text("Listening")
    other = context.new_page()
    other.goto(url)
    other.get_by_role("button", name="Log out").click()
    expect(own.locator("#status")).to_contain_text("Your login has ended")
    other.get_by_label("User name").fill(USER)
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Log in").click()
    expect(own.locator("#status")).to_have_text("Listening")
    own.get_by_role("button", name="Stop", exact=True).click()
    expect(own.locator("#transcript")).to_contain_text("Turn on the kitchen light.")
