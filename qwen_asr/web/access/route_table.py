"""What there is on this server: every path that is answered, by which methods, and what the guard checks for it.

A path that is not here does not exist. That matters for Gradio: it has some sixty routes, of which the page needs nine.
They were found by logging what Chromium asks for while the browser tests run; a test keeps the list complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


class Access(Enum):
    """What the guard checks for a route."""

    PROBE = "nothing: probes send neither keys nor host names"
    OPEN = "Host and Origin"
    PAGE = "Host, Origin, the rate of the page's requests, and a login where the server has users"
    API = "Host, Origin or an allowed one, the rate limit, and a key or login where the server has some"


@dataclass(frozen=True)
class Rule:
    """One pattern of paths. `methods` are those of HTTP; None for routes that answer for themselves."""

    pattern: re.Pattern[str]
    access: Access
    methods: frozenset[str] | None


def _rule(pattern: str, access: Access, *methods: str) -> Rule:
    return Rule(re.compile(pattern, re.ASCII), access, frozenset(methods) or None)


_FILE = r"[\w.-]+"
_ID = r"[\w-]{1,64}"
LOGIN, LOGOUT = "/login", "/logout"
REALTIME, DASHSCOPE_REALTIME = "/v1/realtime", "/api-ws/v1/realtime"
ASR, LISTEN = "/ws/asr", "/v1/listen"
SOCKETS = (ASR, REALTIME, DASHSCOPE_REALTIME, LISTEN)
"""The paths of WebSockets."""
GRADIO = "/gradio_api"
GRADIO_CLIENT = "/gradio_client"
"""For programs: `page.transcribe_endpoint`. Nothing of the page's own API is open to them."""
STREAM = re.compile(rf"{GRADIO}/stream/{_ID}", re.ASCII)
JOIN, DATA, SERVER_FUNCTION, UPLOAD = (
    f"{GRADIO}/queue/join",
    f"{GRADIO}/queue/data",
    f"{GRADIO}/component_server/",
    f"{GRADIO}/upload",
)

RULES = (
    _rule(r"/(healthz|readyz)", Access.PROBE),
    _rule(r"/(v1|ws)/.*", Access.API),
    _rule(DASHSCOPE_REALTIME, Access.API),
    _rule(r"/metrics", Access.API),
    _rule(rf"/config|{GRADIO_CLIENT}/(info|upload|queue/join|queue/data)", Access.API),
    _rule(r"/(openapi\.json|trust|ca\.pem)", Access.OPEN),
    _rule(LOGIN, Access.OPEN, "GET", "HEAD", "POST"),
    _rule(LOGOUT, Access.OPEN, "POST"),
    _rule(r"/icons/\d{1,3}\.png", Access.OPEN, "GET", "HEAD"),
    # Gradio's own files, the same for everybody.
    _rule(r"/(theme\.css|favicon\.ico|manifest\.json|robots\.txt)", Access.OPEN, "GET", "HEAD"),
    _rule(rf"/(assets|static)(/{_FILE})+", Access.OPEN, "GET", "HEAD"),
    # The page: the document, the microphone, and what the simple recorder needs.
    _rule(r"/", Access.PAGE, "GET", "HEAD"),
    _rule(SERVER_FUNCTION, Access.PAGE, "POST"),
    _rule(JOIN, Access.PAGE, "POST"),
    _rule(DATA, Access.PAGE, "GET"),
    _rule(UPLOAD, Access.PAGE, "POST"),
    _rule(rf"{STREAM.pattern}(/close)?", Access.PAGE, "POST"),
)


def route_path(scope: Scope) -> str:
    """The path of a request without the public prefix of `--root-path`, as the table has it."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def find_rule(path: str) -> Rule | None:
    """The rule for a path without the public prefix; None if there is nothing at that path."""
    if ".." in path:
        return None
    return next((rule for rule in RULES if rule.pattern.fullmatch(path)), None)
