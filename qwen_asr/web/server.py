"""The app that is served: our routes, then the page, which is mounted last because it takes every path that is left.

``serve(config)`` is the whole life of the server: take the port, say the addresses, load in the background, run until
it is told to stop. ``create_app`` is the app alone, for tests and for whoever brings a server of his own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.routing import Mount

from qwen_asr.config import Config
from qwen_asr.errors import BadConfig, PortInUse, QwenASRError, ShareUnavailable, StartupError
from qwen_asr.web.redaction import redact_logs
from qwen_asr.web.socket_protocol import socket_options

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from qwen_asr.web.service import Service

log = logging.getLogger(__name__)

CERTIFICATES = Path("certs")
GRACE_SECONDS = 2
"""How long open requests may take when the server stops; each open page holds one that would never end by itself."""
FAREWELL_SECONDS = 1.5
"""How long a server that cannot load its checkpoint still tells open pages why, before it ends."""


def create_app(config: Config, service: Service, **settings: Any) -> FastAPI:
    """The app over `service`, which the caller starts and closes. `settings` are `streaming_microphone`'s."""
    import gradio as gr  # heavy; the port is taken before it is imported
    from fastapi import FastAPI

    from qwen_asr.engine.languages import resolve_language
    from qwen_asr.web import asr_socket, rest
    from qwen_asr.web.door import Door
    from qwen_asr.web.page import CSS, build_page, theme
    from qwen_asr.web.speaker import Speakers

    door = Door(config, service.rates)
    speakers = Speakers(
        service.listen, admission=service.admission, rates=service.rates, session_seconds=config.max_session_seconds
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        speakers.close()

    app = FastAPI(title="Qwen3-ASR live", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Unbuffered)
    app.add_middleware(door.around)
    app.state.speakers = speakers
    app.state.service = service
    # Routes of our own go here: after the mount at "/" they would answer 404.
    end_transcriptions = rest.add_routes(app, service)
    asr_socket.add_route(app, service)
    page = build_page(
        speakers,
        service,
        language=resolve_language(config.default_language),
        context=config.default_context or "",
        **settings,
    )
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=door.page_login,
        server_name=config.host,
        server_port=config.port,
        theme=theme(),
        css_paths=CSS,
        footer_links=[],
        run_history=False,  # what was said must not stay in the browser's storage
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        # Gradio shows the text of any exception otherwise; what people may read is raised as gr.Error.
        show_error=False,
    )
    gradio_app: Any
    [gradio_app] = [route.app for route in mounted.routes if isinstance(route, Mount) and route.path == ""]

    door.knows(gradio_app)

    def end_streams() -> None:
        # Each open page holds an event stream that ends by itself only at this sign.
        gradio_app.stop_event.set()
        end_transcriptions()

    app.state.end_streams = end_streams
    return mounted


def serve(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises StartupError where it cannot start, and what loading raised where there is no checkpoint to serve with. On a
    Hugging Face Space that last is shown on the page instead: nobody there reads an exit code.
    """
    if config.share and config.tls:
        raise BadConfig(
            "--share makes a public https address of its own and cannot reach a server that speaks HTTPS itself: "
            "give either --share or --generate-self-signed-cert."
        )
    redact_logs(config)
    listening = bind(config.host, config.port)  # first: nobody wants to load for minutes and then hear of it
    try:
        options = _tls_options(config)
        port = listening.getsockname()[1]
        say("Starting ...")
        from qwen_asr.web.door import open_doors
        from qwen_asr.web.service import Service  # heavy; see above

        service = Service(config)
        server = create_server(create_app(config, service), **options)
        redact_logs(config)
        _announce(config, port)
        for sentence in open_doors(config):
            log.warning("%s", sentence)
        service.start(lambda: _loaded(config, service, server))
        if config.share and not config.on_space:
            threading.Thread(target=_share, args=(port,), name="qwen-asr-share", daemon=True).start()
        server.run(sockets=[listening])
        service.close()
    finally:
        listening.close()
    if service.error is not None and server.stopped_by is None:
        raise service.error
    return 0


def create_server(app: FastAPI, around: Callable[[Any], Any] = lambda app: app, **options: Any) -> Server:
    """A server for what `create_app` made, inside of the ASGI middleware `around`; `options` are uvicorn's.

    Run it on sockets from `bind`.
    """
    settings: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    return Server(uvicorn.Config(around(app), **settings | socket_options() | options), app.state.end_streams)


class Server(uvicorn.Server):
    """uvicorn's, that ends at a signal and returns, instead of raising the signal again: a stop is no failure."""

    stopped_by: int | None = None

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] = lambda: None) -> None:
        """`on_stop` is called in the server's loop as soon as it stops, before open requests are waited for."""
        super().__init__(config)
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server while it runs; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # tests run it in a thread and set `should_exit`
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, then ends what is still open: a browser need not answer the end of TLS."""
        self._on_stop()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        await asyncio.sleep(0.1)  # the loop's own turn, in which transports are really closed

    def _stop(self, number: int, _: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = number


class Unbuffered:
    """Tells nginx, and others who know its header, to pass event streams on as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the header to answers that are event streams."""

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    headers["X-Accel-Buffering"] = "no"
            await send(message)

        await self._app(scope, receive, mark if scope["type"] == "http" else send)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortInUse, or StartupError for an address or port that cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise StartupError(f"--host {host} is no address: give a name or address of this machine.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        # A port that was in use until a moment ago may be taken again; one that is listened on may not.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.set_inheritable(True)
    except OSError as error:
        listening.close()
        raise _bind_error(error, host, port) from None
    return listening


def _bind_error(error: OSError, host: str, port: int) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"Port {port} on {host} is in use by another program: stop that, or give another with --port.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartupError(f"Port {port} is reserved for administrators: give one of 1024 or above with --port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartupError(f"--host {host} is no address of this machine: give one that is, or 0.0.0.0 for all.")
    return StartupError(f"Cannot listen on {host}:{port} ({error.strerror}): give another --host or --port.")


def _tls_options(config: Config) -> dict[str, Any]:
    if not config.tls:
        return {}
    from qwen_asr.tls.self_signed import ensure_self_signed

    files = ensure_self_signed(CERTIFICATES)
    log.info("Certificate %s, SHA-256 fingerprint %s", files.certfile, files.fingerprint)
    return {"ssl_certfile": str(files.certfile), "ssl_keyfile": str(files.keyfile)}


def _announce(config: Config, port: int) -> None:
    from qwen_asr.tls.addresses import page_urls

    say("The page is at:")
    urls = page_urls(config.host, port, config.tls)
    for url in urls:
        say(f"  {url}")
    if not config.tls and not config.on_space and any("//localhost" not in url for url in urls):
        say("But for localhost, browsers give the microphone over https only: see --generate-self-signed-cert.")
    if config.tls:
        say("Type the https:// too: over plain http nothing answers.")
        say("The certificate is self-signed: the browser warns once; go on to the page there.")


def say(text: str) -> None:
    """A line for whoever started the server; not a log, so that no log level hides the address."""
    print(text, flush=True)  # noqa: T201 - see above


def _loaded(config: Config, service: Service, server: Server) -> None:
    if service.error is None:
        say(f"Ready. {service.as_dict()['model']}")
    elif config.on_space:
        log.error("%s", service.error)
    else:
        threading.Event().wait(FAREWELL_SECONDS)  # open pages are being told
        server.should_exit = True


def _share(port: int) -> None:
    try:
        say(f"  {public_link(port)}  (public, for up to a week)")
    except QwenASRError as error:
        say(str(error))


def public_link(port: int) -> str:
    """The address of a Gradio share link to that local port. Raises ShareUnavailable."""
    from gradio import networking

    try:
        link = networking.setup_tunnel(
            local_host="127.0.0.1",
            local_port=port,
            share_token=secrets.token_urlsafe(32),
            share_server_address=None,
            share_server_tls_certificate=None,
        )
    except Exception as error:
        log.debug("no share link", exc_info=True)
        raise ShareUnavailable(
            f"No public link is to be had ({type(error).__name__}): Gradio's share service cannot be reached or used "
            "from here. The page is served at the addresses above."
        ) from error
    return link.replace("http://", "https://", 1)
