"""The events of a session: `Partial`, `Final`, `Failed` and `Aligned`.

Each utterance has any number of `Partial` events, then exactly one `Final` or `Failed`. These of an utterance come
before those of the next. An `Aligned` may follow its `Final` at any distance. `start` and `end` are samples at 16 kHz
since the session began; `end` is exclusive. `lag` is `Session.lag` (seconds) at the time of the event. Each of the
`warnings` is a sentence after a prefix that programs can test for: `repetition:`, `tokens:`, `silence:`, `marker:`,
`context:`, `language:`, `step:` or `words:`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from qwen_asr.engine.words import Word


@dataclass(frozen=True)
class Partial:
    """The text so far of an utterance that has not ended.

    `text[:stable]` is settled: every later `Partial` of this utterance starts with it. The rest is tentative.
    The text covers the audio up to `end`; the utterance may already be longer.
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
class Token:
    """A token of a text. `data`: its UTF-8 bytes, which may be part of a character. `log_probability`: natural, ≤ 0."""

    id: int
    data: bytes
    log_probability: float


@dataclass(frozen=True)
class Final:
    """The text of a whole utterance, empty if it contains no words.

    `start` and `end` are samples at 16 kHz; `qwen_asr.client.Final` has `start_seconds` and `end_seconds` instead.
    `corrected` is true if `text` does not start with the settled text of the partials. `tokens` are those of the text,
    if the session is `scored`: their bytes, joined, are `text`. They are empty where no tokens spell the text, because
    a guard has changed it. `prompt_tokens` are those that the model read for the utterance, its audio included, and
    `written_tokens` those that it wrote, the language included; of the last decoding, if there were several.

    `words` are those of the text with their times within the session, if the session asks for them and they are known.
    """

    utterance: int
    start: int
    end: int
    language: str | None
    text: str
    lag: float
    corrected: bool = False
    warnings: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    prompt_tokens: int = 0
    written_tokens: int = 0
    words: tuple[Word, ...] = ()

    @property
    def avg_logprob(self) -> float | None:
        """The mean log-probability of the tokens, or None without tokens. Its exponential is a confidence, 0 to 1."""
        return fmean(token.log_probability for token in self.tokens) if self.tokens else None


@dataclass(frozen=True)
class Failed:
    """An utterance that could not be transcribed. `message` is a sentence for the user. The session continues."""

    utterance: int
    start: int
    end: int
    message: str
    lag: float


@dataclass(frozen=True)
class Aligned:
    """The `words` of a `Final` that was sent without them, because finding their times takes long on this device."""

    utterance: int
    words: tuple[Word, ...]


TextEvent = Partial | Final | Failed
"""What is told of the text of an utterance."""
Event = TextEvent | Aligned
"""There is an `Aligned` only in sessions with `SessionOptions.words`, and only if the words take long."""
