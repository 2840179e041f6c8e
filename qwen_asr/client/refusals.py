"""Addresses of servers, and why there is no connection: one sentence for each way in which it fails."""

from __future__ import annotations

import re
import ssl
from http import HTTPStatus
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from qwen_asr.errors import BadConfig, CertificateError, ConnectionFailed, QwenASRError

PATH = "/ws/asr"
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


def socket_url(url: str) -> str:
    """The socket's address: http becomes ws, and where no path is given it is `/ws/asr`. Raises BadConfig."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port's range is checked when it is asked for
    except ValueError:
        host = None
    if not host or parts.scheme not in _SCHEMES:
        raise BadConfig(f"The address is {_without_password(url)!r}; expected one such as wss://localhost:8000{PATH}.")
    if parts.username is not None and parts.password is None:
        raise BadConfig("The address holds a user without a password; expected wss://USER:PASSWORD@HOST.")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def refusal_of(error: BaseException, url: str, key_sent: bool = False) -> tuple[QwenASRError | None, bool]:
    """What to tell of an error while connecting (None: it is unforeseen), and whether it may pass by itself.

    `key_sent` says whether there was an API key; a user and password would be in `url`, and are not shown.
    """
    password_sent, url = "@" in urlsplit(url).netloc, _without_password(url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(_distrust(error, url)), False
    if isinstance(error, ssl.SSLError | InvalidMessage):
        other = "ws" if url.startswith("wss:") else "wss"
        sentence = f"Under {url} no such server answers ({_short(error)}): try {other}:// instead."
        return ConnectionFailed(sentence), False
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            return ConnectionFailed(_unauthorized(key_sent, password_sent)), False
        return _of_status(status, url)
    if isinstance(error, InvalidURI):  # the address itself was looked at before: the server has sent us on to this one
        return ConnectionFailed(_sent_on(error.uri, url)), False
    if isinstance(error, InvalidHandshake):
        return ConnectionFailed(f"{url} does not answer as a WebSocket ({_short(error)}): check the address."), False
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} does not answer: check the address, and that the server runs."), True
    if isinstance(error, OSError | EOFError):
        return ConnectionFailed(f"{url} cannot be reached ({_short(error)}): check that the server runs."), False
    return None, False


def _of_status(status: int, url: str) -> tuple[QwenASRError, bool]:
    if status == HTTPStatus.FORBIDDEN:
        sentence = f"The server refuses this client under {url} (403): check the path, and who may connect."
    elif status == HTTPStatus.NOT_FOUND:
        sentence = f"There is nothing under {url} (404): the path is usually {PATH}."
    else:
        sentence = f"The server answered {url} with {status}."
    return ConnectionFailed(sentence), status in _LATER


def _unauthorized(key_sent: bool, password_sent: bool) -> str:
    ways = "--api-key or QWEN_ASR_API_KEY, or --url wss://USER:PASSWORD@HOST"
    if key_sent or password_sent:
        given = "user and password" if password_sent else "API key"  # of two headers the server reads the first
        return f"The server has not accepted this {given}: give what it expects by {ways}."
    return f"The server wants an API key, or a user and password, and none was given: give {ways}."


def _sent_on(target: str, url: str) -> str:
    target = _without_password(target)
    if url.startswith("ws:") and target.startswith("https:"):
        return f"The server under {url} speaks HTTPS: try wss:// instead of ws://."
    return f"{url} sends its visitors on to {target}, which is no WebSocket's address: check the address."


def _without_password(url: str) -> str:
    return re.sub(r"^(\w+://)?.*@", r"\1", url)  # what is no address may hold one too


def _distrust(error: ssl.SSLCertVerificationError, url: str) -> str:
    host = urlsplit(url).hostname
    return (
        f"The certificate of {host} is not trusted ({error.verify_message}). If the server made it itself, copy its "
        "certs/qwen_asr_cert.pem here and name that file with --cafile; the name in the address must be one it is for."
    )


def _short(error: BaseException) -> str:
    """The system's own words, on one line."""
    said = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    return str(said).splitlines()[0].rstrip(".")
