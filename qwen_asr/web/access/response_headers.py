"""Security headers on every answer: what a browser may do with it, and where it may be shown.

The policies are those of the W3C: Content Security Policy Level 3, Referrer Policy, Permissions Policy.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from qwen_asr.web.access.route_table import Access, find_rule, route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SPACE_FRAMES = "https://huggingface.co https://*.huggingface.co https://*.hf.space"
"""Where a page on a Hugging Face Space is shown in a frame. Elsewhere it never is."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), display-capture=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DOCUMENT = (
    "default-src 'self'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'{fetched}; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-src 'none'; frame-ancestors {frames}"
)
_OTHER = "default-src 'none'; frame-ancestors {frames}"
# Gradio runs the page's scripts with `Function`. The recorder's worklet comes from a blob.
_PAGE_SCRIPTS = " 'unsafe-eval' blob:"
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_CSP = "Content-Security-Policy"


class SecurityHeaders:
    """ASGI middleware that adds the headers. It must be outside of everything that answers requests.

    `framed`: on a Hugging Face Space. `fetches_blobs`: the page may fetch what it has made itself, as Gradio's recorder
    does with a whole recording. An answer keeps a header that it has already. Gradio's `Access-Control-…`
    headers, which allow other sites to read its answers, are removed.
    """

    def __init__(self, app: ASGIApp, *, framed: bool = False, fetches_blobs: bool = False) -> None:
        self._app = app
        self._fetched = " blob:" if fetches_blobs else ""
        self._frames = SPACE_FRAMES if framed else "'none'"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        compresses = path == "/" and "gzip" in Headers(scope=scope).get("accept-encoding", "")
        if path == "/":  # the inline scripts have to be read
            kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, _Answer(send, path, self._frames, self._fetched, compresses=compresses))


class _Answer:
    """A `send` that adds the headers. It holds back a page until it is complete, for the hashes of its scripts."""

    def __init__(self, send: Send, path: str, frames: str, fetched: str, *, compresses: bool) -> None:
        self._fetched = fetched
        self._send, self._is_page, self._frames, self._compresses = send, path == "/", frames, compresses
        rule = find_rule(path)
        self._keeps_cors = rule is not None and rule.access is Access.API
        self._start: Message | None = None
        self._pieces: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = self._headers(message)
            if headers.get("content-type", "").startswith("text/html") and _CSP not in headers:
                self._start = message
                return
            headers.setdefault(_CSP, _OTHER.format(frames=self._frames))
        elif message["type"] == "http.response.body" and self._start is not None:
            self._pieces.append(message.get("body", b""))
            if message.get("more_body"):
                return
            await self._send_page(self._start, b"".join(self._pieces))
            return
        await self._send(message)

    def _headers(self, message: Message) -> MutableHeaders:
        message.setdefault("headers", [])
        if not self._keeps_cors:
            message["headers"] = [
                (name, value) for name, value in message["headers"] if not name.lower().startswith(b"access-control-")
            ]
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        return headers

    async def _send_page(self, start: Message, body: bytes) -> None:
        headers = MutableHeaders(scope=start)
        scripts, compressed = _prepared(body)
        headers[_CSP] = _DOCUMENT.format(
            scripts=scripts + _PAGE_SCRIPTS * self._is_page, fetched=self._fetched, frames=self._frames
        )
        headers.setdefault("Cache-Control", "no-store")  # it differs for each user, and may set a cookie
        if self._compresses and body:
            body = compressed
            headers["Content-Encoding"] = "gzip"
            headers.add_vary_header("Accept-Encoding")
        if body or "content-length" not in headers:
            headers["Content-Length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


@functools.lru_cache(maxsize=8)
def _prepared(body: bytes) -> tuple[str, bytes]:
    """The hashes of a page's inline scripts for its policy, and the page compressed. It hardly ever changes."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(body)]
    return "".join(f" 'sha256-{text}'" for text in hashes), gzip.compress(body, 6, mtime=0)
