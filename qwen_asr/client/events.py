"""The events of a `SpeechClient`. Positions are seconds since the first sample that the client sent.

Unlike the events of `qwen_asr.live`, whose positions are samples. Positions and utterance numbers (from 0) continue
across connections and servers. An utterance has any number of `Partial` events, then one `Final` or `Failed`. After a
server lost its state, the partials of the current utterance may start again. An `Aligned` may follow its `Final` at any
distance.
"""

from __future__ import annotations

from dataclasses import dataclass


class _Range:
    """Short names for the fields of an event about a range of the audio."""

    start_seconds: float
    end_seconds: float

    @property
    def start(self) -> float:
        """`start_seconds`."""
        return self.start_seconds

    @property
    def end(self) -> float:
        """`end_seconds`."""
        return self.end_seconds


@dataclass(frozen=True)
class Partial(_Range):
    """The text so far of the current utterance; `text[:stable]` is settled. `lag`: seconds of speech without text."""

    utterance: int
    start_seconds: float
    end_seconds: float
    language: str
    text: str
    stable: int
    lag: float
    warning: str = ""


@dataclass(frozen=True)
class Word(_Range):
    """A word of a text, or a character of a script without spaces, with the punctuation that touches it."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Final(_Range):
    """The text of a complete utterance.

    `words` are those of the text, if the client asks for them and the server knows their times.
    """

    utterance: int
    start_seconds: float
    end_seconds: float
    language: str
    text: str
    warning: str = ""
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Aligned:
    """The `words` of a `Final` that came without them, because finding their times takes the server long."""

    utterance: int
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Failed(_Range):
    """An utterance that the server could not transcribe; the session continues. `message` is a sentence."""

    utterance: int
    start_seconds: float
    end_seconds: float
    message: str


@dataclass(frozen=True)
class Connected:
    """There is a session: the previous one if `resumed`, otherwise a new one with audio from `start_seconds` on."""

    session_id: str
    resumed: bool
    start_seconds: float
    warning: str = ""

    @property
    def start(self) -> float:
        """`start_seconds`."""
        return self.start_seconds


@dataclass(frozen=True)
class Queued:
    """The server is full. `position` 1 is next."""

    position: int


@dataclass(frozen=True)
class Loading:
    """The server is loading the model that the client has named. `message` is the progress, as a sentence."""

    message: str


@dataclass(frozen=True)
class Lost:
    """There is no connection. `reason` is a sentence. Attempt number `attempt` follows after `delay` seconds."""

    reason: str
    attempt: int
    delay: float


@dataclass(frozen=True)
class Gap(_Range):
    """This range of audio is no longer in the replay buffer and cannot be sent again; silence is sent instead."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Warned:
    """The server found something wrong with the stream, which goes on. `code` is a name, `message` a sentence."""

    code: str
    message: str


Event = Partial | Final | Aligned | Failed | Connected | Queued | Loading | Lost | Gap | Warned
