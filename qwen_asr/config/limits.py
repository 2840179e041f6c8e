"""The limits of the server that are not options. Each stands here once, with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_SECONDS = 60.0
"""A page from which nothing was heard for so long is gone (a silent network death); its session is freed."""
LEAVING_SECONDS = 8.0
"""How long a page whose connection ended may come back before its session is freed. A phone that changes from Wi-Fi to
mobile drops every connection at once and is back seconds later; a closed tab never is."""
MAX_BLOCK_BYTES = 1 << 20
"""The most audio that the page posts at once; more is split, so that one request never fills the memory."""
MAX_BACKLOG_SECONDS = 600.0
"""How much audio the page keeps for a server that it cannot reach, before it stops recording and says so."""
MAX_UPLOAD_BYTES = 512 << 20
"""The largest audio file that the REST route takes; it lies on disk meanwhile. OpenAI's own server takes 25 MB."""
MAX_FORM_BYTES = 1 << 20
"""The most bytes of an upload's form beside the file itself: fields, headers, boundaries."""
LINGER_SECONDS = 5.0
"""How long the rest of a refused upload is still read and thrown away, so that the sender gets to read the answer."""
RETRY_AFTER_SECONDS = 5
"""When a client that came while the checkpoint was loading is told to come again."""
WRONG_KEYS = "20/minute"
"""How many wrong keys and passwords an address may try; for the rest of the minute not even a right one is compared."""
MAX_AHEAD_SECONDS = 30.0
"""How much ended speech of a file waits, decoded, for the recognizer before more of the file is read."""
STOP_SECONDS = 10.0
"""How long a server that stops still recognizes what it has received, and tells it. What kills a server that does not
stop (Docker after 10 s, Kubernetes after 30 s) has to be told of it: docs/operate.md."""
STALL_SECONDS = 30.0
"""From when on a pass over the model that gets on with nothing counts as stuck, however little it has to do …"""
STALL_SECONDS_PER_FRAME = 0.02
"""… and how much longer it may take for each log-mel frame (10 ms) that it encodes, and for each position of the
decoder: some twenty times what Qwen3-ASR-0.6B took on two CPU cores."""
STALL_SECONDS_PER_POSITION = 0.2
WATCH_SECONDS = 1.0
"""How often that is looked at."""
MAX_STUCK_THREADS = 2
"""How many threads may be stuck, each on a core of its own, before the server takes no more work."""
MEMORY_SECONDS = 10.0
"""For how long after a pass found no memory nobody gets a new session."""


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
    idle_seconds: float = IDLE_SECONDS
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
