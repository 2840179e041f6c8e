"""`create_app`: all routes and the page as one ASGI app. `serve`: the server from its start to its shutdown.

`serve` binds the port, prints the addresses, loads the checkpoint in the background and runs until a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.routing import Mount, WebSocketRoute

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits
from qwen_asr.engine.device.memory import keep_what_is_loaded
from qwen_asr.engine.device.torch_thread import end_process
from qwen_asr.redaction import redact_logs
from qwen_asr.service.load_engine import check_engines
from qwen_asr.service.telemetry.export import start_telemetry
from qwen_asr.service.telemetry.settings import secrets as telemetry_secrets
from qwen_asr.web.access.hsts import StrictTransport
from qwen_asr.web.error_response import refuse_unknown_path, unknown_path_response
from qwen_asr.web.temporary_files import private_folder
from qwen_asr.web.transport.file_limit import raise_file_limit
from qwen_asr.web.transport.https import active_certificate, check_https_options, choose_certificate
from qwen_asr.web.transport.open_connections import OpenConnections
from qwen_asr.web.transport.uvicorn_server import Server, bind, create_server

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from qwen_asr.live.events import Event
    from qwen_asr.live.session_options import SessionOptions
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service
    from qwen_asr.service.sessions import TrackedRunner
    from qwen_asr.service.telemetry.export import Telemetry
    from qwen_asr.tls.certificates import ServerCertificate
    from qwen_asr.tls.reloading import ReloadingCertificate
    from qwen_asr.web.access.hosts import AllowedHosts
    from qwen_asr.web.page.recordings import RecordingRegistry

log = logging.getLogger(__name__)

LOADING_THRESHOLD = 100_000
"""Objects between two runs of Python's garbage collector until the checkpoint is loaded. Imports create a million
objects that stay, and with Python's default of 700 the collector takes a tenth of the time until the server is ready.
"""


def create_app(
    config: Config,
    service: Service,
    *,
    chosen: ServerCertificate | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """Creates the app for `service`, which the caller starts and closes. Its limits are `service.limits`.

    `chosen` is the certificate that the app is served with. If a private authority signed it, `/trust` and `/ca.pem`
    are added. With `telemetry` its requests and sessions are traced.
    """
    from qwen_asr.web.page.gradio_import import import_gradio

    import_gradio()  # before the modules below, which import it too; it is slow, and the port is bound already
    from fastapi import FastAPI

    from qwen_asr.service.shutdown import Stopping
    from qwen_asr.web.access.forwarded import ForwardedHeaders
    from qwen_asr.web.access.guard import AccessGuard
    from qwen_asr.web.access.response_headers import SecurityHeaders
    from qwen_asr.web.page.files import route as files
    from qwen_asr.web.page.files.links import LinkRoute
    from qwen_asr.web.page.head_script import HeadScript
    from qwen_asr.web.page.phone import section as phone
    from qwen_asr.web.page.recordings import RecordingRegistry
    from qwen_asr.web.page.requests import EventStreams, PageRequests
    from qwen_asr.web.page.transcribe_endpoint import TranscribeEndpoint, describe
    from qwen_asr.web.rest import routes as rest
    from qwen_asr.web.sockets.asr.route import AsrRoute
    from qwen_asr.web.sockets.deepgram.route import ListenRoute
    from qwen_asr.web.sockets.realtime.route import RealtimeRoute

    def open_session(
        options: SessionOptions,
        on_events: Callable[[list[Event]], None],
        slot: QueueTicket | None = None,
        address: str = "",
    ) -> TrackedRunner:
        try:
            return service.open_session(options, on_events, slot=slot, address=address)
        except Exception as error:
            service.instruments.count(error)
            raise

    limits = service.limits
    guard = AccessGuard(config, service.rates, limits.guard)
    recordings = RecordingRegistry(
        open_session,
        limits=limits.page,
        admission=service.admission,
        rates=service.rates,
        session_seconds=config.max_session_seconds,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        recordings.close()

    app = FastAPI(title="Qwen3-ASR live", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    # The last one that is added sees a request first.
    streams = EventStreams()
    app.add_middleware(HeadScript)
    app.add_middleware(PageRequests, lambda: gradio_app.get_blocks(), limits.page, streams)
    app.add_middleware(Unbuffered)
    app.add_middleware(guard.middleware)
    app.add_middleware(SecurityHeaders, framed=config.on_space)
    app.state.allowed_hosts = guard.hosts
    app.state.recordings = recordings
    app.state.service = service
    # Before the page, which is mounted at "/" and answers every path that is left.
    sockets = [route.add_to(app, service) for route in (AsrRoute, RealtimeRoute, ListenRoute)]
    app.router.routes.append(WebSocketRoute("/{path:path}", refuse_unknown_path))
    transcriptions = rest.add_routes(app, service)  # the last, because it answers every path below /v1 that is left
    TranscribeEndpoint(transcriptions, limits.upload, describe).add_to(app)
    phone.add_routes(app)
    files.add_route(app, service, transcriptions)
    LinkRoute(service, transcriptions).add_to(app)
    app.state.stopping = Stopping(service, recordings, *sockets, transcriptions)
    if chosen is not None and chosen.root is not None:
        from qwen_asr.web.page import trust

        trust.add_routes(app, chosen.root, config.host)
    mounted = _in_event_loop(lambda: _mount_page(app, config, service, recordings))
    if telemetry is not None and telemetry.tracer is not None:
        from qwen_asr.web.tracing import TracedRequests

        service.sessions.trace = telemetry.session
        app.add_middleware(TracedRequests, telemetry.tracer)
    # Added last, so it is the outermost middleware: all others see the corrected request.
    app.add_middleware(ForwardedHeaders, trusted=config.trusted_proxies, root_path=config.root_path or "")
    gradio_app: Any
    [gradio_app] = [route.app for route in mounted.routes if isinstance(route, Mount) and route.path == ""]
    gradio_app.add_exception_handler(404, unknown_path_response)

    def end_streams() -> None:
        streams.end()
        transcriptions.give_up()

    app.state.end_streams = end_streams
    return mounted


def _mount_page(
    app: FastAPI,
    config: Config,
    service: Service,
    recordings: RecordingRegistry,
) -> FastAPI:
    import gradio as gr

    from qwen_asr.engine.languages import resolve_language
    from qwen_asr.web.page.page import CSS, build_page, theme

    page = build_page(
        recordings,
        service,
        language=resolve_language(config.default_language),
        context=config.default_context or "",
        pause_seconds=config.silence_threshold,
        limits=service.limits.page,
        file_bytes=service.limits.upload.file_bytes,
        has_links=config.link_addresses.enabled,
        has_login=bool(config.auth),
        host=config.host,
        models=[model.name for model in service.models.all],
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
        run_history=False,  # transcripts must not stay in the browser's storage
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        root_path=config.root_path,
        max_file_size=service.limits.page.upload_bytes,
        # Gradio would show the text of any exception; messages for people are raised as gr.Error.
        show_error=False,
    )
    # Each tab would hold a connection for as long as it is open, and over HTTP/1.1 browsers open six to a host. The
    # server finds out that a tab is gone by `leave` in microphone.py, and by `PageLimits.idle_seconds`.
    page.config["connect_heartbeat"] = False
    return mounted


def _in_event_loop(mount: Callable[[], FastAPI]) -> FastAPI:
    """Calls `mount` in an event loop. Without one Gradio creates a loop for each of its locks and closes none."""

    async def run() -> FastAPI:
        return mount()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    return mount()


def serve(config: Config, limits: Limits | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises StartupError if the server cannot start, and the error of loading if the checkpoint cannot be loaded. On a
    Hugging Face Space the page shows that error instead, because nobody sees an exit code there.
    """
    # Certificate and ports come first, so that a mistake shows before minutes of loading.
    secrets = (*config.secrets, *telemetry_secrets(os.environ))
    redact_logs(secrets)
    limits = limits or Limits()
    acceptor = replace(limits.acceptor, connections_per_address=config.max_connections_per_address)
    connections = OpenConnections.within(
        raise_file_limit(acceptor.open_files), acceptor, config.trusted_proxies.trusts_peer
    )
    check_https_options(config)
    check_engines(config)
    chosen = choose_certificate(config)
    with contextlib.ExitStack() as stack:
        telemetry = start_telemetry(os.environ)
        if telemetry is not None:
            stack.callback(telemetry.close)
        thresholds = gc.get_threshold()
        stack.callback(gc.set_threshold, *thresholds)
        gc.set_threshold(LOADING_THRESHOLD)
        listening = stack.enter_context(bind(config.host, config.port))
        plain = None
        if config.http_redirect_port is not None:
            plain = stack.enter_context(bind(config.host, config.http_redirect_port, "--http-redirect-port"))
        port = listening.getsockname()[1]
        say("Starting ...")
        stack.enter_context(private_folder(limits.page))
        certificate = stack.enter_context(active_certificate(config, chosen, port, plain, connections))
        from qwen_asr.service.service import Service  # heavy
        from qwen_asr.web.access.guard import access_warnings
        from qwen_asr.web.rest.metrics import ServiceMetrics

        service = Service(config, limits=limits)
        app = create_app(config, service, chosen=chosen, telemetry=telemetry)
        app.state.certificate = certificate
        if telemetry is not None:
            telemetry.export_metrics([service.instruments, ServiceMetrics(service, certificate)])
        server = create_server(
            app,
            certificate=certificate,
            middleware=_hsts(config, certificate),
            limits=acceptor,
            connections=connections,
        )
        redact_logs(secrets)  # again, for the handlers that uvicorn has added
        _announce(config, port, chosen)
        for sentence in access_warnings(config):
            log.warning("%s", sentence)
        service.start(lambda: _loaded(config, service, server, thresholds))
        if config.share and not config.on_space:
            stack.enter_context(_shared(port, app.state.allowed_hosts))
        server.run(sockets=[listening])
        service.close()
        say("Stopped.")
    if service.error is not None and server.stopped_by is None:
        raise service.error
    return end_process(0)


@contextlib.contextmanager
def _shared(port: int, hosts: AllowedHosts) -> Iterator[None]:
    """Has a public link to `port` inside the block, whose name is then one of the allowed hosts."""
    from qwen_asr.web import qr
    from qwen_asr.web.share_link import ShareLink

    def announce(link: str) -> None:
        hosts.share(link)
        if qr.can_show():
            say(qr.terminal_code(link))
        say(f"The public link: {link}")

    share = ShareLink(port, announce, say)
    share.start()
    try:
        yield
    finally:
        share.stop()


class Unbuffered:
    """Adds a header to event streams that turns off buffering in nginx and in other proxies that support it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the header to responses that are event streams."""

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    headers["X-Accel-Buffering"] = "no"
            await send(message)

        await self._app(scope, receive, mark if scope["type"] == "http" else send)


def _hsts(config: Config, certificate: ReloadingCertificate | None) -> Callable[[Any], Any]:
    """The outermost middleware: HSTS if the certificate is one of an authority, else none."""
    if certificate is None or not (config.ssl_certfile or config.acme_domain):
        return lambda app: app
    return lambda app: StrictTransport(app, lambda: certificate.leaf)


def _announce(config: Config, port: int, chosen: ServerCertificate | None = None) -> None:
    from qwen_asr.tls.addresses import page_urls
    from qwen_asr.tls.checks import certified_urls
    from qwen_asr.tls.preflight import is_signed_by
    from qwen_asr.web import qr

    say("The page is at:")
    hosts = config.acme_domain or (config.host,)
    urls = tuple(url for host in hosts for url in page_urls(host, port, config.tls))
    if chosen is not None and not chosen.own:
        urls = certified_urls(chosen.checked.names, port, urls)
    elif chosen is not None:  # it has the allowed hosts among its names
        named = (host for host in config.allowed_hosts if not host.startswith("*"))
        urls = tuple(dict.fromkeys((*urls, *(url for host in named for url in page_urls(host, port, True)))))
    for url in urls:
        say(f"  {url}")
    if not config.tls and not config.on_space and any("//localhost" not in url for url in urls):
        say("Browsers allow the microphone only over https, except on localhost: see --generate-self-signed-cert.")
    if chosen is not None and is_signed_by(chosen.checked.leaf, chosen.checked.leaf):
        say("The certificate is self-signed: the browser shows a warning once; continue to the page.")
    if chosen is not None and chosen.root is not None:
        say(f"Install the authority once, and no browser warns: {(qr.network_url(urls) or urls[0])}/trust")
        say(f"Its SHA-256 fingerprint: {chosen.root.fingerprint}")
    phone = qr.network_url(urls)
    if config.tls and phone and qr.can_show():
        say(qr.terminal_code(phone))
        say(f"For a phone on the same network: {phone}")


def say(text: str) -> None:
    """Prints a line to standard output. It is not a log record, so no log level hides the addresses."""
    print(text, flush=True)  # noqa: T201 - see above


def _loaded(config: Config, service: Service, server: Server, thresholds: tuple[int, int, int]) -> None:
    gc.set_threshold(*thresholds)
    keep_what_is_loaded()
    if service.error is None:
        say(f"Ready. {service.as_dict()['model']}")
    elif config.on_space:
        log.error("%s", service.error)
    else:
        time.sleep(service.limits.shutdown.load_failure_seconds)  # open pages show the error meanwhile
        server.should_exit = True
