"""`LinkAddresses`: from which addresses the server fetches files for the page, as `--file-links` says."""

from __future__ import annotations

import ipaddress

from qwen_asr.errors import BadConfig
from qwen_asr.network import Address, Network, is_public

OFF, PUBLIC = "off", "public"


class LinkAddresses:
    """The addresses that may be fetched from. Raises `BadConfig`.

    `text` is `off`, or a list, separated by commas, of networks and the word `public`.
    """

    def __init__(self, text: str) -> None:
        parts = [part.strip() for part in text.split(",")]
        self.enabled = parts != [OFF]
        self._public = PUBLIC in parts
        self._networks = tuple(_network(part) for part in parts if part != PUBLIC) if self.enabled else ()

    def allows(self, address: Address) -> bool:
        """Whether the server may connect to `address` for a link."""
        if any(address in network for network in self._networks):
            return True
        return self._public and is_public(address)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise BadConfig(
            f"--file-links was given {text!r}, but expects public, networks such as 10.0.0.0/8, several of these "
            "separated by commas, or off."
        ) from None
