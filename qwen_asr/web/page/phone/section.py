"""The page on a phone: how it is installed like an app, and the QR code that leads there from another screen."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.responses import JSONResponse, Response

from qwen_asr.network import is_loopback, split_url
from qwen_asr.tls.addresses import page_urls
from qwen_asr.web.page.bundle import bundle
from qwen_asr.web.page.microphone import BROWSER
from qwen_asr.web.page.phone.icon import icon_png
from qwen_asr.web.qr import network_url, svg_code
from qwen_asr.web.rest.api_route import ApiRoute

if TYPE_CHECKING:
    from fastapi import FastAPI

TITLE = "Qwen3-ASR live"
ICON_SIZES = (48, 180, 192, 512)
"""In pixels: of a browser's tab, of iOS, and the two that Chromium asks for before it offers to install a page."""
LONGEST_ADDRESS = 500
START = "\nmodules.phone.start(element, props, server);\n//# sourceURL=qwen-asr-phone.js\n"
NOT_SECURE = (
    "A phone's browser allows the microphone only over https: start the server with --generate-self-signed-cert."
)
THIS_COMPUTER_ONLY = "This server answers this computer only: start it with --host 0.0.0.0."


def add_routes(app: FastAPI) -> None:
    """Adds `/manifest.json` and `/icons/SIZE.png`. Both are the same for everybody and need no login."""

    async def manifest() -> Response:
        icons = [
            {"src": f"icons/{size}.png", "sizes": f"{size}x{size}", "type": "image/png", "purpose": purpose}
            for size in ICON_SIZES[2:]
            for purpose in ("any", "maskable")
        ]
        content = {
            "name": TITLE,
            "short_name": "Qwen3-ASR",
            "id": "./",
            "start_url": "./",
            "scope": "./",
            "display": "standalone",
            "background_color": "#ffffff",
            "theme_color": "#0f7b5c",
            "icons": icons,
        }
        return JSONResponse(content, media_type="application/manifest+json", headers={"Cache-Control": "no-cache"})

    app.router.routes += [
        ApiRoute("/manifest.json", manifest, include_in_schema=False),
        ApiRoute("/favicon.ico", _icon_endpoint(ICON_SIZES[0]), include_in_schema=False),
        *(ApiRoute(f"/icons/{size}.png", _icon_endpoint(size), include_in_schema=False) for size in ICON_SIZES),
    ]


def _icon_endpoint(size: int) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def icon() -> Response:
        headers = {"Cache-Control": "public, max-age=86400"}
        return Response(icon_png(size), media_type="image/png", headers=headers)

    return icon


def phone_section(host: str) -> gr.HTML:
    """What to scan and to press to have the page on a phone. Call it inside of `gr.Blocks`.

    `host` is the address that the server listens on.
    """

    async def phone_code(data: Any, request: gr.Request) -> dict[str, Any]:
        """The address of this page for a phone, its QR code as SVG, and what else is needed, as a sentence."""
        shown = str((data or {}).get("address", ""))[:LONGEST_ADDRESS]
        port = (request.scope.get("server") or ("", 0))[1]
        return phone_address(shown, host, port)

    return gr.HTML(
        html_template=(BROWSER / "phone" / "phone.html").read_text(encoding="utf-8"),
        js_on_load=bundle(BROWSER / "phone" / "phone.js") + START,
        server_functions=[phone_code],
        apply_default_css=False,
        elem_id="phone",
    )


def phone_address(shown: str, host: str, port: int) -> dict[str, Any]:
    """`address`, `code` (SVG) and `note` for a page that the browser shows at `shown`.

    A page that is open at a name of the computer itself gets its address on the network, which needs a server that
    listens there. Without one there is only a note.
    """
    parts = split_url(shown)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return {"address": "", "code": "", "note": THIS_COMPUTER_ONLY}
    address: str | None = shown
    if is_loopback(parts.hostname):
        address = network_url(page_urls(host, parts.port or port, parts.scheme == "https"))
    if address is None:
        return {"address": "", "code": "", "note": THIS_COMPUTER_ONLY}
    return {"address": address, "code": svg_code(address), "note": "" if parts.scheme == "https" else NOT_SECURE}
