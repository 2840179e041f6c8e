"""Through a public link: the page, its login, the sockets and the limits, as somebody on the internet has them.

The server runs in a process of its own with `--share`, behind a stand-in for Gradio's share service that really tunnels
(`tests/support/share_server.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus

from tests.support.browser import MARKS, Tab, page_config
from tests.support.certificates import Issuer
from tests.support.checkpoints import spoken
from tests.support.processes import ServerProcess, until
from tests.support.rest_client import SENTENCES
from tests.support.share_server import install_frpc, share_server, visit
from tests.support.sockets import Client, client

pytestmark = [*MARKS, pytest.mark.slow]

USER, PASSWORD = "ada", "correct-horse"
Answer = TypeVar("Answer")
ANNE, BOB = "198.51.100.1", "198.51.100.2"  # two visitors


@dataclass(frozen=True)
class Shared:
    """A server with a public link."""

    link: str
    local: str
    root: Path

    def visit(self, path: str = "/", visitor: str = ANNE, **options: Any) -> httpx.Response:
        """What a visitor gets."""
        headers = {"X-Test-Visitor": visitor, **options.pop("headers", {})}
        return visit(self.link, self.root, path, headers=headers, **options)

    @contextlib.asynccontextmanager
    async def socket(self, visitor: str = ANNE, **headers: str) -> AsyncIterator[Client]:
        """A visitor's `/ws/asr`."""
        host = urlsplit(self.link).netloc
        trust = ssl.create_default_context(cafile=str(self.root))
        async with client(
            f"wss://{host}/ws/asr",
            trust,
            host="127.0.0.1",
            port=urlsplit(self.link).port,
            additional_headers={"X-Test-Visitor": visitor, **headers},
            proxy=None,
        ) as speaker:
            yield speaker


@contextlib.contextmanager
def shared(folder: Path, repository: Path, *options: str) -> Iterator[Shared]:
    """A server with the demo checkpoint and these options, behind a link."""
    issuer = Issuer()
    root = folder / "root.pem"
    root.write_bytes(issuer.root_pem)
    certificate = (*issuer.issue("localhost", "*.share.localhost", "127.0.0.1").write(folder), root)
    install_frpc(folder)
    with share_server(certificate) as service, contextlib.ExitStack() as stack:
        to_stand_in = (
            "from qwen_asr.web.page.gradio_import import import_gradio\nimport_gradio()\n"
            f"from gradio import networking\nnetworking.GRADIO_API_SERVER = {service.server.api!r}\n"
        )
        server = ServerProcess(
            folder, repository, "--asr-model-path", "demo", "--port", "0", "--share", *options,
            first=to_stand_in, HF_HOME=str(folder),
        )  # fmt: skip
        stack.callback(server.kill)
        local = server.line_with("http://localhost")
        link = server.line_with("The public link: ").removeprefix("The public link: ")
        served = Shared(link, local, root)
        assert until(lambda: served.visit("/readyz").status_code == 200)
        yield served
        code, said = server.end(15)
        assert code == 0, said
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Shared]:
    """A server that asks for a login, and answers under one name of its own."""
    options = ("--auth", f"{USER}:{PASSWORD}", "--allowed-hosts", "speech.example.com")
    with shared(tmp_path_factory.mktemp("closed"), repository, *options) as served:
        yield served


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Shared]:
    """A server that is open to everybody, with low limits."""
    options = ["--max-sessions", "4", "--max-sessions-per-address", "1", "--max-queue", "0", "--rate-limit", "4/hour"]
    with shared(tmp_path_factory.mktemp("limited"), repository, *options) as served:
        yield served


def basic() -> dict[str, str]:
    """The header of a program that logs in."""
    return {"Authorization": httpx.BasicAuth(USER, PASSWORD)._auth_header}


def test_a_visitor_logs_in_and_records(closed: Shared, chromium: Browser) -> None:
    context = chromium.new_context(ignore_https_errors=True)
    login = context.new_page()
    login.goto(closed.link)
    login.locator("[name=username]").fill(USER)
    login.locator("[name=password]").fill(PASSWORD)
    login.keyboard.press("Enter")
    login.locator("#status", has_text="Ready").wait_for()
    with Tab(chromium, closed.link, inside=context) as tab:
        tab.record()
        # Text appears during the recording. test_words.py checks which.
        expect(tab.page.locator("#transcript .words").first).to_contain_text(re.compile(r"[A-Z][a-z]+ [a-z]+"))
        tab.stop()
        proof = tab.proof()
        assert proof["sha256"] == proof["serverSha256"]
        assert tab.page.evaluate("window.gradio_config.root") == closed.link
        assert tab.page.evaluate("isSecureContext && location.protocol") == "https:"
        own = (f"{closed.link}/", "blob:https://", "data:")
        assert [url for url in tab.requests if not url.startswith(own)] == []
        assert tab.problems == tab.console_errors == []


def test_without_the_login_there_is_nothing(closed: Shared) -> None:
    page = closed.visit()
    assert 'name="password"' in page.text
    assert "gradio_config" not in page.text
    assert closed.visit("/gradio_api/queue/join", method="POST", json={}).status_code == 401
    assert closed.visit("/v1/models").status_code == 401

    async def speak() -> None:
        with pytest.raises(InvalidStatus, match="401"):
            async with closed.socket():
                pass

    run(speak())


def test_the_login_of_the_link_is_a_cookie_for_https_only(closed: Shared) -> None:
    form = {"username": USER, "password": PASSWORD}
    origin = {"Origin": closed.link, "Accept": "text/html"}
    answer = closed.visit("/login", method="POST", data=form, headers=origin)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-qwen_asr_login_")
    assert "; Secure;" in cookie
    inside = closed.visit(headers={"Cookie": cookie.partition(";")[0]})
    assert page_config(inside.text)["root"] == closed.link
    elsewhere = closed.visit("/login", method="POST", data=form, headers={"Origin": "https://evil.example"})
    assert elsewhere.status_code == 403


def test_the_socket_works_and_other_sites_may_not_use_it(closed: Shared) -> None:
    async def speak() -> str:
        with pytest.raises(InvalidStatus, match="403"):
            async with closed.socket(**basic(), Origin="https://evil.example"):
                pass
        async with closed.socket(**basic(), Origin=closed.link) as speaker:
            await speaker.config()
            await speaker.audio(spoken(SENTENCES[0]))
            assert await speaker.finalize() == 1000
            return " ".join(final["text"] for final in speaker.of_type("final")).strip()

    assert run(speak()) == SENTENCES[0]


def test_the_name_of_the_link_is_allowed_and_no_other(closed: Shared) -> None:
    def status(host: str) -> int:
        return httpx.get(f"{closed.local}/", headers={"Host": host}, timeout=60).status_code

    assert status(urlsplit(closed.link).netloc) == 200
    assert status("speech.example.com") == 200
    assert status("other.share.localhost") == 421
    assert closed.visit(headers={"X-Forwarded-Host": "evil.example"}).status_code == 421


def test_wrong_passwords_are_counted_for_each_visitor(closed: Shared) -> None:
    wrong = {"Authorization": httpx.BasicAuth(USER, "battery")._auth_header}

    def status(visitor: str) -> int:
        return closed.visit("/v1/models", visitor, headers=wrong).status_code

    statuses = [status("198.51.100.7") for _ in range(30)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert status("198.51.100.8") == 401
    # Nobody gets rid of the limit, or puts it on somebody else, by what they send themselves.
    spoofed = {**wrong, "X-Forwarded-For": "198.51.100.9"}
    assert closed.visit("/v1/models", "198.51.100.7", headers=spoofed).status_code == 429


def test_sessions_are_counted_for_each_visitor(limited: Shared) -> None:
    async def speak() -> list[str]:
        said = []
        async with limited.socket(ANNE) as first, limited.socket(BOB) as other:
            await first.config()
            await other.config()
            async with limited.socket(ANNE) as second:
                await second.send({"type": "config"})
                await second.closed()
                said += [message["code"] for message in second.of_type("error")]
        return said

    assert run(speak()) == ["LimitExceeded"]


def test_requests_are_counted_for_each_visitor(limited: Shared) -> None:
    def status(visitor: str) -> int:
        return limited.visit("/v1/models", visitor).status_code

    assert [status("198.51.100.3") for _ in range(6)] == [200] * 4 + [429] * 2
    assert status("198.51.100.4") == 200


def run(doing: Coroutine[Any, Any, Answer]) -> Answer:
    """Runs a coroutine in another thread: Playwright runs an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, doing).result()
