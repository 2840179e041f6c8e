"""Fetches the file at a link for the page: a page cannot read what other sites have, and this one loads nothing there.

The file is not stored. Its bytes go to the page, which then has it like one that was dropped: it can play it, and sends
it to be transcribed. Behind the bytes stands the outcome, `OUTCOME_BYTES` long: a JSON object, `{}` or `{"error"}`.

The server may reach what the page may not (server-side request forgery), so it connects only to addresses that
`--file-links` allows, as it finds them out itself right before: each name is resolved once, all of its addresses are
checked, and the connection goes to one of these. So it is with every redirect. No cookie, credential or header of the
page is passed on, and the environment's proxies are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import httpx
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from qwen_asr import __version__
from qwen_asr.config.limits import LinkLimits
from qwen_asr.errors import BadField, BadInput, Forbidden, QwenASRError, TimedOut, TooLarge
from qwen_asr.network import parse_address
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.access.route_table import PAGE_LINK
from qwen_asr.web.bodies import read_body
from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response, to_public_error
from qwen_asr.web.rest.transcriptions import AsgiResponse, Transcriptions, abort_on

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from qwen_asr.config.link_addresses import LinkAddresses
    from qwen_asr.network import Address
    from qwen_asr.service.service import Service

OUTCOME_BYTES = 1024
"""Size of the outcome behind the bytes of a file: JSON, filled up with blanks."""
MEDIA_TYPE = re.compile(r"(?:audio|video)/[\w.+-]{1,60}|application/ogg", re.ASCII)
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = {"User-Agent": f"qwen-asr-live/{__version__}", "Accept": "audio/*,video/*,*/*;q=0.5"}
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_WEB_PAGES = ("text/html", "application/xhtml+xml")
_NAME = re.compile(r"filename=\"?([^\";]+)\"?", re.IGNORECASE)
_MOST_NAME = 200  # characters


class Link(BaseModel):
    """What the page sends."""

    url: str = Field(min_length=1, max_length=LinkLimits.url_characters)


class LinkRoute:
    """`POST /page/link`. It counts as one transcription of its sender while the file is fetched."""

    def __init__(
        self, service: Service, transcriptions: Transcriptions, *, trust: ssl.SSLContext | None = None
    ) -> None:
        """`trust` has the authorities whose certificates count; by default those that httpx knows."""
        self._service = service
        self._transcriptions = transcriptions
        self._fetcher = Fetcher(service.config.link_addresses, service.limits.links, trust)
        self._limits = service.limits.links
        self._most = service.limits.upload.file_bytes

    def add_to(self, app: FastAPI) -> None:
        """Adds the route. Call it before the page is mounted at "/"."""

        async def fetch(_: Request) -> Response:
            return AsgiResponse(self._serve)

        app.router.routes.append(Route(PAGE_LINK, fetch, methods=["POST"]))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive, self._limits.body_seconds)
        with contextlib.suppress(ClientDisconnect):
            try:
                with self._transcriptions.opened(scope, body):
                    self._service.rates.hit(sender(scope))
                    data = await read_body(scope, body, self._limits.body_bytes, self._limits.body_seconds)
                    work = self._pass_on(_link(data), send)
                    await abort_on(body.wait_for_disconnect(), ClientDisconnect(), work)
            except ClientDisconnect:
                raise
            except Exception as error:
                self._service.instruments.count(error)
                await answer_early(error_response(error), body, scope, receive, send)

    async def _pass_on(self, url: str, send: Send) -> None:
        """Sends the file at `url`. Raises QwenASRError as long as nothing of it is sent."""
        begun = False
        outcome: dict[str, str] = {}
        try:
            async with asyncio.timeout(self._limits.seconds), self._fetcher.opened(url) as remote:
                announced = remote.announced_bytes
                if announced is not None and announced > self._most:
                    raise self._too_large()
                pieces = remote.response.aiter_raw()
                first = await anext(pieces, b"")
                if remote.is_web_page(first):
                    raise BadField("url", "This address leads to a web page, not to a media file: give the file's own.")
                await send({"type": "http.response.start", "status": 200, "headers": remote.headers()})
                begun, size, piece = True, 0, first
                while piece:
                    if (size := size + len(piece)) > self._most:
                        raise self._too_large()
                    async with asyncio.timeout(self._limits.idle_seconds):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await anext(pieces, b"")
        except Exception as error:
            public = to_public_error(_as_sentence(error, self._limits))
            if not begun:
                raise public from error
            self._service.instruments.count(public)
            outcome = {"error": str(public)[: OUTCOME_BYTES // 2]}
        await send({"type": "http.response.body", "body": json.dumps(outcome).encode().ljust(OUTCOME_BYTES)})

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The file at this address has over {self._most} bytes, the most that this server takes.")


class Remote:
    """The answer of another server, before its body is read."""

    def __init__(self, response: httpx.Response, url: httpx.URL) -> None:
        self.response = response
        self._url = url

    @property
    def announced_bytes(self) -> int | None:
        """The size that the other server states; None if it states none."""
        length = self.response.headers.get("content-length", "")
        return int(length) if length.isdecimal() else None

    @property
    def kind(self) -> str:
        """The media type that it states, in lower case, without parameters."""
        return str(self.response.headers.get("content-type", "")).partition(";")[0].strip().lower()

    def is_web_page(self, first: bytes) -> bool:
        """Whether this is HTML. `first` is the beginning of the body."""
        return self.kind in _WEB_PAGES or _WEB_PAGE.match(first) is not None

    @property
    def name(self) -> str:
        """The file's name: from the answer's header, else from the address."""
        found = _NAME.search(self.response.headers.get("content-disposition", ""))
        last = found[1] if found else unquote(self._url.path.rstrip("/").rpartition("/")[2])
        name = "".join(character for character in last.replace("\\", "/").rpartition("/")[2] if character.isprintable())
        return name.strip()[:_MOST_NAME] or self._url.host[:_MOST_NAME]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers for the page. What another server sends is never given a type that a browser would run."""
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"x-file-name", quote(self.name).encode()),
        ]
        if MEDIA_TYPE.fullmatch(self.kind):
            headers.append((b"x-file-type", self.kind.encode()))
        if self.announced_bytes is not None:
            headers.append((b"x-file-bytes", str(self.announced_bytes).encode()))
        return headers


class Fetcher:
    """Opens links, at allowed addresses only."""

    def __init__(self, addresses: LinkAddresses, limits: LinkLimits, trust: ssl.SSLContext | None = None) -> None:
        self._addresses = addresses
        self._limits = limits
        self._given_trust = trust

    @functools.cached_property
    def _trust(self) -> ssl.SSLContext:
        return self._given_trust or httpx.create_ssl_context()  # takes a while, and most servers need none

    @contextlib.asynccontextmanager
    async def opened(self, address: str) -> AsyncIterator[Remote]:
        """The answer at `address`, after redirects, with status 200.

        Raises BadField for an address that cannot be used or leads to no file, Forbidden for one that `--file-links`
        does not allow, and httpx.HTTPError.
        """
        if not self._addresses.enabled:
            raise Forbidden("This server fetches no links (--file-links off): download the file and drop it here.")
        url = _parsed(address)
        for _ in range(self._limits.redirects + 1):
            async with contextlib.AsyncExitStack() as stack:
                response = await self._answer(stack, url)
                if response.status_code not in _REDIRECTS:
                    yield self._checked(response, url)
                    return
                url = _parsed(response.headers.get("location", ""), url)
        raise BadField("url", f"This address redirects more than {self._limits.redirects} times: give the file's own.")

    async def _answer(self, stack: contextlib.AsyncExitStack, url: httpx.URL) -> httpx.Response:
        """The answer of one server, not read yet. It tries the addresses of the name one after another."""
        timeout = httpx.Timeout(self._limits.idle_seconds, connect=self._limits.connect_seconds)
        # A client for each answer, so that no cookie of one is sent to the next.
        client = await stack.enter_async_context(
            httpx.AsyncClient(verify=self._trust, timeout=timeout, trust_env=False, follow_redirects=False)
        )
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in await self._resolved(url):
            # By the very address that was checked. The name is in the Host header and in the TLS handshake, where the
            # certificate has to be for it (https://www.python-httpx.org/advanced/extensions/#sni_hostname).
            request = client.build_request(
                "GET",
                url.copy_with(host=str(address)),
                headers={**_HEADERS, "Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                continue
            stack.push_async_callback(response.aclose)
            return response
        raise failure or httpx.ConnectError("the name has no address")

    async def _resolved(self, url: httpx.URL) -> list[Address]:
        """The addresses of the host, all of them allowed. Raises BadField, Forbidden."""
        host = url.raw_host.decode("ascii")
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError):
            raise BadField("url", f"The name {host} cannot be resolved: check the address.") from None
        addresses = [parse_address(str(entry[4][0])) for entry in found]
        # If only some of the addresses are allowed, somebody may be trying something.
        if not addresses or not all(address is not None and self._addresses.allows(address) for address in addresses):
            raise Forbidden(
                f"The address of {host} is not a public one, and this server fetches only from those that --file-links "
                "names: download the file and drop it here."
            )
        return list(dict.fromkeys(address for address in addresses if address is not None))

    def _checked(self, response: httpx.Response, url: httpx.URL) -> Remote:
        if response.status_code != httpx.codes.OK:
            reason = f"{response.status_code} {response.reason_phrase}".strip()
            raise BadField("url", f"{url.host} answered {reason}: check the address, and whether it needs a login.")
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in ("", "identity"):
            raise BadField("url", f"{url.host} sent the file compressed ({encoding}): download it and drop it here.")
        return Remote(response, url)


def _link(data: bytes) -> str:
    try:
        return Link.model_validate_json(data).url
    except ValidationError:
        raise BadInput(
            f'The request is not {{"url": "https://…"}} with at most {LinkLimits.url_characters} characters.'
        ) from None


def _parsed(address: str, base: httpx.URL | None = None) -> httpx.URL:
    """The URL of an address, which may be relative to `base`.

    Raises BadField for one that is not http or https, or has a user name in it.
    """
    try:
        url = httpx.URL(address.strip())
        url = url if base is None else base.join(url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise BadField("url", "This is not the address of a file: expected one that begins with https:// or http://.")
    if url.userinfo:
        raise BadField("url", "The address has a user name or a password in it: download the file and drop it here.")
    return url.copy_with(fragment=None)


def _as_sentence(error: Exception, limits: LinkLimits) -> Exception:
    """What a failed download means to people. Other errors are returned as they are."""
    if isinstance(error, QwenASRError):
        return error
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return BadField("url", f"The server at this address cannot be reached ({_short(error)}): check the address.")
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return TimedOut(
            f"The server at this address is too slow: it sent nothing for {limits.idle_seconds:g} seconds, or takes "
            f"over {limits.seconds:g} for the file. Try again, or download it and drop it here."
        )
    if isinstance(error, httpx.HTTPError):
        return BadField("url", f"The download broke off ({_short(error)}): try again, or drop the file here.")
    return error


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__
