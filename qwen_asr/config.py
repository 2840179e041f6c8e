"""Every option and every limit of the server, once.

`Config` is a frozen dataclass; of its fields `options` makes the command line and the table in the README::

    config = Config(port=8443, generate_self_signed_cert=True)              # from Python; raises BadConfig
    config = from_options(Config, vars(parser.parse_args()), os.environ)    # from the command line and the environment

A value is taken from the command line, else from the environment (`QWEN_ASR_…`, how a container or a Space is
set up), else from the default.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from qwen_asr.checks import check_hosts, check_keys, check_rate, check_users
from qwen_asr.errors import BadConfig
from qwen_asr.options import check, flag, option

# Limits that are nobody's option. Each stands here once, with its unit in its name.
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
    ahead_seconds: float = 30.0
    """How much speech may wait for its text before no more is read from that client."""
    waiting_messages: int = 256
    """How many messages may wait for a client that reads slowly before no more is read from it."""
    send_seconds: float = 30.0
    """How long a client may take to accept one message; it is then given up."""
    close_seconds: float = 10.0
    """How long a connection may still exist after its session ended: its last messages, and the answer to the close."""
    ping_seconds: float = 20.0
    """A connection without traffic is kept open, in proxies and routers between, by a ping so often."""
    threads: int = 4
    """Voice detection and resampling run on so many threads at once: these few, not the pool that pages need."""


LOCAL_HOST = "127.0.0.1"
ALL_HOSTS = "0.0.0.0"  # noqa: S104 - the address that "all addresses" is written as, bound only when asked for
DEFAULT_PORT = 8000
SPACE_PORT = 7860
"""The port that a Hugging Face Space forwards to the outside."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the server was told. Raises `BadConfig` for a value out of its range.

    `host` and `port` may be left out; once made, a Config always holds the address that is really bound.
    """

    asr_model_path: str = option(
        "auto",
        "hub id, folder, or `demo`. `auto`: Qwen3-ASR-1.7B on a GPU that holds it, else 0.6B; where neither is cached "
        "nor can be fetched, the bundled demo checkpoint, and the log and the page say so (`transcribe` fails instead)",
        "model",
        metavar="PATH",
        env="QWEN_ASR_MODEL_PATH",
    )
    device: str = option(
        "auto",
        "what the model runs on; `auto` takes the first of cuda, mps, cpu that is there",
        "model",
        choices=("auto", "cuda", "mps", "cpu"),
    )
    dtype: str = option(
        "auto",
        "number format of the weights; `auto` is what suits the device",
        "model",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    host: str = option(
        None,
        "address to listen on; `0.0.0.0` is all of them. Plain HTTP leaves the machine only if asked to",
        "server",
        metavar="ADDRESS",
        shown="`127.0.0.1`; `0.0.0.0` with HTTPS and on a Space",
    )
    port: int = option(
        None,
        "port to listen on; 0 takes any that is free",
        "server",
        metavar="N",
        low=0,
        high=65535,
        shown="`8000`; `7860` on a Space",
    )
    generate_self_signed_cert: bool = option(
        False,
        "serve HTTPS with a certificate made here: `certs/qwen_asr_cert.pem`, `certs/qwen_asr_key.pem`, "
        "used again while they fit this machine's addresses",
        "server",
    )
    share: bool = option(False, "also make a public link through Gradio's tunnel, where it can be had", "server")
    allowed_hosts: tuple[str, ...] = option(
        (),
        "name under which the server may be asked for, `*.example.org` for all below; repeatable. This machine's own "
        "always are; `*` is any",
        "access",
        metavar="NAME",
        shown="any; where only this machine is listened to, its own names",
    )
    auth: tuple[str, ...] = option(
        (),
        "who may use the page, after a login; repeatable. Lets programs in too (HTTP Basic)",
        "access",
        metavar="USER:PASSWORD",
        secret=True,
    )
    api_key: tuple[str, ...] = option(
        (),
        "what programs send as `Authorization: Bearer KEY`; repeatable. The page stays open without `--auth`",
        "access",
        metavar="KEY",
        secret=True,
    )
    max_sessions: int = option(
        64, "sessions at once, of pages and programs together", "limits", metavar="N", low=1, high=10_000
    )
    max_queue: int = option(
        64,
        "how many more may wait for a place, and are told their position; 0 refuses them at once",
        "limits",
        metavar="N",
        low=0,
        high=10_000,
    )
    max_session_seconds: float = option(
        4 * 3600.0,
        "how long one session may last; it then ends with all its text",
        "limits",
        metavar="SECONDS",
        low=1,
        high=30 * 86_400,
    )
    rate_limit: str | None = option(
        None,
        "how often one address, and one key, may open a session or send a request, such as `60/minute`",
        "limits",
        metavar="N/TIME",
    )
    vad_threshold: float = option(
        0.5, "speech probability from which a moment counts as speech", "endpointing", metavar="P", low=0.01, high=0.99
    )
    silence_threshold: float = option(
        0.8, "seconds of silence that end an utterance", "endpointing", metavar="SECONDS", low=0.1, high=10
    )
    min_speech_duration: float = option(
        0.3, "seconds of speech below which a sound is no utterance", "endpointing", metavar="SECONDS", low=0, high=5
    )
    max_utterance_seconds: float = option(
        30.0,
        "longest utterance; a longer one is cut at the quietest point of its last seconds",
        "endpointing",
        metavar="SECONDS",
        low=6,
        high=300,
    )
    chunk_size_sec: float = option(
        1.0,
        "seconds of new audio after which the text is brought up to date",
        "pacing",
        metavar="SECONDS",
        low=0.1,
        high=30,
    )
    max_new_tokens: int = option(
        512, "most tokens that one utterance may have", "pacing", metavar="N", low=1, high=8192
    )
    default_language: str | None = option(
        None,
        "language that is spoken, a name or a code such as `German` or `de`",
        "defaults",
        metavar="LANGUAGE",
        shown="recognised",
    )
    default_prompt: str | None = option(
        None, "instruction in front of the context, for the model", "defaults", metavar="TEXT", shown="none"
    )
    default_context: str | None = option(
        None, "names and terms that will be spoken, for the model", "defaults", metavar="TEXT", shown="none"
    )
    unfixed_chunk_num: int | None = option(
        None, "accepted for old scripts; the engine needs it not", "other", metavar="N", low=0, high=1000, shown="none"
    )
    unfixed_token_num: int | None = option(
        None, "accepted for old scripts; the engine needs it not", "other", metavar="N", low=0, high=1000, shown="none"
    )
    log_level: str = option(
        "info", "how much is logged", "other", choices=("debug", "info", "warning", "error"), env="QWEN_ASR_LOG_LEVEL"
    )

    def __post_init__(self) -> None:
        if self.on_space and self.generate_self_signed_cert:
            raise BadConfig(
                "--generate-self-signed-cert was given on a Hugging Face Space, which has HTTPS of its own in front: "
                "leave the option out there."
            )
        # A frozen object is completed once, while it is made: from here on host and port are never None.
        if self.host is None:
            object.__setattr__(self, "host", ALL_HOSTS if self.tls or self.on_space else LOCAL_HOST)
        if self.port is None:
            object.__setattr__(self, "port", SPACE_PORT if self.on_space else DEFAULT_PORT)
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        check_hosts(self.allowed_hosts)
        check_users(self.auth)
        check_keys(self.api_key)
        check_rate(self.rate_limit)

    @property
    def on_space(self) -> bool:
        """Whether this runs on a Hugging Face Space."""
        return bool(os.environ.get("SPACE_ID"))

    @property
    def tls(self) -> bool:
        """Whether the server itself speaks HTTPS."""
        return self.generate_self_signed_cert

    def context_for(self, context: str = "", prompt: str = "") -> str:
        """What the model is told: prompt, a blank line, context; of each the client's, or else the default one."""
        parts = (prompt or self.default_prompt, context or self.default_context)
        return "\n\n".join(part for part in parts if part)

    @property
    def unneeded(self) -> tuple[str, ...]:
        """The options that were given and that the engine has no need of, as they are written; said once in the log."""
        names = ("unfixed_chunk_num", "unfixed_token_num")
        return tuple(flag(name) for name in names if getattr(self, name) is not None)
