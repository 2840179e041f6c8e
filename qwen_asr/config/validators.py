"""What the values of the options about access and rates have to look like; a secret is never repeated in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qwen_asr.errors import BadConfig, HttpsConflict

_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:]+\]?")
_LONGEST = 512  # characters of a key, a user's name or a password: far below what a header may hold


def check_keys(keys: Iterable[str]) -> None:
    """Raises BadConfig for an API key that does not fit into a header as it is."""
    for key in keys:
        if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= _LONGEST):
            raise BadConfig(
                f"--api-key was given a value that no header can carry, but expects at most {_LONGEST} letters, digits "
                "and signs of ASCII without blanks."
            )


def check_users(users: Iterable[str]) -> None:
    """Raises BadConfig for what is not USER:PASSWORD, or a user who could not be typed."""
    for user in users:
        name, colon, password = user.partition(":")
        fits = name and password and name == name.strip() and len(user) <= 2 * _LONGEST and user.isprintable()
        if not (colon and fits):
            raise BadConfig(
                "--auth was given a value that is not of the form USER:PASSWORD, but expects both, without blanks "
                "around the user."
            )


def check_hosts(hosts: Iterable[str]) -> None:
    """Raises BadConfig for what is no name of a host: a URL, or a name with a port."""
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise BadConfig(
                f"--allowed-hosts was given {host!r}, but expects a name or an address without scheme and port, such "
                "as asr.example.org or *.example.org."
            )


def check_rate(rate: str | None) -> None:
    """Raises BadConfig for what `limits` cannot read, and for none at all."""
    if rate is None:
        return
    from limits import parse_many  # here, so that it costs nothing where no rate is given

    try:
        windows = parse_many(rate)
    except ValueError:
        windows = []
    if not windows or any(window.amount < 1 or window.get_expiry() < 1 for window in windows):
        raise BadConfig(
            f"--rate-limit was given {rate!r}, but expects a number and a time, such as 60/minute, or several with a "
            "semicolon between them, such as '5/second; 1000/day'."
        )


def check_certificate_options(
    given: list[str], certfile: str | None, keyfile: str | None, *, on_space: bool, share: bool
) -> None:
    """`given` are the options for a certificate that were given, as they are typed. Raises HttpsConflict."""
    if given and on_space:
        raise HttpsConflict(
            f"{given[0]} was given on a Hugging Face Space, which has HTTPS of its own in front: leave the option out "
            "there."
        )
    if len(given) > 1:
        raise HttpsConflict(f"{' and '.join(given)} were given, but one certificate is served: give only one of them.")
    if keyfile and not certfile:
        raise HttpsConflict("--ssl-keyfile was given without --ssl-certfile: give the key's certificate too.")
    if given and share:
        raise HttpsConflict(
            "--share makes a public https address of its own and cannot reach a server that speaks HTTPS itself: "
            f"give either --share or {given[0]}."
        )
