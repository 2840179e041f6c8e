"""`ClientLimits`: timeouts, retries and the buffer size of a `SpeechClient`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """The limits of a `SpeechClient`, with units in the names."""

    buffer_seconds: float = 120.0
    """How much audio after the last final text is kept, to send it again. The longest utterance (30 s by default) and
    the server's backlog (30 s) have to fit; twice that leaves time for a server to restart."""
    connect_timeout_seconds: float = 10.0
    """For one attempt to connect, including the server's answer to the config."""
    max_attempts: int = 20
    """How many attempts to reconnect are made."""
    max_offline_seconds: float = 120.0
    """How long attempts to reconnect are made. After a longer interruption, the user has probably stopped speaking."""
    first_delay_seconds: float = 0.25
    """Before the second attempt to reconnect. Each later delay is twice as long, shortened at random by up to half."""
    max_delay_seconds: float = 8.0
    """The longest delay."""
    receive_timeout_seconds: float = 50.0
    """A connection is dead if nothing arrives for this long, not even the pings that the server sends every 20 s."""
