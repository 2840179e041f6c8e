"""Host header check: the server answers only under names that it is allowed to have.

This stops DNS rebinding, in which a page of another site points its own name at 127.0.0.1 to reach a server that
listens on this machine only. The request still carries that name as its Host header, which no browser lets a page set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qwen_asr.errors import WrongHost
from qwen_asr.network import is_loopback, normalize_host_name, parse_host
from qwen_asr.tls.addresses import host_names

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from qwen_asr.config.config import Config


class AllowedHosts:
    """The host names that `config` allows.

    With `--allowed-hosts` those, and loopback names. Without it any name, or, where the server listens on loopback
    only, the names of this machine. The public link of `--share` has a name too, which is known only later.
    """

    def __init__(self, config: Config) -> None:
        public = config.on_space or not is_loopback(config.host)
        self._any = "*" in config.allowed_hosts or (public and not config.allowed_hosts)
        own = (config.host, *host_names()) if is_loopback(config.host) else ()
        names = [normalize_host_name(name) for name in (*config.allowed_hosts, *own)]
        self._names = {name for name in names if not name.startswith("*.")}
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._shared: str | None = None

    def share(self, link: str) -> None:
        """Allows the host of the public `link`, instead of that of the link before it."""
        host = urlsplit(link).hostname
        self._shared = normalize_host_name(host) if host else None

    def check(self, headers: Headers) -> None:
        """Raises WrongHost. A request without a Host header passes: browsers always send one."""
        for header in headers.getlist("host"):
            if not (self._any or self._allows(header)):
                raise WrongHost(
                    "This server does not answer under the name in the request's Host header: use an address that it "
                    "printed when it started, or start it with --allowed-hosts and that name."
                )

    def _allows(self, header: str) -> bool:
        host = parse_host(header)
        if host is None:
            return False
        if is_loopback(host.name) or host.name in (self._shared, *self._names):
            return True
        return host.name.endswith(self._suffixes)
