"""Limits that are not options: sizes, timeouts and counts, as frozen dataclasses.

Each name contains its unit. `Limits` groups them for `Service`, and each route takes its part. A test can pass
its own: ``Service(config, limits=Limits(upload=UploadLimits(file_bytes=1000)))``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 5
"""The `Retry-After` header of a temporary refusal, such as while the checkpoint is loading."""


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """Limits for the recordings of the page."""

    idle_seconds: float = 60.0
    """A recording is freed after this long without a request from its page: the connection was lost without notice."""
    reconnect_seconds: float = 8.0
    """How long recordings are kept after their page has said that it goes away. It may return: the Back button of the
    browser shows it as it was."""
    block_bytes: int = 1 << 20
    """Maximum audio in one request of the page. The page splits larger blocks, to bound the memory of a request."""
    upload_bytes: int = 8 << 20
    """Maximum size of a block of the simple recorder, the only file that pages upload. It sends one every half second,
    and after a pause of the network all that gathered: this is 40 s of 48 kHz stereo."""
    upload_form_bytes: int = 4 << 10
    """Maximum size of the form around such a block."""
    block_seconds: float = 60.0
    """Maximum length of such a block."""
    stored_bytes: int = 512 << 20
    """Such files on disk at once, for all pages together, each counted for `abandoned_seconds`."""
    stored_bytes_per_address: int = 128 << 20
    """The same for each address. A recorder sends 6 MB in that time."""
    events_per_tab: int = 4
    """Recordings of the simple recorder that a page may have at once; it has one."""
    recorders_per_address: int = 64
    """Pages of one address that may have such recordings at once."""
    language_characters: int = 64
    """Maximum length of a language's name in a message of the page."""
    model_characters: int = 256
    """Maximum length of a model's name in a message of the page."""
    context_characters: int = 10_000
    """Maximum length of the context in a message of the page."""
    abandoned_seconds: float = 60.0
    """A file that a page uploads is removed once nothing was written to it for this long: the connection broke, or no
    event came for it. The recorder names each block at once."""
    backlog_seconds: float = 600.0
    """Audio that the page buffers while the server is unreachable. Beyond it, recording stops with an error message."""
    message_bytes: int = 3 << 19
    """Maximum body of a JSON request: a block of audio in base64, and the context."""
    brackets: int = 20_000
    """Maximum number of `[` and `{` in such a body, those in strings aside. The page's own have a handful. A body of
    nothing else costs 30 times its size in memory when it is parsed."""
    transcript_bytes: int = 4 << 20
    """Maximum body of the request that saves a transcript. Five hours with the times of all words are 1.7 MB in
    English, and 2.7 MB in Chinese, where each character is a word."""
    transcript_brackets: int = 200_000
    """Maximum number of `[` and `{` in a transcript that is saved: about the number of its words and utterances."""
    transcript_characters: int = 500_000
    """Maximum length of its text: five hours have 300,000 characters. Making cues of it takes a second or two."""
    transcript_seconds: float = 100 * 3600.0
    """Maximum of its times: subtitles have two digits for the hours."""
    body_seconds: float = 60.0
    """How long a body may take to arrive: 8 MiB at 140 kB/s, 1 s of 48 kHz at 2 kB/s."""
    bodies_bytes: int = 64 << 20
    """How much of the bodies of unanswered requests is held in memory, for all pages together."""
    bodies_bytes_per_address: int = 16 << 20
    """The same for each address. A page sends one body at a time."""


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Limits for `/v1/audio/transcriptions`."""

    file_bytes: int = 512 << 20
    """Maximum size of the audio file, which is stored on disk, not in memory. OpenAI's own server accepts 25 MB."""
    address_bytes: int = 1 << 30
    """Maximum size of the files of one address that are on disk at once, while they arrive and are transcribed. It is
    two of the largest files, or dozens of usual ones; several users may share an address."""
    address_seconds: float = 8 * 3600.0
    """Maximum audio of the files of one address that are transcribed at once, as far as they are decoded; at least one
    file of `--max-file-seconds`. Compressed silence is small, so a limit of bytes does not bound the work."""
    form_bytes: int = 1 << 20
    """Maximum size of the rest of the form: fields, headers, boundaries."""
    call_bytes: int = 64 << 10
    """Maximum size of a call of Gradio's clients, which names a file that they have uploaded."""
    unclaimed_seconds: float = 60.0
    """How long such a file waits for its call, and the call for the stream that tells its result. A client sends them
    one right after the other."""
    json_bytes: int = 32 << 20
    """Maximum size of a request in JSON, with its audio in base64. Unlike a file it is in memory, until it is read: one
    of 24 MB, like the largest that OpenAI's own server accepts."""
    json_seconds: float = 120.0
    """How long such a request may take to arrive."""
    json_bytes_per_address: int = 64 << 20
    """Maximum size of the requests in JSON of one address that are in memory at once."""
    json_bytes_in_all: int = 128 << 20
    """The same for all addresses. Reading one takes five times as much for a moment."""
    json_items: int = 100_000
    """Maximum number of values in a request in JSON. In memory each takes far more than its bytes."""
    write_bytes: int = 1 << 20
    """How much of the file is buffered before a thread writes it. A write per network packet would cost more."""
    idle_seconds: float = 60.0
    """Maximum pause between two chunks of an upload, and how far it may fall behind `bytes_per_second`."""
    bytes_per_second: int = 1 << 10
    """Minimum rate of an upload. Without it a byte a minute would hold a connection for years. A recorder that uploads
    while it records sends twice as much with the lowest bit rates for speech."""
    linger_seconds: float = 5.0
    """How long the rest of a refused upload is read and discarded, so that the client can read the response."""
    shutdown_linger_seconds: float = 0.5
    """The same during shutdown, when less time is left."""
    ahead_seconds: float = 30.0
    """Decoding of a file pauses while this much of its speech is waiting for the recognizer."""
    threads: int = max(1, min(4, (os.cpu_count() or 1) // 4))
    """Number of threads that decode files and detect voice in them, for all files together: a quarter of the cores at
    most, so that live speech has the others. One transcribes silence at some hundred times its speed."""


@dataclass(frozen=True, kw_only=True)
class LinkLimits:
    """Limits for files that the page has the server fetch. The largest is that of an upload."""

    url_characters: int = 4096
    """Maximum length of an address. Signed addresses of cloud storage have up to two thousand characters."""
    body_bytes: int = 32 << 10
    """Maximum size of the request, which holds the address."""
    body_seconds: float = 20.0
    """How long that request may take to arrive."""
    redirects: int = 5
    """How many redirects are followed."""
    connect_seconds: float = 10.0
    """How long the name may take to resolve, and each of its addresses to be connected to."""
    idle_seconds: float = 20.0
    """Maximum pause in the other server's answer, and in what the page takes of it."""
    seconds: float = 1800.0
    """How long a file may take in all: 512 MiB at 300 kB/s."""


@dataclass(frozen=True, kw_only=True)
class WatchdogLimits:
    """How long a pass over the model may take, and what happens after one that hangs or runs out of memory."""

    base_seconds: float = 30.0
    """Allowed for every pass."""
    seconds_per_frame: float = 0.02
    """Allowed in addition for each log-mel frame (10 ms) that the pass encodes."""
    seconds_per_position: float = 0.2
    """Allowed in addition for each decoder position. Both are about 20 times the times of Qwen3-ASR-0.6B on two CPU
    cores."""
    poll_seconds: float = 1.0
    """How often the watchdog checks for a pass that hangs."""
    hanging_threads: int = 2
    """The server accepts no more work once this many threads hang, each of which occupies a core."""
    memory_seconds: float = 10.0
    """How long no session is opened after a pass ran out of memory."""


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """When the models of a server with several are loaded and unloaded; see docs/operate.md."""

    idle_seconds: float = 300.0
    """A model that no session has used for so long is unloaded when memory is short."""
    short_share: float = 0.1
    """Memory is short while less than this share of it is free: of the GPU's, on a CPU of the machine's."""
    memory_per_byte: float = 2.0
    """What a model needs, for each byte of its weights on disk. These are 16 bits wide and may become 32 bits wide in
    memory, or else leave as much for the KV cache and the passes."""
    wait_seconds: float = 60.0
    """How long a request waits for its model to load. Afterwards it is refused, and loading goes on."""
    retry_seconds: float = 30.0
    """How long after loading has failed the next request makes the server try again."""


@dataclass(frozen=True, kw_only=True)
class ShutdownLimits:
    """Limits for a graceful shutdown."""

    seconds: float = 10.0
    """How long audio that was already received is still transcribed. If a supervisor kills the process earlier (Docker
    after 10 s, Kubernetes after 30 s), configure it as described in docs/operate.md."""
    notice_seconds: float = 1.0
    """How long sessions without a result after `seconds` may take to notify their clients."""
    load_failure_seconds: float = 1.5
    """How long a server that could not load its checkpoint keeps running, so that open pages can show why."""


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """Limits for logins, and for requests of the page."""

    wrong_credentials: str = "20/minute"
    """Failed authentications per address. Above this rate, even correct credentials are refused, so whoever shares an
    address with somebody who guesses passwords cannot log in for a minute."""
    page_requests: str = "3000/10 seconds"
    """Requests of the page per address. A page that records sends about five a second, and loads with a hundred."""
    login_bytes: int = 8 << 10
    """Maximum size of the login form."""
    login_seconds: float = 10.0
    """How long the login form may take to arrive."""
    login_idle_seconds: float = 24 * 3600.0
    """A login ends after this long without a request."""
    login_total_seconds: float = 30 * 24 * 3600.0
    """A login ends after this long in any case."""
    client_secrets_bytes: int = 16 << 20
    """Maximum memory of the client secrets that have not expired: some ten thousand with short settings."""
    client_secrets_bytes_per_owner: int = 4 << 20
    """The same for each key, user or address that makes them."""


@dataclass(frozen=True, kw_only=True)
class SocketLimits:
    """Limits for WebSocket connections."""

    config_bytes: int = 1 << 16
    """Maximum size of a text message. It fits 10,000 tokens, the longest context that Qwen3-ASR was trained with.
    Before a session exists, no more than four times as much is buffered of a message. The rest of a longer one stays
    with the client until then; a longer config ends the connection with close code 1009."""
    held_bytes: int = 1 << 20
    """Audio that is buffered for a client that waits in the queue: 16 s of float32 at 16 kHz. Beyond it, the server
    stops reading until the session starts."""
    message_bytes: int = 4 << 20
    """Maximum size of an audio message: a minute of float32 at 16 kHz. Files have to be sent in chunks."""
    frames_per_second: float = 2_000
    """WebSocket frames that are read from one connection in a second, on average: 20 times as many as a client sends
    with 10 ms of audio in each. Above it, the server reads more slowly; nothing is lost."""
    empty_frames_per_second: float = 100
    """The same for frames that carry nothing: pings, pongs, and empty messages or fragments."""
    burst_seconds: float = 2.0
    """The frames of so many seconds may come at once after a pause."""
    flood_seconds: float = 10.0
    """A client that sends too many frames that carry nothing for so long is disconnected with close code 1008."""
    config_seconds: float = 10.0
    """How long a client may take to send its first message."""
    idle_seconds: float = 60.0
    """How long a client may give no sign of life while the server is reading: no byte, not even the pong to a ping. It
    detects half-open connections. The server sets it to `--max-idle-seconds`, which has the same default."""
    pause_seconds: float = 300.0
    """How long a client that is alive may send no audio while others wait for its slot. The server sets it to
    `--max-pause-seconds`, which has the same default."""
    pause_poll_seconds: float = 5.0
    """How often a session whose pause is longer checks whether somebody waits."""
    session_seconds: float = 4 * 3600.0
    """Maximum duration of a session. The server sets it to `--max-session-seconds`, which has the same default."""
    resume_seconds: float = 30.0
    """How long a session keeps its slot after its connection was lost, so that the client can resume it."""
    kept_finals: int = 1024
    """How many finals a session keeps for a client that resumes it: hours of speech, at most a megabyte."""
    ahead_seconds: float = 30.0
    """The server stops reading from a client while this much of its speech is waiting for the recognizer."""
    waiting_messages: int = 256
    """The server stops reading from a slow client while this many messages to it are waiting."""
    waiting_turns: int = 16
    """The server stops reading from a realtime client while this many committed turns are waiting for their text."""
    send_seconds: float = 30.0
    """How long a client may take to accept one message before it is disconnected."""
    close_seconds: float = 10.0
    """How long a connection may stay open after its session ended: for the last messages and the close handshake."""
    ping_seconds: float = 20.0
    """Interval of pings, which keep idle connections open in proxies and routers."""
    threads: int = max(1, min(4, (os.cpu_count() or 1) // 2))
    """Number of threads for voice detection and resampling, separate from the thread pool of the pages. Half of the
    cores at most: on few cores, more threads take the time that the model needs."""


@dataclass(frozen=True, kw_only=True)
class AcceptorLimits:
    """Limits for connections to the server's ports: how many are open, and how long they may wait for their client.

    A connection is waiting until its first byte, its TLS handshake, or its request for a redirect is complete.
    """

    open_files: int = 1 << 16
    """The limit of open files is raised to this at the start, or to the hard limit if that is lower."""
    reserved_files: int = 256
    """Of these files, how many are kept for other things than connections: uploads on their way, models, logs, threads.
    With a limit below twice as many, it is half of the files."""
    connections_per_address: int = 256
    """Open connections of one address, WebSockets included. The server sets it to `--max-connections-per-address`."""
    waiting: int = 512
    """Maximum number of waiting connections. One more closes the oldest of the source that has most."""
    waiting_per_address: int = 64
    """The same for each address. A browser opens six at once, and many users may share an address."""
    first_byte_seconds: float = 10.0
    """How long a connection may take to send its first byte. Browsers open connections in advance, and reopen them."""
    handshake_seconds: float = 10.0
    """How long the TLS handshake may take after the first byte."""
    shutdown_seconds: float = 5.0
    """How long the peer may take to answer the TLS close notification."""
    request_seconds: float = 5.0
    """How long a redirected request may take, including its response."""
    idle_seconds: float = 20.0
    """How long a connection may be open without a complete request. After a response, uvicorn itself waits 5 s."""
    body_seconds: float = 120.0
    """How far a request's body may fall behind `body_bytes_per_second`, whatever route it is for. Routes that read a
    body give up earlier, with an answer (`UploadLimits`)."""
    body_bytes_per_second: int = 512
    """Minimum rate of a request's body."""


@dataclass(frozen=True, kw_only=True)
class FleetLimits:
    """Limits for the connections between the server and engines in other processes."""

    ping_seconds: float = 2.0
    """Interval of the server's pings to each engine."""
    pong_seconds: float = 3.0
    """How long an engine may take to answer one. With the interval and `close_seconds`, a process that hangs is noticed
    within 6 s; its calls go to others at once."""
    close_seconds: float = 1.0
    """How long a connection may take to close."""
    connect_seconds: float = 5.0
    """How long connecting may take, with the TLS handshake and the engine's first answer."""
    retry_seconds: float = 0.25
    """Before the first attempt to connect again. Each further one waits twice as long."""
    retry_most_seconds: float = 3.0
    """The longest wait between two attempts: an engine that is back is used within a few seconds."""
    refused_seconds: float = 30.0
    """The same for an engine that answers, but cannot be used: another checkpoint or version, or a wrong key."""
    resolve_seconds: float = 10.0
    """How often a host name is resolved again: behind it engines may come and go."""
    connections: int = 64
    """Web servers that an engine serves at once."""
    calls: int = 1024
    """Calls of one of them that are under way in an engine. It reads no more until one of them is answered."""
    peer_ping_seconds: float = 20.0
    """Interval of an engine's pings to a web server, and how long that may take to answer one."""
    drain_seconds: float = 35.0
    """How long an engine that is told to stop still works on the steps under way."""
    unhealthy_seconds: float = 3.0
    """The same for one whose recognizer hangs."""
    probe_seconds: float = 5.0
    """How long an engine that the server has started may take to answer a probe, and the time between two that it
    answers."""
    failed_probes: int = 3
    """After so many probes in a row without an answer, it is killed and started again."""
    restart_seconds: float = 1.0
    """Before an engine that has ended is started again. Each further start waits twice as long."""
    restart_most_seconds: float = 30.0
    """The longest wait before a start."""
    stop_seconds: float = 5.0
    """How long such an engine may take to end when the server, which has no more sessions, ends."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All limits of a server."""

    page: PageLimits = field(default_factory=PageLimits)
    upload: UploadLimits = field(default_factory=UploadLimits)
    links: LinkLimits = field(default_factory=LinkLimits)
    sockets: SocketLimits = field(default_factory=SocketLimits)
    guard: GuardLimits = field(default_factory=GuardLimits)
    watchdog: WatchdogLimits = field(default_factory=WatchdogLimits)
    models: ModelLimits = field(default_factory=ModelLimits)
    shutdown: ShutdownLimits = field(default_factory=ShutdownLimits)
    acceptor: AcceptorLimits = field(default_factory=AcceptorLimits)
    fleet: FleetLimits = field(default_factory=FleetLimits)
