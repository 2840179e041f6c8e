"""`/ca.pem` and `/trust`: the local CA's certificate and how to install it on another device, in two languages.

The certificate is read once, when the server starts, and served from memory. No file name comes from a request, so
nothing else in its folder can be requested, in particular not the private key.
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
from qwen_asr.web.access.accept_language import preferred_language
from qwen_asr.web.qr import network_url, svg_code
from qwen_asr.web.rest.api_route import ApiRoute

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGE = Path(__file__).with_name("trust.html")
TITLES = {"en": "Trust this server – Qwen3-ASR live", "zh": "信任此服务器 – Qwen3-ASR 实时转写"}
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


def add_routes(app: FastAPI, root: CertificateFiles, host: str) -> None:
    """Adds both routes for the CA `root`. `host` is the address that the server listens on."""
    pem = root.certfile.read_bytes()
    templates = {language: read_template(language) for language in TITLES}

    async def certificate() -> Response:
        headers = {**HEADERS, "Content-Disposition": 'inline; filename="qwen-asr-local-ca.crt"'}
        # With this type phones offer to install the certificate instead of showing it.
        return Response(pem, media_type="application/x-x509-ca-cert", headers=headers)

    async def page(request: Request) -> Response:
        # The port of the socket, because a client may send any Host header.
        port = (request.scope.get("server") or ("", 0))[1]
        template = templates[preferred_language(request.scope)]
        return HTMLResponse(trust_page(template, root.fingerprint, page_urls(host, port or 443, True)), headers=HEADERS)

    app.router.routes += [
        ApiRoute("/ca.pem", certificate, include_in_schema=False),
        ApiRoute("/trust", page, include_in_schema=False),
    ]


def read_template(language: str) -> Template:
    """The page in "en" or "zh": the body of that language in the head that they share."""
    body = PAGE.with_name(f"trust_{language}.html").read_text(encoding="utf-8")
    head = Template(PAGE.read_text(encoding="utf-8"))
    return Template(head.substitute(lang={"zh": "zh-CN"}.get(language, language), title=TITLES[language], body=body))


def trust_page(template: Template, fingerprint: str, urls: Sequence[str]) -> str:
    """The page, with the CA's SHA-256 `fingerprint` and a QR code of the page's own address on the network."""
    address = network_url(urls) or urls[0]
    trust = address + "/trust"
    return template.substitute(
        fingerprint="<wbr>".join(html.escape(part) for part in _pieces(fingerprint)),
        address=html.escape(address),
        trust=html.escape(trust),
        code=svg_code(trust),
    )


def _pieces(fingerprint: str) -> list[str]:
    """The fingerprint in pieces of eight bytes, so that a narrow screen can break the line between them."""
    return [fingerprint[start : start + 24] for start in range(0, len(fingerprint), 24)]
