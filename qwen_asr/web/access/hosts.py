"""Under which names the server answers.

A page of another site can make its own name lead to 127.0.0.1 (DNS rebinding) and then talk to a server that listens on
this machine only, as its own. The Host header still has that other name, which no browser lets a page change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.errors import WrongHost
from qwen_asr.network import host_name, is_loopback, plain_name
from qwen_asr.tls.addresses import host_names

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from qwen_asr.config.config import Config


class Hosts:
    """The names that `config` allows: all, the given ones, or those of this machine where only that is listened to."""

    def __init__(self, config: Config) -> None:
        outside = config.on_space or config.share or not is_loopback(config.host)
        self._any = "*" in config.allowed_hosts or (outside and not config.allowed_hosts)
        own = (config.host, *host_names()) if is_loopback(config.host) else ()
        names = [plain_name(name) for name in (*config.allowed_hosts, *own)]
        self._exact = {name for name in names if not name.startswith("*.")}
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    def check(self, headers: Headers) -> None:
        """Raises WrongHost. A request without the header passes: no browser sends such a one."""
        for host in headers.getlist("host"):
            name = host_name(host)
            if not (self._any or is_loopback(name) or name in self._exact or name.endswith(self._below)):
                raise WrongHost(
                    "This server does not answer under the name that the request has as Host: use an address that it "
                    "printed at its start, or have it started with --allowed-hosts and that name."
                )
