"""The page's login: a form, a signed cookie that ends, and a logout that ends it at once.

The cookie holds the user's name and when they logged in, signed with a random key of this process. So all logins end
when the server restarts. A key that is derived from the passwords would survive it, but whoever has a cookie could then
find weak passwords by trying, with no limit.
"""

from __future__ import annotations

import functools
import hashlib
import html
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from qwen_asr.config.limits import GuardLimits
from qwen_asr.errors import BadInput, LimitExceeded, QwenASRError
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.access.accept_language import preferred_language
from qwen_asr.web.access.cookies import CookieWriter
from qwen_asr.web.access.route_table import LOGOUT, route_path
from qwen_asr.web.bodies import read_body, replayed
from qwen_asr.web.early_answer import Body, answer_early

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("login.html")
WRONG = "The user name or the password is wrong."
WRONG_IN_CHINESE = "用户名或密码错误。"
WORDS = {
    "en": {
        "lang": "en",
        "title": "Qwen3-ASR live",
        "log_in": "Log in",
        "user_name": "User name",
        "password": "Password",
    },
    "zh": {"lang": "zh-CN", "title": "Qwen3-ASR 实时转写", "log_in": "登录", "user_name": "用户名", "password": "密码"},
}
"""What login.html says, by language. The title is that of the page, as in `chinese_settings.js`."""
_MAX_ENDED = 10_000
_RENEW_AFTER = 0.05  # of the idle time: not every answer carries a cookie


@dataclass(frozen=True)
class Login:
    """A login that is valid. `id` is random; `began_at` and `seen_at` are seconds since 1970."""

    user: str
    id: str
    began_at: float
    seen_at: float


class Logins:
    """Issues, checks, renews and ends logins. `users` are the ``USER:PASSWORD`` pairs of the configuration.

    Thread-safe as far as needed: everything runs on the event loop.
    """

    def __init__(
        self,
        users: tuple[str, ...],
        cookies: CookieWriter,
        limits: GuardLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names = {user.partition(":")[0] for user in users}
        self._cookies = cookies
        digest = {"digest_method": hashlib.sha256}
        self._serializer = URLSafeSerializer(secrets.token_bytes(32), salt="login", signer_kwargs=digest)
        self._limits = limits or GuardLimits()
        self._clock = clock
        self._ended: dict[str, float] = {}  # id → when the login would have ended by itself

    def read(self, scope: Scope) -> Login | None:
        """The login of that request; None without a cookie, or with one that is forged, too old or logged out."""
        value = HTTPConnection(scope).cookies.get(self._cookies.name(scope), "")
        if not value:
            return None
        try:
            login = Login(*self._serializer.loads(value))
        except (BadSignature, TypeError):  # not ours, or written by another version
            return None
        return None if self._is_over(login) else login

    def _is_over(self, login: Login) -> bool:
        now = self._clock()
        return (
            login.user not in self._names
            or login.id in self._ended
            or now - login.seen_at > self._limits.login_idle_seconds
            or now - login.began_at > self._limits.login_total_seconds
        )

    def begin(self, scope: Scope, user: str) -> str:
        """The `Set-Cookie` header of a new login."""
        return self._header(scope, user, secrets.token_urlsafe(12), self._clock())

    def renewal(self, scope: Scope, login: Login) -> str | None:
        """The `Set-Cookie` header with which the idle time starts again; None as long as it has hardly begun."""
        if self._clock() - login.seen_at < self._limits.login_idle_seconds * _RENEW_AFTER:
            return None
        return self._header(scope, login.user, login.id, login.began_at)

    def end(self, scope: Scope, login: Login | None) -> str:
        """Ends a login, whoever has a copy of its cookie. Returns the `Set-Cookie` header that removes it."""
        now = self._clock()
        self._ended = {id: until for id, until in self._ended.items() if until > now}
        if login is not None:
            self._ended[login.id] = now + self._limits.login_idle_seconds
        if len(self._ended) > _MAX_ENDED:
            del self._ended[next(iter(self._ended))]  # the one that would end next by itself
        return self._cookies.header(scope, "", 0)

    def _header(self, scope: Scope, user: str, id: str, began_at: float) -> str:
        value = self._serializer.dumps([user, id, began_at, self._clock()])
        return self._cookies.header(scope, str(value), self._limits.login_idle_seconds)


class LoginRoutes:
    """Answers `/login` and `/logout`: an ASGI app. `verify(address, user, password)` raises LimitExceeded."""

    def __init__(self, logins: Logins, verify: Callable[[str, str, str], bool], limits: GuardLimits) -> None:
        self._logins = logins
        self._verify = verify
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        body = Body(receive, self._limits.login_seconds)
        try:
            if route_path(scope) == LOGOUT:
                response = self._log_out(scope)
            elif scope["method"] != "POST":
                response = RedirectResponse("./", 303) if self._logins.read(scope) else login_page(scope, 200)
            else:
                response = await self._log_in(scope, body)
        except ClientDisconnect:
            log.debug("A client left before its login was complete.")
            return
        except QwenASRError as error:
            response = login_page(scope, error.http_status, str(error))
            if isinstance(error, LimitExceeded):
                response.headers["Retry-After"] = str(error.retry_after)
        await answer_early(response, body, scope, receive, send)

    async def _log_in(self, scope: Scope, body: Body) -> Response:
        """303 to the page, with a cookie; or the form again, with 401. A program gets 200, as Gradio's client expects.

        Raises BadInput, TooLarge, TimedOut for a body that is not such a form, LimitExceeded, and ClientDisconnect.
        """
        form = await self._form(scope, body)
        user, password = (form.get(name) for name in ("username", "password"))
        if not isinstance(user, str) or not isinstance(password, str):
            raise BadInput("The login form has no username or no password: send both.")
        user = user.strip()
        if not self._verify(sender(scope), user, password):
            return login_page(scope, 401, WRONG)
        is_browser = "text/html" in Headers(scope=scope).get("accept", "")
        response = RedirectResponse("./", 303) if is_browser else JSONResponse({"success": True})
        response.headers["Set-Cookie"] = self._logins.begin(scope, user)
        return response

    def _log_out(self, scope: Scope) -> Response:
        """Ends the login, and leads to the page, which shows the form."""
        response = RedirectResponse("./", 303)
        response.headers["Set-Cookie"] = self._logins.end(scope, self._logins.read(scope))
        return response

    async def _form(self, scope: Scope, body: Body) -> FormData:
        data = await read_body(scope, body, self._limits.login_bytes, self._limits.login_seconds)
        try:
            return await Request(scope, replayed(data)).form(max_files=0, max_fields=10)
        except (MultiPartException, HTTPException):  # within an app Starlette raises the second
            raise BadInput("The login form cannot be read: send username and password as a form.") from None


def login_page(scope: Scope, status: int, problem: str = "") -> Response:
    """The page with the form, in the language of the browser. `problem` is what was wrong with the last attempt."""
    language = preferred_language(scope)
    shown = WRONG_IN_CHINESE if problem == WRONG and language == "zh" else html.escape(problem)
    spoken = ' lang="en"' if language != "en" and shown != WRONG_IN_CHINESE else ""  # for screen readers
    note = f'<p role="alert"{spoken}>{shown}</p>' if problem else ""
    page = _template().substitute(WORDS[language], problem=note)
    return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})


@functools.cache
def _template() -> Template:
    return Template(PAGE.read_text(encoding="utf-8"))
