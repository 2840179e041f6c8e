"""The access guard: ASGI middleware that checks every request before any route sees it.

It knows every path that exists (`route_table`), and checks the Host header, the Origin, the credentials and the rate of
a request before it uses a byte of the body or opens a session. It writes down who sent the request (`identity`), and
answers `/login` and `/logout` itself.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from qwen_asr.config.limits import GuardLimits
from qwen_asr.errors import InvalidApiKey, LimitExceeded, QwenASRError
from qwen_asr.logs import SeldomLog
from qwen_asr.network import is_loopback
from qwen_asr.service.admission import counted
from qwen_asr.service.rate_limit import Rates, sender
from qwen_asr.web.access.client_secrets import PREFIX, ClientSecret, ClientSecrets, set_client_secrets
from qwen_asr.web.access.cookies import CookieWriter
from qwen_asr.web.access.credentials import Secrets, api_keys, basic_users
from qwen_asr.web.access.hosts import AllowedHosts
from qwen_asr.web.access.identity import Visitors, set_identity
from qwen_asr.web.access.login import LoginRoutes, Logins, login_page
from qwen_asr.web.access.origin import AllowedOrigins
from qwen_asr.web.access.route_table import LOGIN, LOGOUT, REALTIME, Access, Rule, find_rule, route_path
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response, status_response, unknown_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from qwen_asr.config.config import Config

log = logging.getLogger(__name__)

_UNLIMITED = "/metrics"  # Prometheus asks regularly, and must not use up the rate of its address
_PREFLIGHT_SECONDS = 600


class AccessGuard:
    """Allows or refuses requests as `config` says.

    `rates` counts the requests of each client and key to the API. `limits` has the rates of wrong credentials and of
    requests of the page.
    """

    def __init__(self, config: Config, rates: Rates, limits: GuardLimits | None = None) -> None:
        limits = limits or GuardLimits()
        self.hosts = AllowedHosts(config)
        self._origins = AllowedOrigins(config.allowed_origins, framed=config.on_space)
        self._cross_origins = config.allowed_origins
        self._keys = Secrets(config.api_key)
        self._client_secrets = ClientSecrets(limits)
        self._users = Secrets(config.auth)
        self._rates = rates
        self._page_rates = Rates(limits.page_requests)
        self._wrong_keys = Rates(limits.wrong_credentials)
        self._logged = SeldomLog()
        self._visitors = Visitors(CookieWriter("qwen_asr_visitor", config.port, framed=config.on_space))
        login_cookie = CookieWriter("qwen_asr_login", config.port, framed=config.on_space)
        self._logins = Logins(config.auth, login_cookie, limits)
        self._login_routes = LoginRoutes(self._logins, self._verify_login, limits)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wraps `app` so that only allowed requests reach it."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            rule = find_rule(route_path(scope))
            try:
                response, cookie = self._check(rule, scope)
            except QwenASRError as error:
                self._log(error, scope)
                response, cookie = self._refusal(error, rule, scope), None
            if response is not None:
                await _send_response(response, scope, receive, send)
            elif route_path(scope) in (LOGIN, LOGOUT):
                await self._login_routes(scope, receive, send)
            else:
                await app(scope, receive, send if cookie is None else _with_cookie(send, cookie))

        return self._with_cors(guarded) if self._cross_origins else guarded

    def _with_cors(self, guarded: ASGIApp) -> ASGIApp:
        """Answers the preflight requests of allowed origins, and lets their pages read the answers of the API.

        Their pages send a key. Cookies do not count for them, so `Access-Control-Allow-Credentials` is left out.
        """
        with_cors = CORSMiddleware(
            guarded,
            allow_origins=self._cross_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
            max_age=_PREFLIGHT_SECONDS,
        )

        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            rule = find_rule(route_path(scope)) if scope["type"] == "http" else None
            await (with_cors if rule is not None and rule.access is Access.API else guarded)(scope, receive, send)

        return choose

    def _check(self, rule: Rule | None, scope: Scope) -> tuple[Response | None, str | None]:
        """The response if the guard answers itself, and a `Set-Cookie` header for the response of the app.

        Raises QwenASRError for a request that is not allowed.
        """
        headers = Headers(scope=scope)
        if rule is not None and rule.access is Access.PROBE:
            return None, None
        self.hosts.check(headers)
        is_http_only = rule is not None and rule.methods is not None and scope["type"] == "websocket"
        if rule is None or is_http_only or (route_path(scope) in (LOGIN, LOGOUT) and not self._users):
            return unknown_path(scope), None
        if rule.methods is not None and scope["method"] not in rule.methods:
            return _wrong_method(rule, scope), None
        is_foreign = self._origins.check(scope, api=rule.access is Access.API)
        if rule.access is Access.API:
            self._check_api(scope, headers, is_foreign)
        elif rule.access is Access.PAGE:
            return self._check_page(scope, headers)
        return None, None

    def _check_api(self, scope: Scope, headers: Headers, is_foreign: bool) -> None:
        """Identifies the sender of a request to the API. Raises InvalidApiKey, LimitExceeded."""
        # What a browser sends by itself counts only for our own pages.
        login = None if is_foreign else self._logins.read(scope)
        visitor = None if is_foreign else self._visitors.read(scope)
        keys, users = api_keys(scope, headers), basic_users(headers)
        secret = self._find_client_secret(scope, keys)
        set_client_secrets(scope, self._client_secrets, secret)
        counted = ""
        if secret is not None:
            counted = secret.owner
        elif login is not None:
            counted = f"user {login.user}"
        elif self._keys or self._users:
            counted = self._authenticate(sender(scope), keys, users)
        set_identity(scope, counted or self._unverified(keys or users, visitor))
        if route_path(scope) != _UNLIMITED:
            self._rates.hit(sender(scope), *([counted] if counted else []))

    def _find_client_secret(self, scope: Scope, keys: list[str]) -> ClientSecret | None:
        """What a client secret in the handshake of a realtime session stands for; None if there is none.

        Raises InvalidApiKey for one that is unknown or has expired, also on a server without keys: the session would
        not have the settings that the secret was made with.
        """
        if scope["type"] != "websocket" or route_path(scope) != REALTIME:
            return None
        given = [key for key in keys if key.startswith(PREFIX) and key not in self._keys]
        if not given:
            return None
        found: list[ClientSecret] = []

        def compare() -> bool:
            found.extend(secret for key in given if (secret := self._client_secrets.find(key)) is not None)
            return bool(found)

        if not self._verify(sender(scope), compare):
            raise InvalidApiKey(
                f"The client secret is unknown or has expired: make a new one with POST {REALTIME}/client_secrets."
            )
        return found[0]

    def _unverified(self, credentials: list[str], visitor: str | None) -> str:
        """The identity on a server without keys. Clients that send a key to every server are told apart by it."""
        if credentials:
            return f"key {self._keys.identifier(credentials[0])}"
        return self._visitor_identity(visitor)

    def _visitor_identity(self, visitor: str | None) -> str:
        return f"visitor {self._keys.identifier(visitor)}" if visitor else ""

    def _check_page(self, scope: Scope, headers: Headers) -> tuple[Response | None, str | None]:
        """As `_check`, for the page. Raises InvalidApiKey, LimitExceeded."""
        if address := counted(sender(scope)):
            self._page_rates.hit(address)
        if self._users:
            login = self._logins.read(scope)
            if login is not None:
                set_identity(scope, f"user {login.user}")
                return None, self._logins.renewal(scope, login)
            if route_path(scope) == "/":
                return login_page(scope, 200), None
            raise InvalidApiKey("You are not logged in, or your login has ended: open the page and log in.")
        visitor = self._visitors.read(scope)
        set_identity(scope, self._visitor_identity(visitor))
        return None, self._visitors.new_header(scope) if visitor is None and route_path(scope) == "/" else None

    def _authenticate(self, address: str, keys: list[str], users: list[str]) -> str:
        """Identifies the key or the user of a request. Raises InvalidApiKey, LimitExceeded."""
        if not keys and not users:
            raise InvalidApiKey(f"The request has no API key: {self._remedy()}.")
        valid: list[str] = []

        def compare() -> bool:
            valid.extend([f"key {self._keys.identifier(key)}" for key in keys if key in self._keys])
            valid.extend([f"user {user.partition(':')[0]}" for user in users if user in self._users])
            return bool(valid)

        if not self._verify(address, compare):
            raise InvalidApiKey(f"The key or password in the request is wrong: {self._remedy()}.")
        return valid[0]

    def _verify_login(self, address: str, user: str, password: str) -> bool:
        return self._verify(address, lambda: f"{user}:{password}" in self._users)

    def _verify(self, address: str, compare: Callable[[], bool]) -> bool:
        """Returns the result of `compare`, and counts a wrong one.

        Raises LimitExceeded, before it compares, if that address sent too many wrong ones.
        """
        try:
            self._wrong_keys.check(address)
        except LimitExceeded as error:
            message = f"Too many wrong keys came from this address: try again in {error.retry_after} seconds."
            raise LimitExceeded(message, error.retry_after) from None
        is_right = compare()
        if not is_right:
            self._wrong_keys.hit(address)
        return is_right

    def _remedy(self) -> str:
        ways = ["send `Authorization: Bearer KEY` with one of the server's API keys"] if self._keys else []
        ways += ["log in as one of the server's users"] if self._users else []
        return ", or ".join(ways)

    def _refusal(self, error: QwenASRError, rule: Rule | None, scope: Scope) -> Response:
        if rule is None or route_path(scope) == "/":
            return PlainTextResponse(f"{error}\n", error.http_status)
        response = error_response(error)
        if rule.access is Access.API and isinstance(error, InvalidApiKey):
            for scheme in ["Bearer"] * bool(self._keys) + ["Basic"] * bool(self._users):
                response.headers.append("WWW-Authenticate", f'{scheme} realm="qwen-asr"')
        return response

    def _log(self, error: QwenASRError, scope: Scope) -> None:
        address = sender(scope) or "an unknown address"
        # Otherwise a client could fill the log.
        message = f"A request from {address} was refused: {type(error).__name__}"
        if self._logged.due(message, time.monotonic()):
            log.info("%s", message)


def access_warnings(config: Config) -> list[str]:
    """What is open to everybody under these options: one sentence each, for the log at the start."""
    if config.auth:
        return []
    if config.api_key:
        return ["The API needs a key, but the page is open to everybody who reaches this address: see --auth."]
    if config.share and not config.on_space:
        return ["Everybody who has the public link can use the server: see --auth and --api-key."]
    if is_loopback(config.host):
        return []
    return ["Everybody who reaches this address can use the server: see --auth and --api-key."]


def _wrong_method(rule: Rule, scope: Scope) -> Response:
    allowed = ", ".join(sorted(rule.methods or ()))
    message = f"{route_path(scope)} does not take {scope['method']} requests, only {allowed}."
    return status_response(405, message, code="method_not_allowed", headers={"Allow": allowed})


def _with_cookie(send: Send, cookie: str) -> Send:
    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("Set-Cookie", cookie)
        await send(message)

    return send_with_cookie


async def _send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
        return
    try:
        await answer_early(response, Body(receive), scope, receive, send)
    except ClientDisconnect:
        log.debug("A refused client left before it got its response.")
