"""Validation of options for access, rates and certificates. Error messages never contain a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qwen_asr.errors import BadConfig, HttpsConflict

_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:]+\]?")
# As browsers write it (RFC 6454, section 6.2): no path, no user, and only ASCII.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")
_MAX_LENGTH = 512  # characters of a key, a user name or a password: far below the size limit of a header


def check_keys(keys: Iterable[str], option: str = "--api-key") -> None:
    """Raises `BadConfig` if an API key cannot be sent in a header unchanged."""
    for key in keys:
        if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= _MAX_LENGTH):
            raise BadConfig(
                f"{option} was given a value that cannot be sent in a header, but expects at most "
                f"{_MAX_LENGTH} printable ASCII characters without spaces."
            )


def check_users(users: Iterable[str]) -> None:
    """Raises `BadConfig` if a value is not of the form USER:PASSWORD, is too long, or is not printable."""
    for user in users:
        name, colon, password = user.partition(":")
        fits = name and password and name == name.strip() and len(user) <= 2 * _MAX_LENGTH and user.isprintable()
        if not (colon and fits):
            raise BadConfig(
                "--auth was given a value that is not of the form USER:PASSWORD, but expects both, without spaces "
                "around the user name."
            )


def check_hosts(hosts: Iterable[str]) -> None:
    """Raises `BadConfig` if a value is not a host name or pattern, for example a URL or a name with a port."""
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise BadConfig(
                f"--allowed-hosts was given {host!r}, but expects a name or an address without a scheme and port, "
                "such as asr.example.org or *.example.org."
            )


def check_origins(origins: Iterable[str], *, has_credentials: bool) -> None:
    """Raises `BadConfig` if a value is not an origin, or is ``*`` on a server that everybody can use without a key."""
    for origin in origins:
        if origin == "*" and not has_credentials:
            raise BadConfig(
                "--allowed-origins was given *, but without --api-key or --auth every web page that somebody opens "
                "could use this server from their browser: give a key too, or name the origins."
            )
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise BadConfig(
                f"--allowed-origins was given {origin!r}, but expects an origin as browsers send it, without a path, "
                "such as https://app.example.org, http://localhost:5173, chrome-extension://ID or tauri://localhost."
            )


def check_rate(rate: str | None) -> None:
    """Raises `BadConfig` if the package `limits` cannot parse `rate`, or if a limit is below 1."""
    if rate is None:
        return
    from limits import parse_many  # imported only if a rate is given

    try:
        windows = parse_many(rate)
    except ValueError:
        windows = []
    if not windows or any(window.amount < 1 or window.get_expiry() < 1 for window in windows):
        raise BadConfig(
            f"--rate-limit was given {rate!r}, but expects a number and a period, such as 60/minute, or several "
            "separated by semicolons, such as '5/second; 1000/day'."
        )


def check_certificate_options(
    given: list[str], certfile: str | None, keyfile: str | None, *, on_space: bool, share: bool
) -> None:
    """Raises `HttpsConflict` for options that conflict. `given` are the flags of the certificate options set."""
    if given and on_space:
        raise HttpsConflict(
            f"{given[0]} was given on a Hugging Face Space, which already provides HTTPS: leave the option out there."
        )
    if len(given) > 1:
        raise HttpsConflict(f"{' and '.join(given)} were given, but one certificate is served: give only one option.")
    if keyfile and not certfile:
        raise HttpsConflict("--ssl-keyfile was given without --ssl-certfile: give the certificate of the key too.")
    if given and share:
        raise HttpsConflict(
            "--share makes a public https address of its own and does not work with a server that uses HTTPS itself: "
            f"give either --share or {given[0]}."
        )
