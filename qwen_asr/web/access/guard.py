"""The access guard: ASGI middleware that checks every request before any route sees it.

It checks the Host header of every request, and the Origin, the credentials and the rate of requests to the API
(`GUARDED`), before it uses a byte of the body or opens a session. The page has Gradio's own login, which calls
`AccessGuard.login`. `/healthz` and `/readyz` are open: probes send neither keys nor host names.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from qwen_asr.config.limits import RETRY_AFTER_SECONDS, GuardLimits
from qwen_asr.errors import InvalidApiKey, LimitExceeded, QwenASRError
from qwen_asr.network import is_loopback
from qwen_asr.service.rate_limit import Rates, sender
from qwen_asr.web.access.credentials import Secrets, api_keys, basic_users
from qwen_asr.web.access.hosts import AllowedHosts
from qwen_asr.web.access.origin import check_origin
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from qwen_asr.config.config import Config

log = logging.getLogger(__name__)

GUARDED = ("/v1/", "/ws/", "/metrics")
"""Prefixes of the paths that programs use."""
PROBES = ("/healthz", "/readyz")
_UNLIMITED = "/metrics"  # Prometheus asks regularly, and must not use up the rate of its address
_client: contextvars.ContextVar[str] = contextvars.ContextVar("client", default="")


class AccessGuard:
    """Allows or refuses requests as `config` says.

    `rates` counts the requests of each client and key; `wrong_keys` is the rate limit for wrong credentials, such as
    `20/minute`.
    """

    def __init__(self, config: Config, rates: Rates, wrong_keys: str = GuardLimits.wrong_credentials) -> None:
        self._hosts = AllowedHosts(config)
        self._keys = Secrets(config.api_key)
        self._users = Secrets(config.auth)
        self._rates = rates
        self._wrong_keys = Rates(wrong_keys)
        self._page: Any = None

    @property
    def page_login(self) -> Callable[[str, str], bool] | None:
        """Gradio's `auth` argument: checks a user and password. None if the page needs no login."""
        return self.login if self._users else None

    def attach_page(self, page: Any) -> None:
        """Also accepts the login cookies of `page`, the mounted Gradio app, for the API."""
        self._page = page

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wraps `app` so that only allowed requests reach it."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            _client.set(sender(scope))
            try:
                self.check(scope)
            except QwenASRError as error:
                # A client over its limit would otherwise fill the log.
                level = logging.DEBUG if isinstance(error, LimitExceeded) else logging.INFO
                log.log(
                    level,
                    "A request from %s was refused: %s",
                    sender(scope) or "an unknown address",
                    type(error).__name__,
                )
                await _send_response(self._response(error, scope), scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded

    def check(self, scope: Scope) -> None:
        """Raises WrongHost, Forbidden, InvalidApiKey or LimitExceeded for a request that is not allowed."""
        headers, path = Headers(scope=scope), _path(scope)
        if path in PROBES:
            return
        self._hosts.check(headers)
        if not path.startswith(GUARDED):
            return
        check_origin(headers)
        identifier = self._authenticate(scope, headers)
        if path != _UNLIMITED:
            self._rates.hit(sender(scope), *([identifier] if identifier else []))

    def login(self, user: str, password: str) -> bool:
        """Checks the page's login. Raises HTTPException 429 if the client's address sent too many wrong ones."""
        try:
            return self._verify(_client.get(), lambda: f"{user}:{password}" in self._users)
        except LimitExceeded as error:
            headers = {"Retry-After": str(error.retry_after or RETRY_AFTER_SECONDS)}
            raise HTTPException(error.http_status, str(error), headers) from None

    def _authenticate(self, scope: Scope, headers: Headers) -> str:
        """Identifies the key or user of a request; empty if none is required.

        Raises InvalidApiKey, LimitExceeded.
        """
        if not (self._keys or self._users):
            return ""
        if user := self._page_user(scope):
            return f"user {user}"
        keys, users = api_keys(scope, headers), basic_users(headers)
        if not keys and not users:
            raise InvalidApiKey(f"The request has no API key: {self._remedy()}.")
        valid: list[str] = []

        def compare() -> bool:
            valid.extend([self._keys.identifier(key) for key in keys if key in self._keys])
            valid.extend([self._users.identifier(user) for user in users if user in self._users])
            return bool(valid)

        if not self._verify(sender(scope), compare):
            raise InvalidApiKey(f"The key or password in the request is wrong: {self._remedy()}.")
        return valid[0]

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

    def _page_user(self, scope: Scope) -> str | None:
        """The user of the page's login cookie. Gradio has one cookie for HTTPS and one for HTTP."""
        if self._page is None or not self._users:
            return None
        cookies, page = HTTPConnection(scope).cookies, self._page
        names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
        tokens = [cookies[name] for name in names if name in cookies]
        return next((str(page.tokens[token]) for token in tokens if token in page.tokens), None)

    def _response(self, error: QwenASRError, scope: Scope) -> Response:
        if not _path(scope).startswith(GUARDED):
            return PlainTextResponse(f"{error}\n", error.http_status)
        response = error_response(error)
        if isinstance(error, InvalidApiKey):
            for scheme in ["Bearer"] * bool(self._keys) + ["Basic"] * bool(self._users):
                response.headers.append("WWW-Authenticate", f'{scheme} realm="qwen-asr"')
        return response


def access_warnings(config: Config) -> list[str]:
    """What is open to everybody under these options: one sentence each, for the log at the start."""
    if config.auth:
        return []
    if config.api_key:
        return ["The API needs a key, but the page is open to everybody who reaches this address: see --auth."]
    if is_loopback(config.host):
        return []
    return ["Everybody who reaches this address can use the server: see --auth and --api-key."]


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


async def _send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
        return
    try:
        await answer_early(response, Body(receive), scope, receive, send)
    except ClientDisconnect:
        log.debug("A refused client left before it got its response.")
