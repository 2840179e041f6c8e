"""`EngineConfig`: the options of `qwen-asr engine`. Most are those of the server, with the same names and checks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qwen_asr.config.config import LOCAL_HOST, Config
from qwen_asr.config.engine_addresses import ENGINE_PORT
from qwen_asr.config.option_fields import check, option
from qwen_asr.errors import BadConfig

_FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def same(name: str) -> Any:
    """The server's option of this name."""
    field = _FIELDS[name]
    return dataclasses.field(default=field.default, repr=field.repr, metadata=field.metadata)


ONE_MODEL = (
    "hub id, folder, or `demo`. `auto`: Qwen3-ASR-1.7B on a GPU with enough memory, otherwise 0.6B; if neither is "
    "cached or can be downloaded, the bundled demo checkpoint, with a notice in the log"
)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The options of an engine. Raises `BadConfig` for an invalid value, `HttpsConflict` for options that conflict."""

    asr_model_path: tuple[str, ...] = option(
        ("auto",), ONE_MODEL, "model", metavar="PATH", env="QWEN_ASR_MODEL_PATH", shown="`auto`", separator=","
    )
    aligner_model_path: str | None = same("aligner_model_path")
    device: str = same("device")
    dtype: str = same("dtype")
    quantize: str = same("quantize")
    host: str = option(LOCAL_HOST, "address to listen on; `0.0.0.0` means all", "server", metavar="ADDRESS")
    port: int = option(
        ENGINE_PORT, "port to listen on; 0 takes any free port", "server", metavar="N", low=0, high=65535
    )
    uds: str | None = option(
        None,
        "listen on a Unix socket with this path instead of a port; who may open the file may use the engine",
        "server",
        metavar="PATH",
    )
    generate_self_signed_cert: bool = same("generate_self_signed_cert")
    ssl_certfile: str | None = same("ssl_certfile")
    ssl_keyfile: str | None = same("ssl_keyfile")
    ssl_keyfile_password: str | None = same("ssl_keyfile_password")
    api_key: tuple[str, ...] = option(
        (),
        "key that servers have to send; repeatable. They take it as `--engine-api-key`",
        "access",
        metavar="KEY",
        secret=True,
    )
    end_with_stdin: bool = option(
        False, "end when standard input ends: for a program that starts engines and may be killed", "other"
    )
    log_format: str = same("log_format")
    log_level: str = same("log_level")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if len(self.asr_model_path) > 1:
            raise BadConfig(
                f"--asr-model-path was given {' and '.join(self.asr_model_path)}: give one, as an engine has one model."
            )
        if self.uds is not None and self.config.tls:
            raise BadConfig(
                "--uds was given with a certificate, but what stays on this machine needs none: leave it out."
            )

    @property
    def config(self) -> Config:
        """The options that a server has too."""
        return Config(**{name: getattr(self, name) for name in _FIELDS if hasattr(self, name)})
