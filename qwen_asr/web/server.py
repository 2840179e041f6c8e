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
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.routing import Mount

from qwen_asr.config import Config
from qwen_asr.errors import PortInUse, QwenASRError, ShareUnavailable, StartupError
from qwen_asr.web.socket_protocol import socket_options

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from qwen_asr.live.events import Event
    from qwen_asr.tls.chosen import Chosen
    from qwen_asr.web.seats import Seat
    from qwen_asr.web.service import Service
    from qwen_asr.web.speaker import Wishes
    from qwen_asr.web.stopping import Stopping

log = logging.getLogger(__name__)

GRACE_SECONDS = 2
"""How long open requests may take when the server stops; each open page holds one that would never end by itself."""
_LOOK_SECONDS = 0.1
_QUIET_LOOKS = 3  # for what was written last to reach the other side
FAREWELL_SECONDS = 1.5
"""How long a server that cannot load its checkpoint still tells open pages why, before it ends."""


def create_app(config: Config, service: Service, *, chosen: Chosen | None = None, **settings: Any) -> FastAPI:
    """The app over `service`, which the caller starts and closes; `chosen` is the certificate that it is served with.

    `settings` are `streaming_microphone`'s.
    """
    import gradio as gr  # heavy; the port is taken before it is imported
    from fastapi import FastAPI

    from qwen_asr.engine.languages import resolve_language
    from qwen_asr.web import asr_socket, realtime_socket, rest
    from qwen_asr.web.forwarded import Forwarded
    from qwen_asr.web.page import CSS, build_page, theme
    from qwen_asr.web.speaker import Speakers
    from qwen_asr.web.stopping import Recordings, Stopping

    def listen(wishes: Wishes, on_events: Callable[[list[Event]], None]) -> Seat:
        try:
            return service.listen(wishes, on_events)
        except Exception as error:
            service.instruments.count(error)
            raise

    speakers = Speakers(listen)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        speakers.close()

    app = FastAPI(title="Qwen3-ASR live", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Unbuffered)
    app.state.speakers = speakers
    app.state.service = service
    # Routes of our own go here: after the mount at "/" they would answer 404.
    transcriptions = rest.add_routes(app, service)
    sockets = [room.add_route(app, service) for room in (asr_socket, realtime_socket)]
    app.state.stopping = Stopping(service, Recordings(speakers), *sockets, transcriptions)
    if chosen is not None and chosen.root is not None:
        from qwen_asr.web import trust

        trust.add_routes(app, chosen.root, config.host)
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
        root_path=config.root_path,
        # Gradio shows the text of any exception otherwise; what people may read is raised as gr.Error.
        show_error=False,
    )
    # The last one added is the outermost: everything else goes by what it has put right.
    app.add_middleware(Forwarded, trusted=config.trusted_proxies, root_path=config.root_path or "")
    gradio_app: Any
    [gradio_app] = [route.app for route in mounted.routes if isinstance(route, Mount) and route.path == ""]

    def end_streams() -> None:
        # Each open page holds an event stream that ends by itself only at this sign.
        gradio_app.stop_event.set()
        transcriptions.give_up()

    app.state.end_streams = end_streams
    return mounted


def serve(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises StartupError where it cannot start, and what loading raised where there is no checkpoint to serve with. On a
    Hugging Face Space that last is shown on the page instead: nobody there reads an exit code.
    """
    # First the certificate and the port: nobody wants to load for minutes and then hear of a mistake.
    chosen = _certificate(config)
    listening = bind(config.host, config.port)
    try:
        options = {"ssl_context_factory": lambda *_: chosen.context} if chosen else {}
        port = listening.getsockname()[1]
        say("Starting ...")
        from qwen_asr.web.service import Service  # heavy; see above

        service = Service(config)
        server = create_server(create_app(config, service, chosen=chosen), **options)
        _announce(config, port, chosen)
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
        "proxy_headers": False,  # `Forwarded` does it, and more; nothing may be done twice
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    configured = uvicorn.Config(around(app), **settings | socket_options() | options)
    return Server(configured, app.state.end_streams, getattr(app.state, "stopping", None))


class Server(uvicorn.Server):
    """uvicorn's, that ends at a signal and returns, instead of raising the signal again: a stop is no failure."""

    stopped_by: int | None = None

    def __init__(
        self, config: uvicorn.Config, on_stop: Callable[[], None] = lambda: None, stopping: Stopping | None = None
    ) -> None:
        """`stopping` ends the open sessions first, while all is still served; `on_stop` is called then, in the server's
        loop, before open requests are waited for."""
        super().__init__(config)
        self._on_stop = on_stop
        self._stopping = stopping

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
        """Ends the sessions, then the connections as uvicorn does, then what is still open."""
        if self._stopping is not None:
            await self._stopping.run(lambda: self.force_exit)
        self._on_stop()
        hanging_up = asyncio.create_task(self._hang_up())
        await super().shutdown(sockets)
        hanging_up.cancel()
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves it out then, and the app's end would be a traceback
        self._abort()
        await asyncio.sleep(0.1)  # the loop's own turn, in which transports are really closed

    async def _hang_up(self) -> None:
        """A browser need not answer the end of TLS, or of a socket: where nothing is left to say, nobody waits."""
        quiet = 0
        while quiet < _QUIET_LOOKS:
            await asyncio.sleep(_LOOK_SECONDS)
            quiet = 0 if self.server_state.tasks else quiet + 1
        self._abort()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    def _stop(self, number: int, _: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = number
        if self._stopping is not None:
            self._stopping.announce()


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
        return StartupError(
            f"Port {port} is reserved for administrators: give one of 1024 or above with --port, or give the server "
            "the right to it (on Linux CAP_NET_BIND_SERVICE, as docs/https.md shows)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartupError(f"--host {host} is no address of this machine: give one that is, or 0.0.0.0 for all.")
    return StartupError(f"Cannot listen on {host}:{port} ({error.strerror}): give another --host or --port.")


def _certificate(config: Config) -> Chosen | None:
    if not config.tls:
        return None
    from qwen_asr.tls.chosen import choose_certificate

    return choose_certificate(config)


def _announce(config: Config, port: int, chosen: Chosen | None = None) -> None:
    from qwen_asr.tls.addresses import page_urls
    from qwen_asr.web import qr

    say("The page is at:")
    urls = page_urls(config.host, port, config.tls)
    if chosen is not None and not chosen.own:  # the names that it is for come first: only there no browser warns
        names = (name for name in chosen.checked.names if "*" not in name and name != "localhost")
        urls = tuple(dict.fromkeys((*(page_urls(name, port, True)[0] for name in names), *urls)))
    for url in urls:
        say(f"  {url}")
    if not config.tls and not config.on_space and any("//localhost" not in url for url in urls):
        say("But for localhost, browsers give the microphone over https only: see --generate-self-signed-cert.")
    if config.tls:
        say("Type the https:// too: over plain http nothing answers.")
    if config.generate_self_signed_cert:
        say("The certificate is self-signed: the browser warns once; go on to the page there.")
    if chosen is not None and chosen.root is not None:
        say(f"So that no browser warns, install the authority once: {(qr.network_url(urls) or urls[0])}/trust")
        say(f"Its SHA-256 fingerprint: {chosen.root.fingerprint}")
    phone = qr.network_url(urls)
    if config.tls and phone and qr.can_show():
        say(qr.terminal_code(phone))
        say(f"For a phone on the same network: {phone}")


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
