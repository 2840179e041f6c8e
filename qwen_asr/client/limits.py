"""What the client puts up with, once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """What our own client (`qwen_asr.client`) puts up with, with units in the names."""

    kept_seconds: float = 120.0
    """How much audio behind the last final it keeps to send it again. The longest utterance, 30 s by default, waits as
    long as the server's 30 s of backlog; twice that is room for a server that is started again."""
    connect_seconds: float = 10.0
    """How long one try to connect may take, the answer to the config included."""
    tries: int = 20
    """How often it tries to come back before it gives up."""
    away_seconds: float = 120.0
    """How long it tries. A page or a bot that was silent for longer has been given up by whoever spoke."""
    first_delay_seconds: float = 0.25
    """Before the second try to come back; each later one waits twice as long, shortened at random by up to a half."""
    longest_delay_seconds: float = 8.0
    """The longest such wait."""
    silent_seconds: float = 50.0
    """A connection over which nothing came for so long, not even the ping that the server sends every 20 s, is dead."""
