"""What a client is told. Positions are seconds since the first sample that it sent, whichever server heard it.

Utterances are numbered from 0 through all connections. Of each there are any number of `Partial`, then one `Final` or
`Failed`; after a server was lost with everything it knew, the partials of an utterance may begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partial:
    """The text so far of an utterance that still runs; `text[:stable]` is settled. `lag`: seconds without text yet."""

    utterance: int
    start: float
    end: float
    language: str
    text: str
    stable: int
    lag: float
    warning: str = ""


@dataclass(frozen=True)
class Final:
    """The text of a whole utterance."""

    utterance: int
    start: float
    end: float
    language: str
    text: str
    warning: str = ""


@dataclass(frozen=True)
class Failed:
    """An utterance that the server could not transcribe. `message` is a sentence for people; the rest goes on."""

    utterance: int
    start: float
    end: float
    message: str


@dataclass(frozen=True)
class Connected:
    """There is a session. `resumed`: the one from before; else a new one, which takes the audio from `start` on."""

    session_id: str
    resumed: bool
    start: float
    warning: str = ""


@dataclass(frozen=True)
class Queued:
    """The server has no place yet; `position` 1 is the next to have one."""

    position: int


@dataclass(frozen=True)
class Lost:
    """No connection, because of `reason` (a sentence); the next try, number `attempt`, comes after `delay` seconds."""

    reason: str
    attempt: int
    delay: float


@dataclass(frozen=True)
class Gap:
    """The audio from `start` to `end` is not kept any more and cannot be sent again; silence stands in its place."""

    start: float
    end: float


Event = Partial | Final | Failed | Connected | Queued | Lost | Gap
