"""An address as a QR code, for a phone to scan: on the terminal, and as a picture in a page."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

import segno


def terminal_code(url: str) -> str:
    """Lines of half blocks that show the code, dark on light: white on black is asked for, as these draw the light."""
    drawn = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=drawn, border=2, compact=True)
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" for line in drawn.getvalue().splitlines())


def svg_code(url: str) -> str:
    """An `<svg>` element of the code, black on white, that grows with its box."""
    return segno.make(url, error="m", micro=False).svg_inline(
        omitsize=True, border=4, dark="#000", light="#fff", title=url, svgclass="code"
    )


def can_show() -> bool:
    """Whether standard output is a terminal that shows half blocks in colour."""
    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def network_url(urls: Iterable[str]) -> str | None:
    """The first of the page's addresses that a phone on the same network can open; None where there is none."""
    for url in urls:
        host = urlsplit(url).hostname or ""
        try:
            if not ip_address(host).is_loopback:
                return url
        except ValueError:
            if host != "localhost":
                return url
    return None
