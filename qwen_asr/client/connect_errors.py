"""Server addresses, and a clear error message for each way in which a connection can fail."""

from __future__ import annotations

import re
import ssl
from http import HTTPStatus
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from qwen_asr.errors import BadConfig, CertificateError, ConnectionFailed, QwenASRError

PATH = "/ws/asr"
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_TEMPORARY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


def socket_url(url: str) -> str:
    """The URL of the WebSocket: http becomes ws, and the default path is `/ws/asr`. Raises BadConfig."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # accessing the port checks its range
    except ValueError:
        host = None
    if not host or parts.scheme not in _SCHEMES:
        raise BadConfig(f"The address is {_without_password(url)!r}; expected one such as wss://localhost:8000{PATH}.")
    if parts.username is not None and parts.password is None:
        raise BadConfig("The address has a user without a password; expected wss://USER:PASSWORD@HOST.")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def connect_error(error: BaseException, url: str, key_sent: bool = False) -> tuple[QwenASRError | None, bool]:
    """The exception to raise for an error while connecting, and whether the same attempt may succeed later.

    None for an unexpected error. `key_sent`: an API key was sent. A user and password in `url` are not repeated.
    """
    password_sent, url = "@" in urlsplit(url).netloc, _without_password(url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(_untrusted_message(error, url)), False
    if isinstance(error, ssl.SSLError | InvalidMessage):
        other = "ws" if url.startswith("wss:") else "wss"
        sentence = f"There is no such server at {url} ({_short(error)}): try {other}:// instead."
        return ConnectionFailed(sentence), False
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            return ConnectionFailed(_unauthorized_message(key_sent, password_sent)), False
        return _status_error(status, url)
    if isinstance(error, InvalidURI):  # our own URL was checked before, so this one comes from a redirect
        return ConnectionFailed(_redirect_message(error.uri, url)), False
    if isinstance(error, InvalidHandshake):
        return ConnectionFailed(f"{url} does not answer as a WebSocket ({_short(error)}): check the address."), False
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} does not answer: check the address, and that the server is running."), True
    if isinstance(error, OSError | EOFError):
        sentence = f"{url} cannot be reached ({_short(error)}): check that the server is running."
        return ConnectionFailed(sentence), False
    return None, False


def _status_error(status: int, url: str) -> tuple[QwenASRError, bool]:
    if status == HTTPStatus.FORBIDDEN:
        sentence = f"The server refuses this client at {url} (403): check the path, and which clients may connect."
    elif status == HTTPStatus.NOT_FOUND:
        sentence = f"There is nothing at {url} (404): the path is usually {PATH}."
    else:
        sentence = f"The server answered {url} with {status}: check its log."
    return ConnectionFailed(sentence), status in _TEMPORARY


def _unauthorized_message(key_sent: bool, password_sent: bool) -> str:
    ways = "--api-key or QWEN_ASR_API_KEY, or --url wss://USER:PASSWORD@HOST"
    if key_sent or password_sent:
        given = "user and password" if password_sent else "API key"  # if both are sent, the server reads the first
        return f"The server has not accepted this {given}: check it, and use {ways}."
    return f"The server requires an API key, or a user and password, and none was given: use {ways}."


def _redirect_message(target: str, url: str) -> str:
    target = _without_password(target)
    if url.startswith("ws:") and target.startswith("https:"):
        return f"The server at {url} speaks HTTPS: try wss:// instead of ws://."
    return f"{url} redirects to {target}, which is not the address of a WebSocket: check the address."


def _without_password(url: str) -> str:
    return re.sub(r"^(\w+://)?.*@", r"\1", url)  # works for invalid URLs too, which may contain a password


def _untrusted_message(error: ssl.SSLCertVerificationError, url: str) -> str:
    host = urlsplit(url).hostname
    return (
        f"The certificate of {host} is not trusted ({error.verify_message}). If the server created it, copy its "
        "certs/qwen_asr_cert.pem to this machine and pass that file with --cafile. The host in the address must be one "
        "of the certificate's names."
    )


def _short(error: BaseException) -> str:
    """The system's own words, on one line."""
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
