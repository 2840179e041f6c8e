"""Puts the script of the page's settings into the page's head, where it runs before Gradio's own.

Gradio's `head=` comes too late for that: its scripts insert it after they have chosen a language and a theme. The
script is inline, so `SecurityHeaders` allows it by its hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from qwen_asr.web.access.route_table import route_path
from qwen_asr.web.page.bundle import bundle

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = Path(__file__).parent / "browser" / "settings" / "page_settings.js"
START = "\nmodules.page_settings.start();\n//# sourceURL=qwen-asr-settings.js\n"
_HEAD = b"<head>"


class HeadScript:
    """ASGI middleware for the page, whose answer must not be compressed yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        script = "(() => {\n" + bundle(SCRIPT) + START + "})();"
        self._head = _HEAD + b"<script>" + script.replace("</", "<\\/").encode() + b"</script>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app."""
        is_page = scope["type"] == "http" and route_path(scope) == "/"
        await self._app(scope, receive, _Page(send, self._head) if is_page else send)


class _Page:
    """A `send` that holds back an HTML page until it is complete, and sends it with the script."""

    def __init__(self, send: Send, head: bytes) -> None:
        self._send, self._head = send, head
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if MutableHeaders(scope=message).get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            if self._body:  # an answer to HEAD has none
                self._body = self._body.replace(_HEAD, self._head, 1)
                MutableHeaders(scope=self._start)["Content-Length"] = str(len(self._body))
            await self._send(self._start)
            message = {"type": "http.response.body", "body": self._body}
        await self._send(message)
