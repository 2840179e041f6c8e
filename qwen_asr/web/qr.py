"""QR codes of the page's address, for a phone to scan: on the terminal and as SVG."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

import segno


def terminal_code(url: str) -> str:
    """The code as lines of half blocks, two rows of modules per line.

    The blocks draw the light modules, so the colors are set to white on black whatever the terminal's theme is.
    """
    output = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=output, border=2, compact=True)
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" for line in output.getvalue().splitlines())


def svg_code(url: str) -> str:
    """The code as an `<svg>` element, black on white, that scales with its container."""
    return segno.make(url, error="m", micro=False).svg_inline(
        omitsize=True, border=4, dark="#000", light="#fff", title=url, svgclass="code"
    )


def can_show() -> bool:
    """Whether standard output is a terminal that can show `terminal_code`."""
    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def network_url(urls: Iterable[str]) -> str | None:
    """The first of the page's addresses that another device on the network can open, or None."""
    for url in urls:
        host = urlsplit(url).hostname or ""
        try:
            if not ip_address(host).is_loopback:
                return url
        except ValueError:
            if host != "localhost":
                return url
    return None
