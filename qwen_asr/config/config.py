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

from qwen_asr.config.options import check, flag, option
from qwen_asr.config.proxies import ANYBODY, LOOPBACK, TrustedProxies, check_root_path
from qwen_asr.config.validators import check_certificate_options, check_hosts, check_keys, check_rate, check_users

LOCAL_HOST = "127.0.0.1"
ALL_HOSTS = "0.0.0.0"  # noqa: S104 - the address that "all addresses" is written as, bound only when asked for
DEFAULT_PORT = 8000
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
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
    ssl_certfile: str | None = option(
        None, "serve HTTPS with this certificate, PEM, with its chain behind it", "server", metavar="FILE"
    )
    ssl_keyfile: str | None = option(
        None, "the certificate's key, PEM; left out where it is in the certificate's file", "server", metavar="FILE"
    )
    ssl_keyfile_password: str | None = option(
        None,
        "the key's password; better in the environment, as `QWEN_ASR_SSL_KEYFILE_PASSWORD`",
        "server",
        metavar="PASSWORD",
        secret=True,
    )
    local_ca: bool = option(
        False,
        "serve HTTPS with a certificate of a private authority, `certs/local_ca.pem`, made here: once installed on a "
        "phone, as the page `/trust` explains, no browser there warns. It vouches for local names and addresses only",
        "server",
    )
    acme_domain: tuple[str, ...] = option(
        (),
        "get and renew a certificate for this name from Let's Encrypt, whose terms you agree to thereby; repeatable, "
        "needs `--http-redirect-port` and the `acme` extra",
        "server",
        metavar="NAME",
    )
    acme_email: str | None = option(
        None, "where the authority may write about the account", "server", metavar="ADDRESS"
    )
    acme_directory: str = option(
        LETS_ENCRYPT, "another ACME authority, by its directory", "server", metavar="URL", shown="Let's Encrypt"
    )
    http_redirect_port: int | None = option(
        None,
        "plain HTTP on this port is sent to HTTPS; usually 80. ACME challenges are answered there, those of certbot "
        "from `certs/webroot`",
        "server",
        metavar="N",
        low=0,
        high=65535,
    )
    share: bool = option(False, "also make a public link through Gradio's tunnel, where it can be had", "server")
    root_path: str | None = option(
        None,
        "path under which a proxy publishes the page, such as `/speech`; the proxy may take it off or leave it on",
        "proxy",
        metavar="PATH",
        shown="none",
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        "proxies whose `X-Forwarded-For`, `-Proto` and `-Host` count: addresses, networks, comma lists, or `*` for "
        "whoever connects; may be given several times",
        "proxy",
        metavar="LIST",
        shown="none; loopback with `--share`; `*` on a Space",
    )
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
        shown="recognized",
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
    log_format: str = option(
        "text", "lines for people, or a JSON object a line for machines", "other", choices=("text", "json")
    )
    log_level: str = option(
        "info", "how much is logged", "other", choices=("debug", "info", "warning", "error"), env="QWEN_ASR_LOG_LEVEL"
    )

    def __post_init__(self) -> None:
        # A frozen object is completed once, while it is made: from here on host and port are never None.
        if self.host is None:
            object.__setattr__(self, "host", ALL_HOSTS if self.tls or self.on_space else LOCAL_HOST)
        if self.port is None:
            object.__setattr__(self, "port", SPACE_PORT if self.on_space else DEFAULT_PORT)
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if self.root_path is not None:
            check_root_path(self.root_path)
        TrustedProxies(self.forwarded_allow_ips)
        check_hosts(self.allowed_hosts)
        check_users(self.auth)
        check_keys(self.api_key)
        check_rate(self.rate_limit)
        check_certificate_options(
            self._https_options, self.ssl_certfile, self.ssl_keyfile, on_space=self.on_space, share=self.share
        )

    @property
    def trusted_proxies(self) -> TrustedProxies:
        """Whose forwarded headers count.

        Nobody's by default: a page of another site that a DNS trick brings to a local port is a loopback peer too. The
        tunnel of `--share` ends on this machine, and to a Space only Hugging Face's proxy has a way.
        """
        default = (ANYBODY,) if self.on_space else LOOPBACK if self.share else ()
        return TrustedProxies(self.forwarded_allow_ips or default)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in a log: keys, users with their passwords, and passwords alone."""
        passwords = [user.partition(":")[2] for user in self.auth]
        return (*self.api_key, *self.auth, *passwords, *filter(None, [self.ssl_keyfile_password]))

    @property
    def _https_options(self) -> list[str]:
        """The options for a certificate that were given, as they are typed."""
        names = ("generate_self_signed_cert", "ssl_certfile", "local_ca", "acme_domain")
        return [flag(name) for name in names if getattr(self, name)]

    @property
    def on_space(self) -> bool:
        """Whether this runs on a Hugging Face Space."""
        return bool(os.environ.get("SPACE_ID"))

    @property
    def tls(self) -> bool:
        """Whether the server itself speaks HTTPS."""
        return bool(self._https_options)

    @property
    def unneeded(self) -> tuple[str, ...]:
        """The options that were given and that the engine has no need of, as they are written; said once in the log."""
        names = ("unfixed_chunk_num", "unfixed_token_num")
        return tuple(flag(name) for name in names if getattr(self, name) is not None)
