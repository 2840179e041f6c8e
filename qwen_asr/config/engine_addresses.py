"""Which engines a server uses: the values of `--engine` and `--gpus`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwen_asr.errors import BadConfig
from qwen_asr.network import split_url

ENGINE_PORT = 9000
"""Where an engine listens by default."""
PATH = "/engine"
"""Where an engine speaks with schedulers."""
RAY = "ray"
"""The value of `--engine` for engines on Ray Serve, alone or with the name of the application: `ray:NAME`."""
_EXPECTED = "expects host:port, ws://host:port, wss://host:port, unix:/path/of/socket, or ray"


@dataclass(frozen=True)
class EngineAddress:
    """Where one or several engines listen. `socket` is the path of a Unix socket; "" for a host and a port."""

    host: str = ""
    port: int = 0
    tls: bool = False
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """For a WebSocket client."""
        return f"{'ws://localhost' if self.socket else self}{PATH}"


def ray_application(texts: Iterable[str]) -> str | None:
    """The application of Ray Serve that texts name, by default Serve's own name for one; None if they are addresses.

    Raises `BadConfig` for such a name beside anything else.
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if not any(part == RAY or part.startswith(f"{RAY}:") for part in parts):
        return None
    if len(parts) > 1:
        raise BadConfig(
            f"--engine was given {', '.join(parts)}, but ray stands alone: Ray Serve knows all engines of its cluster."
        )
    name = parts[0].removeprefix(RAY).removeprefix(":")
    if name.startswith("//") or parts[0].endswith(":"):
        raise BadConfig(
            f"--engine was given {parts[0]}, but expects ray, or ray:NAME with the name of an application. `ray start` "
            "or RAY_ADDRESS say which cluster this machine belongs to."
        )
    return name or "default"


def parse_engines(texts: Iterable[str]) -> tuple[EngineAddress, ...]:
    """The addresses in texts, each of which may hold several, separated by commas. Raises `BadConfig`."""
    texts = tuple(texts)
    found = [parse_engine(part.strip()) for text in texts for part in text.split(",") if part.strip()]
    if texts and not found:
        raise BadConfig(f"--engine was given no address: it {_EXPECTED}.")
    for address in found:
        if found.count(address) > 1:
            raise BadConfig(f"--engine was given {address} twice: give each engine once.")
    return tuple(found)


def parse_engine(text: str) -> EngineAddress:
    """One address. Raises `BadConfig`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise BadConfig(f"--engine was given {text!r}, but {_EXPECTED}.")
        return EngineAddress(socket=path)
    url = split_url(text if "://" in text else f"ws://{text}")
    try:
        port = url.port if url.port is not None else ENGINE_PORT
    except ValueError:
        port = 0
    if url.scheme not in ("ws", "wss") or not url.hostname or not port or url.path not in ("", "/") or url.query:
        raise BadConfig(f"--engine was given {_without_password(text)!r}, but {_EXPECTED}.")
    if url.username is not None:
        raise BadConfig("--engine was given an address with a user name: give a key with --engine-api-key instead.")
    return EngineAddress(url.hostname, port, url.scheme == "wss")


def check_gpus(value: str | None) -> None:
    """Raises `BadConfig` for a value that `--gpus` does not take."""
    parts = [] if value in (None, "all") else str(value).split(",")
    is_right = all(part.isascii() and part.isdecimal() for part in parts) or set(parts) == {"cpu"}
    if not is_right or (len(set(parts)) < len(parts) and parts[0] != "cpu"):
        raise BadConfig(
            f"--gpus was given {value!r}, but expects all, or numbers of GPUs such as 0,1, each once. cpu,cpu starts "
            "two engines on the processor."
        )


def _without_password(text: str) -> str:
    return text.rpartition("@")[2]
