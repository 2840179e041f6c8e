"""`Config`: all options of the server, with their defaults, ranges and help texts.

`Config` is a frozen dataclass. `option_fields` generates the command line and the table in docs/options.md from it::

    config = Config(port=8443, generate_self_signed_cert=True)              # from Python; raises BadConfig
    config = from_options(Config, vars(parser.parse_args()), os.environ)    # from the command line and the environment

The command line takes precedence over the environment (`QWEN_ASR_…`, for containers and Spaces), and the environment
over the default.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property

from qwen_asr.config.engine_addresses import check_gpus, parse_engines, ray_application
from qwen_asr.config.link_addresses import LinkAddresses
from qwen_asr.config.model_paths import ModelPath, model_paths
from qwen_asr.config.option_fields import check, flag, option
from qwen_asr.config.proxies import ANY_PEER, LOOPBACK, TrustedProxies, check_root_path
from qwen_asr.config.validators import (
    check_certificate_options,
    check_hosts,
    check_keys,
    check_origins,
    check_rate,
    check_users,
)
from qwen_asr.errors import BadConfig

LOCAL_HOST = "127.0.0.1"
ALL_HOSTS = "0.0.0.0"  # noqa: S104 - all interfaces; bound only if the options ask for it
DEFAULT_PORT = 8000
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
DTYPE_SYNONYMS = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"}
"""Names that transformers and vLLM have for number formats, and ours."""
SPACE_PORT = 7860
"""The port that a Hugging Face Space publishes."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the server. Raises `BadConfig` for an invalid value, `HttpsConflict` for options that conflict.

    `host`, `port` and `max_sessions_per_address` may be omitted. Their defaults are filled in at once, so none is None
    afterwards.
    """

    asr_model_path: tuple[str, ...] = option(
        ("auto",),
        "hub id, folder, or `demo`. `auto`: Qwen3-ASR-1.7B on a GPU with enough memory, otherwise 0.6B; if neither is "
        "cached or can be downloaded, the bundled demo checkpoint, with a notice in the log and on the page "
        "(`transcribe` fails instead). Repeatable: requests choose a model by its name, or by NAME if it is given as "
        "`NAME=PATH`; the first is the default. In the environment they are separated by commas",
        "model",
        metavar="PATH",
        env="QWEN_ASR_MODEL_PATH",
        shown="`auto`",
        separator=",",
    )
    aligner_model_path: str | None = option(
        None,
        "forced aligner, which finds the times of words: hub id, such as `Qwen/Qwen3-ForcedAligner-0.6B`, or folder. "
        "On a CPU they come some seconds after the text",
        "model",
        metavar="PATH",
        shown="none; the demo has its own",
    )
    device: str = option(
        "auto",
        "device for the model; `auto` takes the first available of cuda, mps, cpu",
        "model",
        choices=("auto", "cuda", "mps", "cpu"),
    )
    dtype: str = option(
        "auto",
        "number format of the weights; `auto` chooses the best one for the device",
        "model",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    quantize: str = option(
        "auto",
        "int8 weights for the decoder, on a CPU; `auto` takes them where they are measurably faster on this machine, "
        "and says so in the log. Some words may differ from those of the original weights",
        "model",
        choices=("auto", "int8", "none"),
    )
    engine: tuple[str, ...] = option(
        (),
        "engine in another process that runs the model, started with `qwen-asr engine`: `host:port`, `ws://host:port`, "
        "`wss://host:port` or `unix:/path`; repeatable, or separated by commas. `ray` or `ray:APPLICATION`: all that "
        "Ray Serve has in its cluster. This process then loads no model",
        "model",
        metavar="URL",
    )
    engine_api_key: str | None = option(
        None,
        "key that the engines ask for; safer in the environment, as `QWEN_ASR_ENGINE_API_KEY`",
        "model",
        metavar="KEY",
        secret=True,
    )
    engine_ca_certs: str | None = option(
        None,
        "trust these authorities for `wss://` engines, PEM: a private one, or a self-signed certificate itself",
        "model",
        metavar="FILE",
        shown="those of the system",
    )
    gpus: str | None = option(
        None,
        "start an engine for each of these GPUs of this machine, and again when it ends or hangs: `all`, or numbers as "
        "`nvidia-smi` has them, such as `0,1`. `cpu,cpu` starts two on the processor, to try it out",
        "model",
        metavar="LIST",
        shown="none; one GPU, in this process",
    )
    host: str = option(
        None,
        "address to listen on; `0.0.0.0` means all. By default, plain HTTP is served to this machine only",
        "server",
        metavar="ADDRESS",
        shown="`127.0.0.1`; `0.0.0.0` with HTTPS and on a Space",
    )
    port: int = option(
        None,
        "port to listen on; 0 takes any free port",
        "server",
        metavar="N",
        low=0,
        high=65535,
        shown="`8000`; `7860` on a Space",
    )
    generate_self_signed_cert: bool = option(
        False,
        "serve HTTPS with a self-signed certificate; creates `certs/qwen_asr_cert.pem` and `certs/qwen_asr_key.pem`, "
        "and reuses them as long as they cover this machine's addresses",
        "server",
    )
    ssl_certfile: str | None = option(
        None, "serve HTTPS with this certificate: PEM, followed by its chain", "server", metavar="FILE"
    )
    ssl_keyfile: str | None = option(
        None,
        "private key of the certificate, PEM; not needed if `--ssl-certfile` contains it",
        "server",
        metavar="FILE",
    )
    ssl_keyfile_password: str | None = option(
        None,
        "password of the private key; safer in the environment, as `QWEN_ASR_SSL_KEYFILE_PASSWORD`",
        "server",
        metavar="PASSWORD",
        secret=True,
    )
    local_ca: bool = option(
        False,
        "serve HTTPS with a certificate from a local CA; creates `certs/local_ca.pem`. Browsers on a device accept it "
        "without a warning once the CA is installed there, as the page `/trust` explains. The CA is valid for local "
        "names and addresses only",
        "server",
    )
    acme_domain: tuple[str, ...] = option(
        (),
        "get and renew a certificate for this name from Let's Encrypt; by using it you agree to its terms. Repeatable; "
        "requires `--http-redirect-port` and the `acme` extra",
        "server",
        metavar="NAME",
    )
    acme_email: str | None = option(None, "contact address for the ACME account", "server", metavar="ADDRESS")
    acme_directory: str = option(
        LETS_ENCRYPT, "directory URL of another ACME authority", "server", metavar="URL", shown="Let's Encrypt"
    )
    http_redirect_port: int | None = option(
        None,
        "redirect plain HTTP on this port to HTTPS; usually 80. The port also answers ACME challenges, those of "
        "certbot from `certs/webroot`",
        "server",
        metavar="N",
        low=0,
        high=65535,
    )
    share: bool = option(False, "also create a public link through Gradio's tunnel, if it is available", "server")
    root_path: str | None = option(
        None,
        "path under which a proxy publishes the server, such as `/speech`; the proxy may strip it or keep it",
        "proxy",
        metavar="PATH",
        shown="none",
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        "proxies whose `X-Forwarded-For`, `-Proto` and `-Host` headers are trusted: addresses, networks, "
        "comma-separated lists, or `*` for every peer; repeatable",
        "proxy",
        metavar="LIST",
        shown="none; loopback with `--share`; `*` on a Space",
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "host name that requests may use, `*.example.org` for all subdomains, `*` for any; repeatable. The names of "
        "this machine are always allowed. Certificates that the program makes are for all of these names",
        "access",
        metavar="NAME",
        shown="any; this machine's names if it listens on loopback only",
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        "web app, browser extension or desktop shell whose pages may use the API, by its origin, such as "
        "`https://app.example.org`; with `--api-key` also `*` for any; repeatable. They need a key like any program; "
        "the page's login does not count for them",
        "access",
        metavar="ORIGIN",
        shown="only the server's own pages",
    )
    auth: tuple[str, ...] = option(
        (),
        "user who may log in to the page; repeatable. API clients can use it too, as HTTP Basic",
        "access",
        metavar="USER:PASSWORD",
        secret=True,
    )
    api_key: tuple[str, ...] = option(
        (),
        "key that API clients send as `Authorization: Bearer KEY`; repeatable. Without `--auth` the page has no login",
        "access",
        metavar="KEY",
        secret=True,
    )
    file_links: str = option(
        "public",
        "what the page may transcribe by link: `public` for files on public addresses, networks such as "
        "`10.0.0.0/8` for addresses that only the server reaches, several separated by commas, or `off`",
        "access",
        metavar="LIST",
    )
    max_sessions: int = option(
        64, "sessions that run at once, from pages and API clients together", "limits", metavar="N", low=1, high=10_000
    )
    max_queue: int = option(
        64,
        "how many more wait in line, where they see their position; with 0 they are refused at once",
        "limits",
        metavar="N",
        low=0,
        high=10_000,
    )
    max_sessions_per_address: int = option(
        None,
        "sessions of one address that run at once; more wait in line. An address may have half of the queue too. "
        "Loopback is exempt",
        "limits",
        metavar="N",
        low=1,
        high=10_000,
        shown="half of `--max-sessions`, rounded up",
    )
    max_session_seconds: float = option(
        4 * 3600.0,
        "maximum duration of a session; it then ends, and all its text is delivered",
        "limits",
        metavar="SECONDS",
        low=1,
        high=30 * 86_400,
    )
    max_idle_seconds: float = option(
        60.0,
        "seconds without any sign of life after which a WebSocket session ends. Pings, the pongs to the server's pings "
        "and every message are signs of life",
        "limits",
        metavar="SECONDS",
        low=30,
        high=86_400,
    )
    max_pause_seconds: float = option(
        300.0,
        "seconds without audio after which a WebSocket session ends if somebody waits in line for its slot",
        "limits",
        metavar="SECONDS",
        low=10,
        high=30 * 86_400,
    )
    max_connections_per_address: int = option(
        256,
        "open connections of one address, WebSockets included; one more is closed at once. Loopback and trusted "
        "proxies may have half of all that the limit of open files allows",
        "limits",
        metavar="N",
        low=1,
        high=100_000,
    )
    max_file_seconds: float = option(
        4 * 3600.0,
        "maximum length of an audio file that is uploaded for transcription",
        "limits",
        metavar="SECONDS",
        low=1,
        high=30 * 86_400,
    )
    rate_limit: str | None = option(
        None,
        "how often each address and each key may open a session or send a request, such as `60/minute`",
        "limits",
        metavar="N/TIME",
    )
    vad_threshold: float = option(
        0.5, "speech probability from which audio counts as speech", "endpointing", metavar="P", low=0.01, high=0.99
    )
    silence_threshold: float = option(
        0.8, "seconds of silence that end an utterance", "endpointing", metavar="SECONDS", low=0.1, high=10
    )
    min_speech_duration: float = option(
        0.3, "minimum seconds of speech for an utterance", "endpointing", metavar="SECONDS", low=0, high=5
    )
    max_utterance_seconds: float = option(
        30.0,
        "maximum length of an utterance; a longer one is cut at the quietest point of its last seconds",
        "endpointing",
        metavar="SECONDS",
        low=6,
        high=300,
    )
    chunk_size_sec: float | None = option(
        None,
        "seconds of new audio after which the text is updated; `auto`: 0.2 or as many more as the device needs",
        "pacing",
        metavar="SECONDS",
        low=0.1,
        high=30,
        none="auto",
    )
    max_new_tokens: int = option(
        512, "maximum number of tokens of one utterance", "pacing", metavar="N", low=1, high=8192
    )
    default_language: str | None = option(
        None,
        "spoken language, as a name or a code such as `German` or `de`",
        "defaults",
        metavar="LANGUAGE",
        shown="detected",
    )
    default_prompt: str | None = option(
        None, "instruction for the model, placed before the context", "defaults", metavar="TEXT", shown="none"
    )
    default_context: str | None = option(
        None, "names and terms that are likely to be spoken", "defaults", metavar="TEXT", shown="none"
    )
    unfixed_chunk_num: int | None = option(
        None, "accepted for compatibility; ignored", "other", metavar="N", low=0, high=1000, shown="none"
    )
    unfixed_token_num: int | None = option(
        None, "accepted for compatibility; ignored", "other", metavar="N", low=0, high=1000, shown="none"
    )
    log_format: str = option("text", "plain text, or one JSON object per line", "other", choices=("text", "json"))
    log_level: str = option(
        "info",
        "minimum level of the messages that are logged",
        "other",
        choices=("debug", "info", "warning", "error"),
        env="QWEN_ASR_LOG_LEVEL",
    )

    def __post_init__(self) -> None:
        # object.__setattr__, because the dataclass is frozen. From here on, these options are never None.
        if self.host is None:
            object.__setattr__(self, "host", ALL_HOSTS if self.tls or self.on_space else LOCAL_HOST)
        if self.port is None:
            object.__setattr__(self, "port", SPACE_PORT if self.on_space else DEFAULT_PORT)
        if self.max_sessions_per_address is None:
            object.__setattr__(self, "max_sessions_per_address", (self.max_sessions + 1) // 2)
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        model_paths(self.asr_model_path)
        if self.root_path is not None:
            check_root_path(self.root_path)
        TrustedProxies(self.forwarded_allow_ips)
        LinkAddresses(self.file_links)
        check_hosts(self.allowed_hosts)
        check_users(self.auth)
        check_keys(self.api_key)
        check_origins(self.allowed_origins, has_credentials=bool(self.api_key or self.auth))
        check_rate(self.rate_limit)
        self._check_engines()
        check_certificate_options(
            self._https_options, self.ssl_certfile, self.ssl_keyfile, on_space=self.on_space, share=self.share
        )

    def _check_engines(self) -> None:
        """Raises `BadConfig` for options of engines that exclude or require each other."""
        on_ray = ray_application(self.engine) is not None
        if not on_ray:
            parse_engines(self.engine)
        check_gpus(self.gpus)
        if self.engine and self.gpus:
            raise BadConfig(
                "--engine and --gpus were given: give the engines that run, or have this server start some."
            )
        for name in ("engine_api_key", "engine_ca_certs"):
            if getattr(self, name) is not None and not self.engine:
                raise BadConfig(f"{flag(name)} was given without --engine: give the engines too.")
            if getattr(self, name) is not None and on_ray:
                raise BadConfig(f"{flag(name)} was given with --engine {self.engine[0]}: Ray has no use for it.")
        if self.engine_api_key is not None:
            check_keys([self.engine_api_key], "--engine-api-key")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        own = ("asr_model_path", "aligner_model_path", "device", "dtype", "quantize") if self.engine else ()
        if changed := [flag(name) for name in own if getattr(self, name) != defaults[name]]:
            raise BadConfig(
                f"{' and '.join(changed)} cannot be given with --engine, in the environment neither, because the "
                "engines run the model: give it to them."
            )
        if self.gpus and len(self.asr_model_path) > 1:
            raise BadConfig("--gpus was given with several --asr-model-path: engines have one model, so give one.")
        if self.gpus and self.device not in ("auto", "cpu" if "cpu" in self.gpus else "cuda"):
            raise BadConfig(f"--device {self.device} was given with --gpus {self.gpus}: leave out --device.")

    @cached_property
    def models(self) -> tuple[ModelPath, ...]:
        """The models that the server has; the first is the default."""
        return model_paths(self.asr_model_path)

    @property
    def trusted_proxies(self) -> TrustedProxies:
        """The proxies whose forwarded headers are trusted.

        None by default, not even loopback: with DNS rebinding, a page of another site connects from loopback too. The
        tunnel of `--share` ends on this machine, and only Hugging Face's proxy can reach a Space.
        """
        if self.on_space:
            return TrustedProxies(self.forwarded_allow_ips or (ANY_PEER,))
        if self.share:
            # The share server adds to X-Forwarded-For the address of what sends it the requests, which may be a load
            # balancer in front of it.
            return TrustedProxies((*self.forwarded_allow_ips, *LOOPBACK), behind_others=True)
        return TrustedProxies(self.forwarded_allow_ips)

    @property
    def link_addresses(self) -> LinkAddresses:
        """The addresses from which the page's links are fetched."""
        return LinkAddresses(self.file_links)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in a log: API keys, `USER:PASSWORD` pairs, and the passwords alone."""
        passwords = [user.partition(":")[2] for user in self.auth]
        return (*self.api_key, *self.auth, *passwords, *filter(None, [self.ssl_keyfile_password, self.engine_api_key]))

    @property
    def _https_options(self) -> list[str]:
        """The flags of the certificate options that are set."""
        names = ("generate_self_signed_cert", "ssl_certfile", "local_ca", "acme_domain")
        return [flag(name) for name in names if getattr(self, name)]

    @property
    def on_space(self) -> bool:
        """Whether the server runs on a Hugging Face Space."""
        return bool(os.environ.get("SPACE_ID"))

    @property
    def on_zero_gpu(self) -> bool:
        """Whether that Space has ZeroGPU, by the variable that the package `spaces` reads, and with its values."""
        return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")

    @property
    def tls(self) -> bool:
        """Whether the server itself speaks HTTPS."""
        return bool(self._https_options)

    @property
    def unneeded(self) -> tuple[str, ...]:
        """The flags of the options that are set but have no effect. They are logged once at startup."""
        names = ("unfixed_chunk_num", "unfixed_token_num")
        return tuple(flag(name) for name in names if getattr(self, name) is not None)
