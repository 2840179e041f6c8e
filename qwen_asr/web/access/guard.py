"""The door: which requests come in at all. An ASGI middleware, so that what stands behind it needs to know nothing.

In this order, all of it before a byte of a body is used and before a session is opened: the Host, for every request;
the Origin, the credentials and the rate, for what programs use (`GUARDED`). The page has Gradio's own login, which asks
`AccessGuard.login`. `/healthz` and `/readyz` are open to everybody: probes know neither keys nor names.
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

from qwen_asr.config.limits import RETRY_AFTER_SECONDS, WRONG_KEYS
from qwen_asr.errors import InvalidApiKey, LimitExceeded, QwenASRError
from qwen_asr.network import is_loopback
from qwen_asr.service.rate_limit import Rates, sender
from qwen_asr.web.access.credentials import Secrets, given_keys, given_users
from qwen_asr.web.access.hosts import Hosts
from qwen_asr.web.access.origin import check_origin
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from qwen_asr.config.config import Config

log = logging.getLogger(__name__)

GUARDED = ("/v1/", "/ws/", "/metrics")
PROBES = ("/healthz", "/readyz")
_UNCOUNTED = "/metrics"
_SENDER: contextvars.ContextVar[str] = contextvars.ContextVar("sender", default="")


class AccessGuard:
    """Who may come in, as `config` says. `rates` counts requests, `wrong_keys` is the rate of wrong guesses."""

    def __init__(self, config: Config, rates: Rates, wrong_keys: str = WRONG_KEYS) -> None:
        self._hosts = Hosts(config)
        self._keys = Secrets(config.api_key)
        self._users = Secrets(config.auth)
        self._rates = rates
        self._wrong = Rates(wrong_keys)
        self._page: Any = None

    @property
    def page_login(self) -> Callable[[str, str], bool] | None:
        """What Gradio asks whether somebody may see the page; None where everybody may."""
        return self.login if self._users else None

    def knows(self, page: Any) -> None:
        """`page` is the mounted Gradio app: who has logged in there comes in here by the same cookie."""
        self._page = page

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app` behind this door."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            _SENDER.set(sender(scope))
            try:
                self.check(scope)
            except QwenASRError as refusal:
                # Who comes too often would fill the log as well.
                level = logging.DEBUG if isinstance(refusal, LimitExceeded) else logging.INFO
                log.log(level, "%s was refused: %s", sender(scope) or "somebody", type(refusal).__name__)
                await _answer(self._response(refusal, scope), scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded

    def check(self, scope: Scope) -> None:
        """Raises WrongHost, Forbidden, InvalidApiKey or LimitExceeded for a request that may not come in."""
        headers, path = Headers(scope=scope), _path(scope)
        if path in PROBES:
            return
        self._hosts.check(headers)
        if not path.startswith(GUARDED):
            return
        check_origin(headers)
        name = self._who(scope, headers)
        if path != _UNCOUNTED:
            self._rates.hit(sender(scope), *([name] if name else []))

    def login(self, user: str, password: str) -> bool:
        """Whether the page's login is right. Raises HTTPException where its address has tried too many wrong ones."""
        try:
            return self._is_right(_SENDER.get(), lambda: f"{user}:{password}" in self._users)
        except LimitExceeded as error:
            headers = {"Retry-After": str(error.retry_after or RETRY_AFTER_SECONDS)}
            raise HTTPException(error.http_status, str(error), headers) from None

    def _who(self, scope: Scope, headers: Headers) -> str:
        """A name for the key or user, empty where none is needed. Raises InvalidApiKey, LimitExceeded."""
        if not (self._keys or self._users):
            return ""
        if user := self._logged_in(scope):
            return f"user {user}"
        keys, users = given_keys(scope, headers), given_users(headers)
        if not keys and not users:
            raise InvalidApiKey(f"No API key came with the request: {self._expected()}.")
        right: list[str] = []

        def compare() -> bool:
            right.extend([self._keys.name(key) for key in keys if key in self._keys])
            right.extend([self._users.name(user) for user in users if user in self._users])
            return bool(right)

        if not self._is_right(sender(scope), compare):
            raise InvalidApiKey(f"The key or password that came with the request is wrong: {self._expected()}.")
        return right[0]

    def _is_right(self, address: str, compare: Callable[[], bool]) -> bool:
        """What `compare` says; a wrong one counts. Raises LimitExceeded, before it compares, for too many of them."""
        try:
            self._wrong.check(address)
        except LimitExceeded as error:
            said = f"Too many wrong keys came from this address: try again in {error.retry_after} seconds."
            raise LimitExceeded(said, error.retry_after) from None
        is_right = compare()
        if not is_right:
            self._wrong.hit(address)
        return is_right

    def _expected(self) -> str:
        ways = ["send `Authorization: Bearer KEY` with a key that the server was given"] if self._keys else []
        ways += ["log in with a user that it was given"] if self._users else []
        return ", or ".join(ways)

    def _logged_in(self, scope: Scope) -> str | None:
        """Who has logged in at the page; Gradio keeps that under one of two cookies, by scheme."""
        if self._page is None or not self._users:
            return None
        cookies, page = HTTPConnection(scope).cookies, self._page
        names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
        tokens = [cookies[name] for name in names if name in cookies]
        return next((str(page.tokens[token]) for token in tokens if token in page.tokens), None)

    def _response(self, refusal: QwenASRError, scope: Scope) -> Response:
        if not _path(scope).startswith(GUARDED):
            return PlainTextResponse(f"{refusal}\n", refusal.http_status)
        response = error_response(refusal)
        if isinstance(refusal, InvalidApiKey):
            for scheme in ["Bearer"] * bool(self._keys) + ["Basic"] * bool(self._users):
                response.headers.append("WWW-Authenticate", f'{scheme} realm="qwen-asr"')
        return response


def access_warnings(config: Config) -> list[str]:
    """What whoever starts the server should know about who may come in; a sentence each."""
    said = []
    if not is_loopback(config.host) and not (config.auth or config.api_key):
        said.append("Whoever reaches this address may use the server: see --auth and --api-key.")
    if config.api_key and not config.auth:
        said.append("The API keys are for programs; the page is open to whoever reaches this address: see --auth.")
    return said


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
        return
    try:
        await answer_early(response, Body(receive), scope, receive, send)
    except ClientDisconnect:
        log.debug("A refused client left before its answer.")
