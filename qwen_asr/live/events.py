"""What a session tells its listener. Positions are samples at 16 kHz since the session began, ranges are [start, end).

For each utterance there are any number of `Partial`, then exactly one `Final` or `Failed`. Utterances come in order and
never mix. `lag` is `Session.lag` (seconds) at the moment of the event. Each entry of `warnings` is one sentence behind
a prefix that programs may test: `repetition:`, `tokens:`, `silence:`, `context:`, `language:` or `step:`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partial:
    """The text so far of an utterance that still runs.

    `text[:stable]` is settled: it stays as it is in every later `Partial` of this utterance. The rest is tentative.
    `end` is where the audio behind this text ends; the utterance may already be longer.
    """

    utterance: int
    start: int
    end: int
    language: str | None
    text: str
    stable: int
    lag: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Final:
    """The text of a whole utterance, empty where nothing was said.

    `corrected`: it does not begin with what the partials had settled.
    """

    utterance: int
    start: int
    end: int
    language: str | None
    text: str
    lag: float
    corrected: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """An utterance that could not be transcribed. `message` is a sentence for people; the session goes on."""

    utterance: int
    start: int
    end: int
    message: str
    lag: float


Event = Partial | Final | Failed
