"""Every option and every limit of the server, once.

`Config` is a frozen dataclass. Each field carries in its metadata what the command line and the README say about
it, so `add_options` (argparse), `option_table` (the table in the README) and the checks cannot come to differ::

    config = Config(port=8443, generate_self_signed_cert=True)      # from Python; raises BadConfig
    config = from_options(vars(parser.parse_args()), os.environ)    # from the command line and the environment

A value is taken from the command line, else from the environment (`QWEN_ASR_…`, how a container or a Space is
set up), else from the default. Nothing here imports another module of the package but the errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen_asr.errors import BadConfig

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
MAX_AHEAD_SECONDS = 30.0
"""How much ended speech of a file waits, decoded, for the recognizer before more of the file is read."""



@dataclass(frozen=True, kw_only=True)
class SocketLimits:
    """What the server takes on over its WebSockets, with units in the names; each is nobody's option either."""

    sessions: int = 64
    """Sessions open at once; one more is refused."""
    config_bytes: int = 1 << 16
    """A text message. The longest context that Qwen3-ASR was trained with, 10,000 tokens, fits."""
    message_bytes: int = 4 << 20
    """A message of audio: a minute of float32 at 16 kHz. Whoever sends a file sends it in pieces."""
    config_seconds: float = 10.0
    """How long after the connection the first message may take."""
    idle_seconds: float = IDLE_SECONDS
    """How long nothing may come from a client that could send. It finds half-open connections too."""
    session_seconds: float = 4 * 3600.0
    """How long a session may last."""
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

ENV_PREFIX = "QWEN_ASR_"

GROUPS = {
    "model": "model",
    "server": "address and HTTPS",
    "endpointing": "where an utterance begins and ends",
    "pacing": "pacing",
    "defaults": "used where a client names none",
    "other": "other",
}


def _option(
    default: Any,
    help: str,
    group: str,
    *,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    env: str | None = None,
    shown: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option.

    `low` and `high` are the ends of the allowed range, both allowed. `shown` is how the default is written where
    it is not simply the value. `env` is its environment variable, by default QWEN_ASR_ and the field's name.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "metavar": metavar,
            "choices": choices,
            "low": low,
            "high": high,
            "env": env,
            "shown": shown,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the server was told. Raises `BadConfig` for a value out of its range.

    `host` and `port` may be left out; once made, a Config always holds the address that is really bound.
    """

    asr_model_path: str = _option(
        "auto",
        "hub id, folder, or `demo`. `auto`: Qwen3-ASR-1.7B on a GPU that holds it, else 0.6B; where neither is cached "
        "nor can be fetched, the bundled demo checkpoint, and the log and the page say so (`transcribe` fails instead)",
        "model",
        metavar="PATH",
        env="QWEN_ASR_MODEL_PATH",
    )
    device: str = _option(
        "auto",
        "what the model runs on; `auto` takes the first of cuda, mps, cpu that is there",
        "model",
        choices=("auto", "cuda", "mps", "cpu"),
    )
    dtype: str = _option(
        "auto",
        "number format of the weights; `auto` is what suits the device",
        "model",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    host: str = _option(
        None,
        "address to listen on; `0.0.0.0` is all of them. Plain HTTP leaves the machine only if asked to",
        "server",
        metavar="ADDRESS",
        shown="`127.0.0.1`; `0.0.0.0` with HTTPS and on a Space",
    )
    port: int = _option(
        None,
        "port to listen on; 0 takes any that is free",
        "server",
        metavar="N",
        low=0,
        high=65535,
        shown="`8000`; `7860` on a Space",
    )
    generate_self_signed_cert: bool = _option(
        False,
        "serve HTTPS with a certificate made here: `certs/qwen_asr_cert.pem`, `certs/qwen_asr_key.pem`, "
        "used again while they fit this machine's addresses",
        "server",
    )
    share: bool = _option(False, "also make a public link through Gradio's tunnel, where it can be had", "server")
    vad_threshold: float = _option(
        0.5, "speech probability from which a moment counts as speech", "endpointing", metavar="P", low=0.01, high=0.99
    )
    silence_threshold: float = _option(
        0.8, "seconds of silence that end an utterance", "endpointing", metavar="SECONDS", low=0.1, high=10
    )
    min_speech_duration: float = _option(
        0.3, "seconds of speech below which a sound is no utterance", "endpointing", metavar="SECONDS", low=0, high=5
    )
    max_utterance_seconds: float = _option(
        30.0,
        "longest utterance; a longer one is cut at the quietest point of its last seconds",
        "endpointing",
        metavar="SECONDS",
        low=6,
        high=300,
    )
    chunk_size_sec: float = _option(
        1.0,
        "seconds of new audio after which the text is brought up to date",
        "pacing",
        metavar="SECONDS",
        low=0.1,
        high=30,
    )
    max_new_tokens: int = _option(
        512, "most tokens that one utterance may have", "pacing", metavar="N", low=1, high=8192
    )
    default_language: str | None = _option(
        None,
        "language that is spoken, a name or a code such as `German` or `de`",
        "defaults",
        metavar="LANGUAGE",
        shown="recognised",
    )
    default_prompt: str | None = _option(
        None, "instruction in front of the context, for the model", "defaults", metavar="TEXT", shown="none"
    )
    default_context: str | None = _option(
        None, "names and terms that will be spoken, for the model", "defaults", metavar="TEXT", shown="none"
    )
    unfixed_chunk_num: int | None = _option(
        None, "accepted for old scripts; the engine needs it not", "other", metavar="N", low=0, high=1000, shown="none"
    )
    unfixed_token_num: int | None = _option(
        None, "accepted for old scripts; the engine needs it not", "other", metavar="N", low=0, high=1000, shown="none"
    )
    log_level: str = _option(
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
            _check(field, getattr(self, field.name))

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


def flag(name: str) -> str:
    """The option of a field as it is typed: ``chunk_size_sec`` → ``--chunk-size-sec``."""
    return "--" + name.replace("_", "-")


def environment_name(field: dataclasses.Field[Any]) -> str:
    """The environment variable that sets a field."""
    return field.metadata["env"] or ENV_PREFIX + field.name.upper()


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the options of the fields called `names` (of all of them, where none is named) to `parser`.

    What is typed stays text, and what is not typed leaves no trace: `from_options` converts and completes, so that
    the environment goes through the very same checks.
    """
    for key, title in GROUPS.items():
        fields = [field for field in dataclasses.fields(Config) if field.metadata["group"] == key]
        chosen = [field for field in fields if not names or field.name in names]
        if chosen:
            section = parser.add_argument_group(title)
            for field in chosen:
                _add_option(section, field)


def _add_option(section: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    help = f"{field.metadata['help']} (default: {_default(field)})".replace("`", "").replace("%", "%%")
    if _kind(field) is bool:
        section.add_argument(flag(field.name), action="store_true", default=argparse.SUPPRESS, help=help)
        return
    choices = field.metadata["choices"]
    metavar = field.metadata["metavar"] or "{" + ",".join(choices) + "}"
    section.add_argument(flag(field.name), default=argparse.SUPPRESS, metavar=metavar, help=help)


def from_options(options: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """A Config of parsed options (field name → text, or True) and of the environment; raises BadConfig."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if field.name in options:
            values[field.name] = _convert(field, options[field.name], flag(field.name))
        elif environ.get(environment_name(field)):
            name = environment_name(field)
            values[field.name] = _convert(field, environ[name], name)
    return Config(**values)


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that look like an option of ours and are none, most likely mistyped; sorted."""
    known = {environment_name(field) for field in dataclasses.fields(Config)}
    return tuple(sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known))


def option_table() -> str:
    """The options as a Markdown table, for the README; a test holds that it is the one printed there."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Config):
        values = field.metadata["choices"]
        argument = field.metadata["metavar"] if not values else None
        option = f"`{flag(field.name)}{' ' + argument if argument else ''}`"
        meaning = field.metadata["help"] + ("; one of " + ", ".join(f"`{value}`" for value in values) if values else "")
        lines.append(f"| {option} | {_default(field)} | {meaning} |")
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.metadata["shown"]:
        return str(field.metadata["shown"])
    if field.default is False:
        return "off"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _kind(field: dataclasses.Field[Any]) -> type:
    """The type of a field's values, None aside."""
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
    return kinds[str(field.type).removesuffix(" | None")]


_ON, _OFF = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _convert(field: dataclasses.Field[Any], given: Any, source: str) -> Any:
    kind = _kind(field)
    if given == "" and "None" in str(field.type):
        return None
    if isinstance(given, bool) or kind is str:
        return given
    if kind is bool:
        if given.strip().lower() not in _ON | _OFF:
            raise BadConfig(f"{source} was given {given!r}, but is switched by 1 or 0.")
        return given.strip().lower() in _ON
    try:
        return kind(given)
    except ValueError:
        raise BadConfig(f"{source} was given {given!r}, but expects {_expected(field)}.") from None


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    if value is None and "None" in str(field.type):
        return
    kind, low, high = _kind(field), field.metadata["low"], field.metadata["high"]
    types = (int, float) if kind is float else kind
    right_type = isinstance(value, types) and isinstance(value, bool) == (kind is bool)
    in_choices = not field.metadata["choices"] or value in field.metadata["choices"]
    # Written so that NaN, which compares false with everything, is refused too.
    if not (right_type and in_choices and (low is None or low <= value <= high)) or value == "":
        raise BadConfig(f"{flag(field.name)} was given {value!r}, but expects {_expected(field)}.")


def _expected(field: dataclasses.Field[Any]) -> str:
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text that is not empty"}
    text = names[_kind(field)]
    low, high = field.metadata["low"], field.metadata["high"]
    return text if low is None else f"{text} from {low:g} to {high:g}"
