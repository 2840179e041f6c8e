"""Limits that are not options: sizes, times and counts, as frozen dataclasses that are handed in.

Each name carries its unit. `Limits` groups them for `Service`, whose routes take their part of it, so a test gives
limits of its own: ``Service(config, limits=Limits(upload=UploadLimits(file_bytes=1000)))``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 5
"""The `Retry-After` header of a refusal that will pass by itself, such as while the checkpoint loads."""


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """Limits for the recordings of the page."""

    idle_seconds: float = 60.0
    """After this long without a request from its page, a recording is freed: the connection died without notice."""
    reconnect_seconds: float = 8.0
    """How long the recordings of a page whose connection ended are kept. A phone that changes from Wi-Fi to mobile
    data drops every connection at once and is back within seconds; a closed tab never returns."""
    block_bytes: int = 1 << 20
    """Audio in one request of the page; more is split, so that no request fills the memory."""
    backlog_seconds: float = 600.0
    """Audio that the page keeps while it cannot reach the server. Then it stops recording and shows why."""


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Limits for `/v1/audio/transcriptions`."""

    file_bytes: int = 512 << 20
    """The audio file. It is kept on disk, not in memory; OpenAI's own server takes 25 MB."""
    form_bytes: int = 1 << 20
    """The rest of the form: fields, headers, boundaries."""
    write_bytes: int = 1 << 20
    """How much of the file is collected before a thread writes it. Writing each network packet would cost more."""
    idle_seconds: float = 60.0
    """The longest pause between two pieces of an upload."""
    linger_seconds: float = 5.0
    """How long the rest of a refused upload is read and discarded, so that the client reads the answer."""
    shutdown_linger_seconds: float = 0.5
    """The same while the server stops, when its connections have less time."""
    ahead_seconds: float = 30.0
    """Speech of a file that may wait for the recognizer before more of the file is decoded."""


@dataclass(frozen=True, kw_only=True)
class WatchdogLimits:
    """How long a pass over the model may take, and what happens after one that hangs or finds no memory."""

    base_seconds: float = 30.0
    """A pass without any work …"""
    seconds_per_frame: float = 0.02
    """… and this much more for each log-mel frame (10 ms) that it encodes …"""
    seconds_per_position: float = 0.2
    """… and for each position of the decoder. Both are about twenty times what Qwen3-ASR-0.6B took on two CPU cores."""
    poll_seconds: float = 1.0
    """How often the watchdog checks for a pass that hangs."""
    hanging_threads: int = 2
    """With this many threads hanging, each on a core of its own, the server accepts no more work."""
    memory_seconds: float = 10.0
    """How long no session is opened after a pass failed for lack of memory."""


@dataclass(frozen=True, kw_only=True)
class ShutdownLimits:
    """Limits for a graceful shutdown."""

    seconds: float = 10.0
    """How long audio that was received is still transcribed. A supervisor that kills the process earlier (Docker after
    10 s, Kubernetes after 30 s) has to be configured: docs/operate.md."""
    notice_seconds: float = 1.0
    """How long sessions that got no text within `seconds` may take to tell their clients."""
    load_failure_seconds: float = 1.5
    """How long a server that could not load its checkpoint keeps running, so that open pages can show why."""


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """Limits for requests with wrong credentials."""

    wrong_credentials: str = "20/minute"
    """Wrong keys and passwords from one address. Over this rate even a right one is refused."""


@dataclass(frozen=True, kw_only=True)
class SocketLimits:
    """What the server takes on over its WebSockets, with units in the names; each is nobody's option either."""

    config_bytes: int = 1 << 16
    """A text message. The longest context that Qwen3-ASR was trained with, 10,000 tokens, fits."""
    held_bytes: int = 1 << 20
    """Audio that a client sends while it waits in the queue, kept for its session: 16 s of float32 at 16 kHz. No more
    is read then until it is in."""
    message_bytes: int = 4 << 20
    """A message of audio: a minute of float32 at 16 kHz. Whoever sends a file sends it in pieces."""
    config_seconds: float = 10.0
    """How long after the connection the first message may take."""
    idle_seconds: float = 60.0
    """How long nothing may come from a client that could send. It finds half-open connections too."""
    session_seconds: float = 4 * 3600.0
    """How long a session may last. The server takes it from `--max-session-seconds`, which has the same default."""
    resume_seconds: float = 30.0
    """How long a session whose connection was lost goes on, in its place, for the client to come back to."""
    kept_finals: int = 1024
    """How many finals a session keeps for a client that comes back: hours of speech, a megabyte at most."""
    ahead_seconds: float = 30.0
    """How much speech may wait for its text before no more is read from that client."""
    waiting_messages: int = 256
    """How many messages may wait for a client that reads slowly before no more is read from it."""
    waiting_turns: int = 16
    """How many committed turns of a realtime session may wait for their texts before no more is read from it."""
    send_seconds: float = 30.0
    """How long a client may take to accept one message; it is then given up."""
    close_seconds: float = 10.0
    """How long a connection may still exist after its session ended: its last messages, and the answer to the close."""
    ping_seconds: float = 20.0
    """A connection without traffic is kept open, in proxies and routers between, by a ping so often."""
    threads: int = 4
    """Voice detection and resampling run on so many threads at once: these few, not the pool that pages need."""


@dataclass(frozen=True, kw_only=True)
class AcceptorLimits:
    """What the ports for HTTPS and its redirects take on before there is a request, and between requests; nobody's
    option. Waiting is a connection whose first byte, handshake, or request for a redirect is not complete."""

    waiting: int = 512
    """Connections that wait at once; one more ends the oldest one from where most come."""
    waiting_per_address: int = 64
    """The same from one address. A browser opens six at once; many people may share one address."""
    first_byte_seconds: float = 10.0
    """How long a connection may take to say anything. Browsers open some ahead of need, and open them again."""
    handshake_seconds: float = 10.0
    """How long the TLS handshake may take from there on."""
    shutdown_seconds: float = 5.0
    """How long the other side may take to answer the end of TLS."""
    request_seconds: float = 5.0
    """How long a request that is only redirected may take, with its answer."""
    idle_seconds: float = 20.0
    """How long an open connection may be without a complete request; after an answer uvicorn waits 5 s itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All limits of one server."""

    page: PageLimits = field(default_factory=PageLimits)
    upload: UploadLimits = field(default_factory=UploadLimits)
    sockets: SocketLimits = field(default_factory=SocketLimits)
    guard: GuardLimits = field(default_factory=GuardLimits)
    watchdog: WatchdogLimits = field(default_factory=WatchdogLimits)
    shutdown: ShutdownLimits = field(default_factory=ShutdownLimits)
    acceptor: AcceptorLimits = field(default_factory=AcceptorLimits)
