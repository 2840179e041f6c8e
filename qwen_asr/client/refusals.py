"""Addresses of servers, and why there is no connection: one sentence for each way in which it fails."""

from __future__ import annotations

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
        raise BadConfig(f"The address is {url!r}; expected one such as wss://localhost:8000{PATH}.")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def refusal_of(error: BaseException, url: str) -> tuple[QwenASRError | None, bool]:
    """What to tell of an error while connecting (None: it is unforeseen), and whether it may pass by itself."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(_distrust(error, url)), False
    if isinstance(error, ssl.SSLError | InvalidMessage):
        other = "ws" if url.startswith("wss:") else "wss"
        sentence = f"Under {url} no such server answers ({_short(error)}): try {other}:// instead."
        return ConnectionFailed(sentence), False
    if isinstance(error, InvalidStatus):
        return _of_status(error.response.status_code, url)
    if isinstance(error, InvalidURI | InvalidHandshake):
        return ConnectionFailed(f"{url} does not answer as a WebSocket ({_short(error)}): check the address."), False
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} does not answer: check the address, and that the server runs."), True
    if isinstance(error, OSError | EOFError):
        return ConnectionFailed(f"{url} cannot be reached ({_short(error)}): check that the server runs."), False
    return None, False


def _of_status(status: int, url: str) -> tuple[QwenASRError, bool]:
    if status == HTTPStatus.UNAUTHORIZED:
        sentence = "The server wants an API key, and has not accepted this one: give --api-key or QWEN_ASR_API_KEY."
    elif status == HTTPStatus.FORBIDDEN:
        sentence = f"The server refuses this client under {url} (403): check the path, and who may connect."
    elif status == HTTPStatus.NOT_FOUND:
        sentence = f"There is nothing under {url} (404): the path is usually {PATH}."
    else:
        sentence = f"The server answered {url} with {status}."
    return ConnectionFailed(sentence), status in _LATER


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
