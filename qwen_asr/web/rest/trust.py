"""`/ca.pem` and `/trust`: how a phone or another computer comes to trust the private authority of `--local-ca`.

What is served is the root's certificate as it was when the server started, from memory: no file name ever comes from a
request, so nothing else in that folder, the key least of all, can be asked for.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from qwen_asr.tls.addresses import page_urls
from qwen_asr.tls.managed_files import CertificateFiles
from qwen_asr.web.qr import network_url, svg_code

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGE = Path(__file__).with_name("trust.html")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


def add_routes(app: FastAPI, root: CertificateFiles, host: str) -> None:
    """Adds both routes for the authority `root`; `host` is what the server listens on."""
    pem = root.certfile.read_bytes()
    template = Template(PAGE.read_text(encoding="utf-8"))

    async def certificate() -> Response:
        headers = {**HEADERS, "Content-Disposition": 'inline; filename="qwen-asr-local-ca.crt"'}
        # The type at which phones offer to install it, instead of showing it.
        return Response(pem, media_type="application/x-x509-ca-cert", headers=headers)

    async def page(request: Request) -> Response:
        # The port of the socket, not of the Host header, which anybody may make up.
        port = (request.scope.get("server") or ("", 0))[1]
        return HTMLResponse(trust_page(template, root.fingerprint, page_urls(host, port or 443, True)), headers=HEADERS)

    app.add_api_route("/ca.pem", certificate, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/trust", page, methods=["GET", "HEAD"], include_in_schema=False)


def trust_page(template: Template, fingerprint: str, urls: Sequence[str]) -> str:
    """The page, with the authority's fingerprint and the code of its address on the network."""
    address = network_url(urls) or urls[0]
    trust = address + "/trust"
    return template.substitute(
        fingerprint="<wbr>".join(html.escape(part) for part in _halves(fingerprint)),
        address=html.escape(address),
        trust=html.escape(trust),
        code=svg_code(trust),
    )


def _halves(fingerprint: str) -> list[str]:
    """The fingerprint in pieces of eight pairs, between which a narrow screen may break it."""
    return [fingerprint[start : start + 24] for start in range(0, len(fingerprint), 24)]
